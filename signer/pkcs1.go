package signer

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2"

	"github.com/tpm2-p11/tpm2-p11/internal/client"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// planPKCS1 is an RSASSA-PKCS1-v1_5 signature (RFC 8017, section 8.2).
func planPKCS1(l limits, public *rsa.PublicKey, digest []byte, h crypto.Hash) (task, error) {
	if h == 0 {
		info, ok := parseDigestInfo(digest)
		if !ok {
			return planEncoded(l, public, digest)
		}
		if info.hash == crypto.SHA1 { // the caller's own choice, and what old protocols and pkcs11-tool --test sign
			return planHashed(l, info.hash, info.digest, digest)
		}
		h, digest = info.hash, info.digest
	}
	if err := checkDigest(h, digest); err != nil {
		return task{}, err
	}
	return planHashed(l, h, digest, encodeDigestInfo(h, digest))
}

// planHashed leaves a DigestInfo and its padding to the TPM.
func planHashed(l limits, h crypto.Hash, digest, info []byte) (task, error) {
	if err := l.allowSign(tpm2.TPMAlgRSASSA, h); err != nil {
		return task{}, err
	}
	return signInTPM(provider.RSASSA, h, digest, client.SignPKCS1(info)), nil
}

// planEncoded signs content that is no DigestInfo of a known hash, which no TPM
// does itself: it is padded here.
func planEncoded(l limits, public *rsa.PublicKey, content []byte) (task, error) {
	if err := l.allowSign(tpm2.TPMAlgRSASSA, 0); err != nil {
		return task{}, err
	}
	if !l.Raw() {
		return task{}, fmt.Errorf("%w: the content is not the DigestInfo of SHA-256, SHA-384 or SHA-512; anything else "+
			"is padded outside the TPM and needs its raw RSA operation, which it grants only to keys that may also decrypt: "+
			"sign a digest, or use a key made with `--use sign,decrypt`", ErrWrongUse)
	}
	block, err := emsaPKCS1(content, public.Size())
	if err != nil {
		return task{}, err
	}
	return signBlock(func() []byte { return block }, func(signature []byte) error {
		return rsa.VerifyPKCS1v15(public, 0, content, signature)
	}, client.SignPKCS1(content)), nil
}

// emsaPKCS1 is EMSA-PKCS1-v1_5 (RFC 8017, section 9.2) from its step 3 on: 00 01 FF…FF 00 content, k bytes.
func emsaPKCS1(content []byte, k int) ([]byte, error) {
	const overhead = 11
	if len(content) > k-overhead {
		return nil, fmt.Errorf("%w: at most %d bytes fit, not %d", ErrLength, k-overhead, len(content))
	}
	block := bytes.Repeat([]byte{0xff}, k)
	block[0], block[1] = 0, 1
	block[k-len(content)-1] = 0
	copy(block[k-len(content):], content)
	return block, nil
}

type digestInfo struct {
	hash   crypto.Hash
	digest []byte
}

// digestInfoPrefixes are the DER of DigestInfo up to the digest (RFC 8017, section 9.2, note 1). MD5 is in it
// to be recognised and refused, with the NULL parameter and without.
var digestInfoPrefixes = []struct {
	hash   crypto.Hash
	prefix []byte
}{
	{crypto.SHA256, []byte("\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20")},
	{crypto.SHA384, []byte("\x30\x41\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x02\x05\x00\x04\x30")},
	{crypto.SHA512, []byte("\x30\x51\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x03\x05\x00\x04\x40")},
	{crypto.SHA1, []byte("\x30\x21\x30\x09\x06\x05\x2b\x0e\x03\x02\x1a\x05\x00\x04\x14")},
	{crypto.SHA1, []byte("\x30\x1f\x30\x07\x06\x05\x2b\x0e\x03\x02\x1a\x04\x14")},
	{crypto.MD5, []byte("\x30\x20\x30\x0c\x06\x08\x2a\x86\x48\x86\xf7\x0d\x02\x05\x05\x00\x04\x10")},
	{crypto.MD5, []byte("\x30\x1e\x30\x0a\x06\x08\x2a\x86\x48\x86\xf7\x0d\x02\x05\x04\x10")},
}

// encodeDigestInfo is the DigestInfo of a hash that is signed with.
func encodeDigestInfo(h crypto.Hash, digest []byte) []byte {
	for _, p := range digestInfoPrefixes {
		if p.hash == h {
			return append(slices.Clone(p.prefix), digest...)
		}
	}
	return nil
}

func parseDigestInfo(b []byte) (digestInfo, bool) {
	for _, p := range digestInfoPrefixes {
		if digest, ok := bytes.CutPrefix(b, p.prefix); ok && len(digest) == p.hash.Size() {
			return digestInfo{p.hash, digest}, true
		}
	}
	return digestInfo{}, false
}
