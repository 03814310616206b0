package p11

import (
	"bytes"
	"slices"

	"github.com/tpm2-p11/tpm2-p11/internal/secret"
	"github.com/tpm2-p11/tpm2-p11/keystore"
)

// storedSecret is the object of a secret or of data that the store keeps.
func storedSecret(serial string, e keystore.Entry) *object {
	class := CKO_SECRET_KEY
	if e.Secret.Kind == keystore.SecretData {
		class = CKO_DATA
	}
	a := secretAttributes(class, true, e.Label, e.CKAID, *e.Secret)
	identity := []byte(e.Object.Public.Name())
	if plain, public := e.PublicData(); public {
		a[CKA_VALUE], identity = plain, []byte(e.ID)
	} else {
		a[CKA_TPM2_NAME], a[CKA_TPM2_POLICY] = identity, policyText(e)
	}
	handle, unique := tokenHandle(serial, class, identity)
	a[CKA_UNIQUE_ID] = []byte(unique)
	return &object{handle: handle, class: class, private: e.Secret.Private, attributes: a, entry: e, info: e.Secret}
}

// policyText is the value of CKA_TPM2_POLICY.
func policyText(e keystore.Entry) []byte {
	switch {
	case e.PolicyErr != nil:
		return []byte("unknown")
	case !e.Policy.IsZero() && !e.PolicyIgnored():
		return []byte(e.Policy.String())
	}
	return []byte{}
}

// sessionSecret is a session object, which holds a copy of the value.
func sessionSecret(class ObjectClass, label string, id []byte, info keystore.SecretInfo, value *secret.Bytes) *object {
	a := secretAttributes(class, false, label, id, info)
	return &object{class: class, private: info.Private, attributes: a, info: &info, value: value.Clone()}
}

// secretAttributes are those of a secret key (PKCS #11 v3.1, section 4.10) or a data object (section 4.5), without the value.
func secretAttributes(class ObjectClass, token bool, label string, id []byte, info keystore.SecretInfo) attributes {
	a := common(class, token, info.Private, label, append([]byte{}, id...))
	a[CKA_COPYABLE] = boolean(true)
	if class == CKO_DATA {
		a[CKA_APPLICATION], a[CKA_OBJECT_ID] = []byte(info.Application), append([]byte{}, info.ObjectID...)
		return a
	}
	for _, known := range secretKinds {
		if known.name == info.Kind {
			a[CKA_KEY_TYPE] = ulong(known.kind)
		}
	}
	a[CKA_VALUE_LEN] = ulong(uint64(info.Length))
	for _, known := range secretUses {
		a[known.attribute] = boolean(info.Allows(known.use))
	}
	a.setBools(false, CKA_DERIVE, CKA_TRUSTED)
	a[CKA_START_DATE], a[CKA_END_DATE] = []byte{}, []byte{}
	a[CKA_SENSITIVE], a[CKA_EXTRACTABLE] = boolean(info.Sensitive), boolean(info.Extractable)
	a[CKA_ALWAYS_SENSITIVE], a[CKA_NEVER_EXTRACTABLE] = boolean(info.AlwaysSensitive), boolean(info.NeverExtractable)
	a[CKA_WRAP_WITH_TRUSTED] = boolean(info.WrapWithTrusted)
	a[CKA_CHECK_VALUE] = append([]byte{}, info.CheckValue...)
	a[CKA_LOCAL], a[CKA_KEY_GEN_MECHANISM] = boolean(info.Mechanism != 0), ulong(info.Mechanism)
	if info.Mechanism == 0 {
		a[CKA_KEY_GEN_MECHANISM] = ulong(CK_UNAVAILABLE_INFORMATION)
	}
	var usable []MechanismType
	for i := range mechanisms {
		if m := &mechanisms[i]; m.takes(a) && allowed(info, m.id) && m.serves(info) {
			usable = append(usable, m.id)
		}
	}
	a[CKA_ALLOWED_MECHANISMS] = mechanismList(usable)
	if len(info.KMSCiphertext) > 0 {
		a[CKA_TPM2_KMS_CIPHERTEXT] = info.KMSCiphertext
	}
	return a
}

// allowed tells whether a secret key's own list has a mechanism.
func allowed(info keystore.SecretInfo, id MechanismType) bool {
	return len(info.Mechanisms) == 0 || slices.Contains(info.Mechanisms, uint64(id))
}

// takes tells whether a mechanism is for keys of a type.
func (m *mechanism) takes(key attributes) bool {
	if m.flags&(CKF_ENCRYPT|CKF_DECRYPT|CKF_SIGN|CKF_VERIFY|CKF_DERIVE|CKF_WRAP|CKF_UNWRAP) == 0 {
		return false
	}
	kind := key[CKA_KEY_TYPE]
	return bytes.Equal(kind, ulong(m.keys)) || slices.ContainsFunc(m.alsoKeys, func(k uint64) bool { return bytes.Equal(kind, ulong(k)) })
}

// serves tells whether a mechanism does something that a secret key is for.
func (m *mechanism) serves(info keystore.SecretInfo) bool {
	for flag, use := range map[Flags]keystore.SecretUse{
		CKF_ENCRYPT: keystore.UseEncrypt, CKF_DECRYPT: keystore.UseDecrypt, CKF_SIGN: keystore.UseSign,
		CKF_VERIFY: keystore.UseVerify, CKF_WRAP: keystore.UseWrap, CKF_UNWRAP: keystore.UseUnwrap,
	} {
		if m.flags&flag != 0 && info.Allows(use) {
			return true
		}
	}
	return false
}

// hides tells an attribute whose value is not among the object's attributes: it has to be opened, if it may be.
func (o *object) hides(t AttributeType) bool {
	_, shown := o.attributes[CKA_VALUE]
	return o.info != nil && t == CKA_VALUE && !shown
}

// guarded tells a secret key whose value is never shown (PKCS #11 v3.1, section 4.10).
func (o *object) guarded() bool {
	return o.class == CKO_SECRET_KEY && (o.info.Sensitive || !o.info.Extractable)
}

// reveal gives what an object hides, for one purpose: CKF_SIGN or CKF_UNWRAP for what these functions and their counterparts do,
// CKF_DECRYPT for all else. What the token keeps is unsealed for it. The copy is the caller's to wipe.
func (s *session) reveal(o *object, purpose Flags) (*secret.Bytes, error) {
	if err := s.mayUse(o, purpose); err != nil {
		return nil, err
	}
	if o.owner != 0 {
		s.lib.mu.Lock()
		defer s.lib.mu.Unlock()
		if s.slot.objects[o.handle] == nil {
			return nil, CKR_OBJECT_HANDLE_INVALID
		}
		return o.value.Clone(), nil
	}
	return s.slot.token.OpenSecret(s.lib.ctx, o.entry)
}

// drop takes a session object away and wipes what it hid; library.mu is held.
func (s *slot) drop(o *object) {
	delete(s.objects, o.handle)
	o.value.Wipe()
}
