package p11

import (
	"bytes"
	"crypto/aes"
	"crypto/x509"
	"testing"

	"github.com/tpm2-p11/tpm2-p11/internal/keywrap"
)

func (w *world) wrap(s SessionHandle, m Mechanism, with, key ObjectHandle) []byte {
	w.t.Helper()
	query, out := Output{Query: true}, Output{Capacity: 1 << 12}
	w.must(w.WrapKey(s, m, with, key, &query))
	w.must(w.WrapKey(s, m, with, key, &out))
	_, wrapped := out.Result()
	if n, _ := query.Result(); n != uint64(len(wrapped)) {
		w.t.Errorf("mechanism 0x%x: %d bytes, %d were announced", uint64(m.Type), len(wrapped), n)
	}
	return wrapped
}

// Keys of any length are padded as PKCS #7 pads; the deprecated mechanism is the same as its successor.
func TestWrappingWithPKCS7Padding(t *testing.T) {
	t.Parallel()
	w := open(t)
	s := w.session(false)
	kek := bytes.Repeat([]byte{7}, 32)
	block, err := aes.NewCipher(kek)
	w.must(err)
	with := w.aes(s, kek, flag(CKA_WRAP, true), flag(CKA_UNWRAP, true))
	for _, n := range []int{8, 20, 23, 24} {
		value := bytes.Repeat([]byte{0x11}, n)
		key := w.create(s, secretTemplate(CKK_GENERIC_SECRET, Attribute{CKA_VALUE, bytes.Clone(value)}, flag(CKA_EXTRACTABLE, true))...)
		padding := 8 - n%8
		want, err := keywrap.Wrap(block, append(bytes.Clone(value), bytes.Repeat([]byte{byte(padding)}, padding)...))
		w.must(err)
		for _, m := range []Mechanism{mechanismOf(CKM_AES_KEY_WRAP_PKCS7), mechanismOf(CKM_AES_KEY_WRAP_PAD)} {
			if got := w.wrap(s, m, with, key); !bytes.Equal(got, want) {
				t.Errorf("%d bytes: wrapped %x, want %x", n, got, want)
			}
			back, err := w.UnwrapKey(s, m, with, bytes.Clone(want), secretTemplate(CKK_GENERIC_SECRET, flag(CKA_EXTRACTABLE, true)))
			w.must(err)
			if got := w.attribute(s, back, CKA_VALUE); !bytes.Equal(got, value) {
				t.Errorf("unwrapped %x, want %x", got, value)
			}
		}
	}
	for name, padded := range map[string][]byte{"no padding": make([]byte, 16), "too much": bytes.Repeat([]byte{9}, 16), "uneven": append(make([]byte, 15), 3)} {
		wrapped, err := keywrap.Wrap(block, padded)
		w.must(err)
		if _, err := w.UnwrapKey(s, mechanismOf(CKM_AES_KEY_WRAP_PKCS7), with, wrapped, secretTemplate(CKK_GENERIC_SECRET)); RVOf(err) != CKR_WRAPPED_KEY_INVALID {
			t.Errorf("%s: %v", name, err)
		}
	}
	short := w.create(s, secretTemplate(CKK_GENERIC_SECRET, Attribute{CKA_VALUE, []byte("1234567")}, flag(CKA_EXTRACTABLE, true))...)
	w.refused(w.WrapKey(s, mechanismOf(CKM_AES_KEY_WRAP_PKCS7), with, short, &Output{Capacity: 100}), CKR_KEY_SIZE_RANGE)
}

// A private key that comes wrapped goes into the TPM, and says that it was outside.
func TestUnwrappingAPrivateKeyIntoTheTPM(t *testing.T) {
	t.Parallel()
	w := open(t)
	s := w.session(true)
	kek := bytes.Repeat([]byte{7}, 32)
	block, err := aes.NewCipher(kek)
	w.must(err)
	with := w.aes(s, kek, flag(CKA_UNWRAP, true))
	template := func(more ...Attribute) []Attribute {
		return append([]Attribute{class(CKO_PRIVATE_KEY), onToken}, more...)
	}
	for name, key := range map[string]any{"rsa": newRSA(t), "ec": newEC(t)} {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		w.must(err)
		wrapped, err := keywrap.WrapPadded(block, der)
		w.must(err)
		made, err := w.UnwrapKey(s, mechanismOf(CKM_AES_KEY_WRAP_KWP), with, wrapped, template(label(name), yesTo(CKA_SIGN)))
		w.must(err)
		if w.attribute(s, made, CKA_LOCAL)[0] != 0 || w.attribute(s, made, CKA_NEVER_EXTRACTABLE)[0] != 0 {
			t.Errorf("%s: the key says that it was born in the TPM", name)
		}
		m := mechanismOf(CKM_SHA256_RSA_PKCS)
		if name == "ec" {
			m = mechanismOf(CKM_ECDSA_SHA256)
		}
		signature, err := w.sign(s, m, made, []byte("hello"))
		w.must(err)
		w.must(w.VerifyInit(s, m, w.one(s, CKO_PUBLIC_KEY, label(name))))
		w.must(w.Verify(s, []byte("hello"), signature))
	}
	garbage, err := keywrap.WrapPadded(block, []byte("no key at all"))
	w.must(err)
	_, err = w.UnwrapKey(s, mechanismOf(CKM_AES_KEY_WRAP_KWP), with, bytes.Clone(garbage), template())
	w.refused(err, CKR_WRAPPED_KEY_INVALID)
	_, err = w.UnwrapKey(s, mechanismOf(CKM_AES_KEY_WRAP_KWP), with, bytes.Clone(garbage), []Attribute{class(CKO_PRIVATE_KEY)})
	w.refused(err, CKR_TEMPLATE_INCONSISTENT)
	_, err = w.UnwrapKey(w.session(false), mechanismOf(CKM_AES_KEY_WRAP_KWP), with, garbage, template())
	w.refused(err, CKR_SESSION_READ_ONLY)
}
