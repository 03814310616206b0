package signer

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	_ "crypto/sha1"
	"errors"
	"strings"
	"testing"

	"github.com/tpm2-p11/tpm2-p11/keystore"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

func TestDecrypt(t *testing.T) {
	t.Parallel()
	s := newStore(t, "")
	s.create(keystore.KeySpec{Label: "vault", Type: provider.RSA2048, Use: provider.Use{Decrypt: true}})
	k := s.open("vault")
	public := k.Public().(*rsa.PublicKey)
	encrypt := func(h crypto.Hash, label, plaintext []byte) []byte {
		c, err := rsa.EncryptOAEP(h.New(), rand.Reader, public, plaintext, label)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}

	for _, h := range append(hashes, crypto.SHA1) {
		for _, label := range []string{"", "label", "label\x00"} {
			for _, plaintext := range []string{"", "attack at dawn"} {
				for _, mgf := range []crypto.Hash{0, h} {
					got, err := k.Decrypt(nil, encrypt(h, []byte(label), []byte(plaintext)), &rsa.OAEPOptions{Hash: h, MGFHash: mgf, Label: []byte(label)})
					if err != nil || string(got) != plaintext {
						t.Errorf("%v, label %q, %q: got %q, %v", h, label, plaintext, got, err)
					}
				}
			}
		}
	}

	sha256 := &rsa.OAEPOptions{Hash: crypto.SHA256}
	good := encrypt(crypto.SHA256, nil, []byte("attack at dawn"))
	bad := append([]byte(nil), good...)
	bad[100] ^= 1
	for _, c := range []struct {
		name       string
		ciphertext []byte
		opts       crypto.DecrypterOpts
		is         error
		says       string
	}{
		{"a changed ciphertext", bad, sha256, ErrDecrypt, ""},
		{"another label", good, &rsa.OAEPOptions{Hash: crypto.SHA256, Label: []byte("other")}, ErrDecrypt, ""},
		{"another hash", good, &rsa.OAEPOptions{Hash: crypto.SHA384}, ErrDecrypt, ""},
		{"a ciphertext too short", good[1:], sha256, ErrLength, "256 bytes, not 255"},
		{"a ciphertext too long", append([]byte{0}, good...), sha256, ErrLength, "256 bytes, not 257"},
		{"no options", good, nil, ErrAlgorithm, "OAEP"},
		{"PKCS #1 v1.5", good, &rsa.PKCS1v15DecryptOptions{}, ErrAlgorithm, "OAEP"},
		{"no OAEP options", good, (*rsa.OAEPOptions)(nil), ErrAlgorithm, "OAEP"},
		{"options of another kind", good, 7, ErrAlgorithm, "OAEP"},
		{"OAEP without a hash", good, &rsa.OAEPOptions{}, ErrAlgorithm, "SHA-256"},
		{"two hashes", good, &rsa.OAEPOptions{Hash: crypto.SHA256, MGFHash: crypto.SHA1}, ErrAlgorithm, "one hash"},
	} {
		got, err := k.Decrypt(nil, c.ciphertext, c.opts)
		switch {
		case err == nil || got != nil:
			t.Errorf("%s was decrypted", c.name)
		case !errors.Is(err, c.is):
			t.Errorf("%s: %v is no %v", c.name, err, c.is)
		case !strings.Contains(err.Error(), c.says):
			t.Errorf("%s: %q does not say %q", c.name, err, c.says)
		}
	}
	if _, err := k.Sign(nil, make([]byte, 32), crypto.SHA256); !errors.Is(err, ErrWrongUse) {
		t.Errorf("signing with a decryption key: %v", err)
	}
	if _, err := k.Sign(nil, []byte("x"), crypto.Hash(0)); !errors.Is(err, ErrWrongUse) {
		t.Errorf("signing raw with a decryption key: %v", err)
	}
}
