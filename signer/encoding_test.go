package signer

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"math/big"
	"testing"
)

// rawPrivate is the RSA operation of a TPM, without one.
func rawPrivate(key *rsa.PrivateKey, block []byte) []byte {
	c := new(big.Int).Exp(new(big.Int).SetBytes(block), key.D, key.N)
	return c.FillBytes(make([]byte, key.Size()))
}

// The encodings made here are judged by the standard library. A modulus of
// 8n+1 bits has a block that is one byte shorter than it.
func TestEncodingsVerify(t *testing.T) {
	t.Parallel()
	for _, bits := range []int{2041, 2047, 2048} {
		key, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512} {
			digest := digestOf(h, "message")
			most := (bits-1+7)/8 - h.Size() - 2
			for _, length := range []int{0, 1, 20, h.Size(), most} {
				salt := make([]byte, length)
				rand.Read(salt)
				signature := rawPrivate(key, emsaPSS(h, digest, salt, bits-1, key.Size()))
				if err := rsa.VerifyPSS(&key.PublicKey, h, digest, signature, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthAuto}); err != nil {
					t.Errorf("%d bits, %v, salt of %d: %v", bits, h, length, err)
				}
			}
		}
		for _, length := range []int{0, 36, key.Size() - 11} {
			content := make([]byte, length)
			rand.Read(content)
			block, err := emsaPKCS1(content, key.Size())
			if err != nil {
				t.Fatal(err)
			}
			if err := rsa.VerifyPKCS1v15(&key.PublicKey, 0, content, rawPrivate(key, block)); err != nil {
				t.Errorf("%d bits, %d bytes: %v", bits, length, err)
			}
		}
		if _, err := emsaPKCS1(make([]byte, key.Size()-10), key.Size()); !errors.Is(err, ErrLength) {
			t.Errorf("content that does not fit: %v", err)
		}
	}
}

func TestParseDigestInfo(t *testing.T) {
	t.Parallel()
	type algorithm struct {
		OID  asn1.ObjectIdentifier
		Null asn1.RawValue `asn1:"optional"`
	}
	der := func(oid asn1.ObjectIdentifier, null bool, digest []byte) []byte {
		a := algorithm{OID: oid}
		if null {
			a.Null = asn1.NullRawValue
		}
		b, err := asn1.Marshal(struct {
			Algorithm algorithm
			Digest    []byte
		}{a, digest})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	sha2 := func(n int) asn1.ObjectIdentifier { return asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, n} }
	sha1, md5 := asn1.ObjectIdentifier{1, 3, 14, 3, 2, 26}, asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 5}
	for _, c := range []struct {
		name string
		in   []byte
		want crypto.Hash // 0: not recognised
	}{
		{"SHA-256", der(sha2(1), true, make([]byte, 32)), crypto.SHA256},
		{"SHA-384", der(sha2(2), true, make([]byte, 48)), crypto.SHA384},
		{"SHA-512", der(sha2(3), true, make([]byte, 64)), crypto.SHA512},
		{"SHA-1", der(sha1, true, make([]byte, 20)), crypto.SHA1},
		{"SHA-1 without parameters", der(sha1, false, make([]byte, 20)), crypto.SHA1},
		{"MD5", der(md5, true, make([]byte, 16)), crypto.MD5},
		{"MD5 without parameters", der(md5, false, make([]byte, 16)), crypto.MD5},
		{"SHA-224", der(sha2(4), true, make([]byte, 28)), 0},
		{"SHA-256 with a short digest", der(sha2(1), true, make([]byte, 31)), 0},
		{"a byte too many", append(der(sha2(1), true, make([]byte, 32)), 0), 0},
		{"TLS 1.1's 36 bytes", make([]byte, 36), 0},
		{"nothing", nil, 0},
	} {
		got, ok := parseDigestInfo(c.in)
		if got.hash != c.want || ok != (c.want != 0) {
			t.Errorf("%s: got %v, %v", c.name, got.hash, ok)
		}
		if ok && len(got.digest) != c.want.Size() {
			t.Errorf("%s: digest of %d bytes", c.name, len(got.digest))
		}
	}
}

// ECDSA takes the leftmost bits of a digest as a number: fitting it to the curve changes nothing of that.
func TestFitDigestKeepsWhatIsSigned(t *testing.T) {
	t.Parallel()
	for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()} {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		for _, length := range []int{28, 32, 47, 48, 64} {
			digest := make([]byte, length)
			rand.Read(digest)
			h, fitted, err := fitDigest(&key.PublicKey, digest)
			if err != nil {
				t.Fatal(err)
			}
			if len(fitted) != h.Size() || h.Size() != min(curve.Params().BitSize/8, crypto.SHA512.Size()) {
				t.Errorf("%s: %d bytes for %v", curve.Params().Name, len(fitted), h)
			}
			signature, err := ecdsa.SignASN1(rand.Reader, key, fitted)
			if err != nil {
				t.Fatal(err)
			}
			if !ecdsa.VerifyASN1(&key.PublicKey, digest, signature) {
				t.Errorf("%s: a digest of %d bytes (%s) became another", curve.Params().Name, length, hex.EncodeToString(digest))
			}
		}
	}
	if _, _, err := fitDigest(&ecdsa.PublicKey{Curve: elliptic.P224()}, make([]byte, 64)); !errors.Is(err, ErrAlgorithm) {
		t.Errorf("P-224: %v", err)
	}
}

// Numbers of any length, also those with zeros in front or a high bit, are written as the standard library writes them.
func TestSignaturesAreDER(t *testing.T) {
	t.Parallel()
	for _, rs := range []string{"", "00000000", "0001" + "00ff", "7f80" + "8000", "0000" + "0100"} {
		b, err := hex.DecodeString(rs)
		if err != nil {
			t.Fatal(err)
		}
		long := make([]byte, 2*66) // P-521: the sequence is longer than 127 bytes
		rand.Read(long)
		for _, rs := range [][]byte{b, long} {
			half := len(rs) / 2
			want, err := asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(rs[:half]), new(big.Int).SetBytes(rs[half:])})
			if err != nil {
				t.Fatal(err)
			}
			if got, err := derSignature(rs); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%x is written %x, %v, want %x", rs, got, err, want)
			}
		}
	}
}
