package p11

import (
	"context"
	"time"

	"github.com/tpm2-p11/tpm2-p11/provider"
)

// keySizes are the largest keys that a TPM makes, in bits.
type keySizes struct{ rsa, ec uint64 }

// keyTypes are the keys that can be made, larger ones later.
var keyTypes = []struct {
	name provider.KeyType
	kind uint64
	bits uint64
}{
	{provider.RSA2048, CKK_RSA, 2048},
	{provider.RSA3072, CKK_RSA, 3072},
	{provider.RSA4096, CKK_RSA, 4096},
	{provider.P256, CKK_EC, 256},
	{provider.P384, CKK_EC, 384},
	{provider.P521, CKK_EC, 521},
}

// smallest is what every TPM 2.0 makes.
var smallest = keySizes{rsa: 2048, ec: 256}

func rsaSizes(k keySizes) (least, most uint64) { return smallest.rsa, k.rsa }
func ecSizes(k keySizes) (least, most uint64)  { return smallest.ec, k.ec }

// keySizesPatience is how long a TPM has for telling its key sizes, and for how long one that did not is not asked again:
// applications ask for every mechanism in turn.
const keySizesPatience = 10 * time.Second

// keySizes asks a slot's TPM once. As long as it does not answer, its keys are taken to be the smallest.
func (l *library) keySizes(s *slot) keySizes {
	l.mu.Lock()
	known, silent := s.keys, s.keysSilent
	l.mu.Unlock()
	if known != nil {
		return *known
	}
	if time.Since(silent) < keySizesPatience {
		return smallest
	}
	ctx, cancel := context.WithTimeout(l.ctx, keySizesPatience)
	defer cancel()
	sizes := smallest
	for _, k := range keyTypes {
		ok, err := s.token.TPM().Supports(ctx, k.name)
		if err != nil {
			l.log.Warn("the TPM's key sizes are not known", "reason", err.Error())
			l.mu.Lock()
			s.keysSilent = time.Now()
			l.mu.Unlock()
			return smallest
		}
		if ok && k.kind == CKK_RSA {
			sizes.rsa = max(sizes.rsa, k.bits)
		} else if ok {
			sizes.ec = max(sizes.ec, k.bits)
		}
	}
	l.mu.Lock()
	s.keys = &sizes
	l.mu.Unlock()
	return sizes
}

// GetMechanismList is C_GetMechanismList.
func (m *Module) GetMechanismList(id SlotID) ([]MechanismType, error) {
	l, err := m.library()
	if err != nil {
		return nil, err
	}
	if _, err := l.slot(id); err != nil {
		return nil, err
	}
	ids := make([]MechanismType, len(l.mechanisms))
	for i := range l.mechanisms {
		ids[i] = l.mechanisms[i].id
	}
	return ids, nil
}

// messageFlags tell that what signs and verifies does it for many messages, too.
func (m *mechanism) messageFlags() (flags Flags) {
	if m.flags&CKF_SIGN != 0 {
		flags |= CKF_MESSAGE_SIGN | CKF_MULTI_MESSAGE
	}
	if m.flags&CKF_VERIFY != 0 {
		flags |= CKF_MESSAGE_VERIFY | CKF_MULTI_MESSAGE
	}
	return flags
}

// GetMechanismInfo is C_GetMechanismInfo. Key sizes are bits; the largest is what the slot's TPM says.
func (m *Module) GetMechanismInfo(id SlotID, mechanismType MechanismType) (MechanismInfo, error) {
	l, err := m.library()
	if err != nil {
		return MechanismInfo{}, err
	}
	s, err := l.slot(id)
	if err != nil {
		return MechanismInfo{}, err
	}
	row, err := l.mechanism(mechanismType, 0)
	if err != nil {
		return MechanismInfo{}, err
	}
	info := MechanismInfo{Flags: row.flags | row.messageFlags()}
	if row.sizes != nil {
		info.MinKeySize, info.MaxKeySize = row.sizes(l.keySizes(s))
	}
	return info, nil
}
