package provider_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"encoding/binary"
	"errors"
	"math/big"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/internal/faulttpm"
	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

var decryptKey = provider.Template{Type: provider.RSA2048, Use: provider.Use{Decrypt: true}}

func rsaPublic(t *testing.T, o provider.Object) *rsa.PublicKey {
	t.Helper()
	k, err := o.Public.Key()
	if err != nil {
		t.Fatal(err)
	}
	return k.(*rsa.PublicKey)
}

func TestOAEP(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	key := b.persisted(t, b.key(t, decryptKey, ""))
	public := rsaPublic(t, key)
	message := []byte("a message that nobody may read")
	for name, label := range map[string][]byte{
		"no label":                 nil,
		"a label of the TPM's own": []byte("label\x00"),
		"a label without NUL":      []byte("label"),
		"a label with two NULs":    []byte("la\x00bel\x00"),
		"a long label":             append(bytes.Repeat([]byte("label"), 50), 0),
	} {
		for _, h := range []crypto.Hash{crypto.SHA1, crypto.SHA256, crypto.SHA384, crypto.SHA512} {
			for _, message := range [][]byte{message, {}, make([]byte, public.Size()-2*h.Size()-2)} {
				b.wire.Reset()
				ciphertext, err := rsa.EncryptOAEP(h.New(), rand.Reader, public, message, label)
				if err != nil {
					t.Fatal(err)
				}
				plain, err := b.DecryptOAEP(t.Context(), key, provider.Auth{}, h, label, ciphertext)
				if err != nil {
					t.Errorf("%s, %v: %v", name, h, err)
					continue
				}
				if !bytes.Equal(plain.Bytes(), message) {
					t.Errorf("%s, %v: got %q", name, h, plain.Bytes())
				}
				if len(message) > 4 && b.wire.Saw(message) {
					t.Errorf("%s, %v: the plaintext went over the wire", name, h)
				}
			}
		}
	}
}

// TPMs differ in how they refuse a ciphertext; a caller cannot tell one way from another.
func TestEveryAnswerToABadCiphertextIsTheSameError(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	key := b.persisted(t, b.key(t, decryptKey, ""))
	for _, rc := range []uint32{0x101, 0x84, 0x95, 0x1C4, 0x1D5} {
		b.wire.Inject(at(tpm2.TPMCCRSADecrypt, 1, faulttpm.Answer(rc)))
		if _, err := b.DecryptOAEP(t.Context(), key, provider.Auth{}, crypto.SHA256, nil, make([]byte, 256)); err != provider.ErrDecrypt {
			t.Errorf("%#x: %v", rc, err)
		}
	}
	b.wire.Inject(at(tpm2.TPMCCRSADecrypt, 1, faulttpm.Answer(0x2C4))) // of the scheme
	if _, err := b.DecryptOAEP(t.Context(), key, provider.Auth{}, crypto.SHA256, nil, make([]byte, 256)); errors.Is(err, provider.ErrDecrypt) || err == nil {
		t.Errorf("a refused scheme: %v", err)
	}
}

func TestEveryBadCiphertextIsTheSameError(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	key := b.persisted(t, b.key(t, decryptKey, ""))
	public := rsaPublic(t, key)
	for _, label := range [][]byte{nil, []byte("label")} {
		good, err := rsa.EncryptOAEP(crypto.SHA256.New(), rand.Reader, public, []byte("message"), label)
		if err != nil {
			t.Fatal(err)
		}
		otherLabel, err := rsa.EncryptOAEP(crypto.SHA256.New(), rand.Reader, public, []byte("message"), []byte("another"))
		if err != nil {
			t.Fatal(err)
		}
		flipped := bytes.Clone(good)
		flipped[100] ^= 1
		pkcs1, err := rsa.EncryptPKCS1v15(rand.Reader, public, []byte("message")) //nolint:staticcheck // the wrong padding is the point
		if err != nil {
			t.Fatal(err)
		}
		for name, bad := range map[string][]byte{
			"a flipped bit":        flipped,
			"another label":        otherLabel,
			"PKCS #1 v1.5 padding": pkcs1,
			"all zeros":            make([]byte, 256),
			"one":                  big.NewInt(1).FillBytes(make([]byte, 256)),
			"too short":            good[1:],
			"too long":             append([]byte{0}, good...),
			"nothing":              nil,
			"N itself":             public.N.Bytes(),
			"more than N":          bytes.Repeat([]byte{0xFF}, 256),
		} {
			_, err := b.DecryptOAEP(t.Context(), key, provider.Auth{Label: "web"}, crypto.SHA256, label, bad)
			if err != provider.ErrDecrypt {
				t.Errorf("%s with label %q: %v", name, label, err)
			}
		}
		if plain, err := b.DecryptOAEP(t.Context(), key, provider.Auth{}, crypto.SHA256, label, good); err != nil || string(plain.Bytes()) != "message" {
			t.Errorf("the TPM does not decrypt any more after bad ciphertexts: %v", err)
		}
	}
}

// TPM_RC_FAILURE is the answer to a bad ciphertext, and that of a TPM in failure mode, which decrypts nothing any more.
func TestAFailedTPMIsNotABadCiphertext(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	key := b.persisted(t, b.key(t, decryptKey, ""))
	good, err := rsa.EncryptOAEP(crypto.SHA256.New(), rand.Reader, rsaPublic(t, key), []byte("message"), nil)
	if err != nil {
		t.Fatal(err)
	}
	decrypt := func(ciphertext []byte) error {
		_, err := b.DecryptOAEP(t.Context(), key, provider.Auth{}, crypto.SHA256, nil, ciphertext)
		return err
	}
	if err := decrypt(good); err != nil { // and the session is kept
		t.Fatal(err)
	}
	testResult := func(rc uint32) faulttpm.Fault {
		return faulttpm.Replace(binary.BigEndian.AppendUint32([]byte{0x80, 0x01, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0}, rc))
	}
	for name, failed := range map[string]faulttpm.Fault{
		"it answers nothing else": faulttpm.When{}.Do(faulttpm.Answer(0x101)),
		"its self-test says so": func(ctx context.Context, command []byte, send func() ([]byte, error)) ([]byte, error) {
			if faulttpm.Code(command) == tpm2.TPMCCGetTestResult {
				return testResult(0x101)(ctx, command, send)
			}
			return faulttpm.ResponseCode(0x101), nil
		},
	} {
		b.wire.Inject(failed)
		if err := decrypt(good); !errors.Is(err, provider.ErrFailure) || errors.Is(err, provider.ErrDecrypt) {
			t.Errorf("%s: %v", name, err)
		}
		b.wire.Inject(nil)
		if err := decrypt(good); err != nil {
			t.Errorf("%s, and is reset: %v", name, err)
		}
	}
	b.wire.Inject(at(tpm2.TPMCCGetTestResult, -1, testResult(0x153))) // TPM_RC_NEEDS_TEST
	if err := decrypt(bytes.Repeat([]byte{0x55}, 256)); err != provider.ErrDecrypt {
		t.Errorf("a bad ciphertext for a TPM that is well: %v", err)
	}
}

func TestDecryptionByPINAndPolicy(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	pcrs := b.bound(t, currentPCRs(7))
	both := b.bound(t, currentPCRs(7), policy.PIN{})
	for _, tt := range []struct {
		name      string
		policy    policy.Policy
		authValue string
		auth      provider.Auth
	}{
		{"PIN", policy.Policy{}, "12345678", provider.Auth{Value: pin("12345678")}},
		{"policy", pcrs, "", provider.Auth{Policy: pcrs}},
		{"policy, auth value unknown", pcrs, "12345678", provider.Auth{Policy: pcrs}},
		{"policy with PIN", both, "12345678", provider.Auth{Policy: both, Value: pin("12345678")}},
	} {
		tmpl := decryptKey
		if !tt.policy.IsZero() {
			tmpl.AuthPolicy = digestOf(t, tt.policy)
		}
		key := b.key(t, tmpl, tt.authValue)
		ciphertext, err := rsa.EncryptOAEP(crypto.SHA256.New(), rand.Reader, rsaPublic(t, key), []byte("a secret message"), nil)
		if err != nil {
			t.Fatal(err)
		}
		plain, err := b.DecryptOAEP(t.Context(), key, tt.auth, crypto.SHA256, nil, ciphertext)
		if err != nil || string(plain.Bytes()) != "a secret message" {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	if b.wire.Saw([]byte("a secret message")) || b.wire.Saw([]byte("12345678")) {
		t.Error("the plaintext or the PIN went over the wire")
	}
}

func TestRawRSA(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	key := b.key(t, decryptKey, "")
	public := rsaPublic(t, key)
	message := make([]byte, 256)
	message[255] = 2 // leading zeros are kept
	c := new(big.Int).Exp(big.NewInt(2), big.NewInt(int64(public.E)), public.N)
	plain, err := b.RawRSA(t.Context(), key, provider.Auth{}, c.FillBytes(make([]byte, 256)))
	if err != nil || !bytes.Equal(plain.Bytes(), message) {
		t.Errorf("got %x, %v", plain.Bytes(), err)
	}
	b.wire.Reset()
	for _, bad := range [][]byte{nil, c.Bytes()[1:], append([]byte{0}, message...), public.N.Bytes(), bytes.Repeat([]byte{0xFF}, 256)} {
		if _, err := b.RawRSA(t.Context(), key, provider.Auth{}, bad); err != provider.ErrDecrypt {
			t.Errorf("%d bytes: %v", len(bad), err)
		}
	}
	if n := len(b.wire.Exchanges()); n != 0 {
		t.Errorf("%d commands were sent", n)
	}
}

func TestDecryptRefusesKeysThatAreNotForIt(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	signOnly := b.key(t, provider.Template{Type: provider.RSA2048, Use: provider.Use{Sign: true}}, "")
	ec := b.key(t, provider.Template{Type: provider.P256, Use: provider.Use{Decrypt: true}}, "")
	area := signOnly.Public.Area()
	area.ObjectAttributes.SignEncrypt, area.ObjectAttributes.Decrypt = false, true
	area.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{
		KeyBits: 2048,
		Scheme: tpm2.TPMTRSAScheme{
			Scheme:  tpm2.TPMAlgOAEP,
			Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgOAEP, &tpm2.TPMSEncSchemeOAEP{HashAlg: tpm2.TPMAlgSHA256}),
		},
	})
	scheme, err := provider.ParsePublic(tpm2.Marshal(area))
	if err != nil {
		t.Fatal(err)
	}
	ownScheme := provider.Object{Public: scheme, Private: signOnly.Private}
	b.wire.Reset()
	for _, tt := range []struct {
		name, text string
		key        provider.Object
		hash       crypto.Hash
		label      string
	}{
		{"a signing key", "may not decrypt", signOnly, crypto.SHA256, ""},
		{"an EC key", "only RSA keys", ec, crypto.SHA256, ""},
		{"a scheme of its own with another hash", "scheme of its own", ownScheme, crypto.SHA1, ""},
		{"a scheme of its own and a label that needs the raw operation", "scheme of its own", ownScheme, crypto.SHA256, "label"},
	} {
		_, err := b.DecryptOAEP(t.Context(), tt.key, provider.Auth{Label: "web"}, tt.hash, []byte(tt.label), make([]byte, 256))
		if !errors.Is(err, provider.ErrWrongUse) || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("OAEP with %s: %v", tt.name, err)
		}
		if _, err = b.RawRSA(t.Context(), tt.key, provider.Auth{}, make([]byte, 256)); !errors.Is(err, provider.ErrWrongUse) {
			t.Errorf("raw RSA with %s: %v", tt.name, err)
		}
	}
	if n := len(b.wire.Exchanges()); n != 0 {
		t.Errorf("%d commands were sent", n)
	}
}
