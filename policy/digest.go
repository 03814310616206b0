package policy

import (
	"crypto"
	_ "crypto/sha256" // the hash of crypto.SHA256
	_ "crypto/sha512" // the hash of crypto.SHA384
	"encoding/binary"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// digest is a policyDigest in the making (TPM 2.0 Part 1, "Enhanced Authorization").
type digest struct {
	hash  crypto.Hash
	value []byte
}

// newDigest is the policyDigest of a session that just started.
func newDigest(alg tpm2.TPMIAlgHash) (*digest, error) {
	h, err := policyHash(alg)
	if err != nil {
		return nil, err
	}
	return &digest{hash: h, value: make([]byte, h.Size())}, nil
}

// extend is policyDigest := H(policyDigest || command code || arguments).
func (d *digest) extend(cc tpm2.TPMCC, arguments ...[]byte) {
	h := d.hash.New()
	h.Write(d.value)
	h.Write(binary.BigEndian.AppendUint32(nil, uint32(cc)))
	for _, a := range arguments {
		h.Write(a)
	}
	d.value = h.Sum(nil)
}

// extendRef is the second half of PolicyUpdate: policyDigest := H(policyDigest || policyRef), an empty one included.
func (d *digest) extendRef(ref []byte) { d.value = d.hashOf(d.value, ref) }

// hashOf is a hash over a command's arguments, which some commands extend in their place.
func (d *digest) hashOf(parts ...[]byte) []byte {
	h := d.hash.New()
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)
}

// reset is policyDigest := 0, as commands do that stand for all before them.
func (d *digest) reset() { d.value = make([]byte, d.hash.Size()) }

func (d *digest) clone() *digest { return &digest{hash: d.hash, value: d.value} }

func policyHash(alg tpm2.TPMIAlgHash) (crypto.Hash, error) {
	switch alg {
	case tpm2.TPMAlgSHA256:
		return crypto.SHA256, nil
	case tpm2.TPMAlgSHA384:
		return crypto.SHA384, nil
	}
	return 0, fmt.Errorf("%w: a policy's hash is sha256 or sha384, not %s", ErrInvalid, BankName(alg))
}
