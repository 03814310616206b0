package p11

import (
	"crypto"
	_ "crypto/sha1"
	_ "crypto/sha256"
	_ "crypto/sha512"
	"hash"
)

// digestMechanisms hash in software.
var digestMechanisms = []mechanism{
	{id: CKM_SHA_1, flags: CKF_DIGEST, digest: crypto.SHA1},
	{id: CKM_SHA224, flags: CKF_DIGEST, digest: crypto.SHA224},
	{id: CKM_SHA256, flags: CKF_DIGEST, digest: crypto.SHA256},
	{id: CKM_SHA384, flags: CKF_DIGEST, digest: crypto.SHA384},
	{id: CKM_SHA512, flags: CKF_DIGEST, digest: crypto.SHA512},
}

// input gathers what comes in one or several parts: hashed on the way, or as it is up to a limit.
type input struct {
	hash  hash.Hash
	raw   []byte
	limit int
	parts bool // an Update function was called: only its Final function ends it
}

func newInput(h crypto.Hash, limit int) input {
	if h == 0 {
		return input{limit: limit}
	}
	return input{hash: h.New()}
}

// inputOf is the input of a signature scheme.
func inputOf(scheme signature) input {
	if keyed, ok := scheme.(interface{ begin() hash.Hash }); ok {
		return input{hash: keyed.begin()}
	}
	return newInput(scheme.hash(), scheme.limit())
}

func (in *input) write(part []byte) error {
	if in.hash != nil {
		in.hash.Write(part)
		return nil
	}
	if len(part) > in.limit-len(in.raw) {
		return CKR_DATA_LEN_RANGE
	}
	in.raw = append(in.raw, part...)
	return nil
}

func (in *input) sum() []byte {
	if in.hash != nil {
		return in.hash.Sum(nil)
	}
	return in.raw
}
