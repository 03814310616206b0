package eventlog

import (
	"bytes"
	"crypto"
	_ "crypto/sha1"   // of older banks
	_ "crypto/sha256" // of banks
	_ "crypto/sha512" // of banks
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// Replay gives the values that the log's events bring PCRs of a bank to: of those PCRs that it has events for. It is an
// error if the bank is not in the log, or an event has no digest for it.
func (l *Log) Replay(bank tpm2.TPMIAlgHash) (map[uint][]byte, error) {
	h, err := hashOf(bank)
	if err != nil {
		return nil, err
	}
	values := map[uint][]byte{}
	for n, e := range l.Events {
		if locality, ok := e.startupLocality(); ok && values[0] == nil {
			values[0] = make([]byte, h.Size())
			values[0][h.Size()-1] = locality
		}
		if !e.Extends() {
			continue
		}
		digest := e.Digests[bank]
		if len(digest) != h.Size() {
			return nil, fmt.Errorf("%w: event %d has no digest for hash 0x%04x", ErrMalformed, n+1, uint16(bank))
		}
		if values[e.PCR] == nil {
			values[e.PCR] = make([]byte, h.Size())
		}
		sum := h.New()
		sum.Write(values[e.PCR])
		sum.Write(digest)
		values[e.PCR] = sum.Sum(nil)
	}
	return values, nil
}

// hashOf is the hash of a bank, if it can be computed here.
func hashOf(bank tpm2.TPMIAlgHash) (crypto.Hash, error) {
	h, err := bank.Hash()
	if err == nil && !h.Available() {
		err = fmt.Errorf("%v is not known here", h)
	}
	if err != nil {
		return 0, fmt.Errorf("hash 0x%04x: %w", uint16(bank), err)
	}
	return h, nil
}

// startupLocality is the locality that the TPM was started from, which PCR 0 begins with.
func (e Event) startupLocality() (byte, bool) {
	locality, ok := bytes.CutPrefix(e.Data, []byte("StartupLocality\x00"))
	if e.Type != noAction || !ok || len(locality) != 1 {
		return 0, false
	}
	return locality[0], true
}

// Verified tells whether the event's digest is the hash of its data, or of the variable's contents in them. For others the data are a mere remark: the digest of an
// image, say, is that of the image and not of its name.
func (e Event) Verified(bank tpm2.TPMIAlgHash) bool {
	h, err := hashOf(bank)
	if err != nil || !e.Extends() {
		return false
	}
	hashed := e.Data
	if _, contents, ok := e.variable(); ok && e.Type.String() == variableBoot {
		hashed = contents
	}
	sum := h.New()
	sum.Write(hashed)
	return bytes.Equal(sum.Sum(nil), e.Digests[bank])
}
