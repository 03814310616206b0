package cms_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rsa"
	"errors"
	"fmt"
	"strings"
	"testing"

	sim "github.com/tpm2-p11/tpm2-p11/internal/nitrosim/cms"
	"github.com/tpm2-p11/tpm2-p11/kms/cms"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// Each bound and each rule of the form is refused by its own check, before the next one sees the message.
func TestEachCheckRefusesByItself(t *testing.T) {
	t.Parallel()
	changed := func(change func(*sim.Envelope)) []byte {
		e := seal(t, []byte("data key"), sim.Primitive)
		change(e)
		return e.Message().Encode()
	}
	lacks := func(tag byte) []byte {
		message := seal(t, []byte("data key"), sim.Primitive).Message()
		walk(message, func(e *sim.Element) {
			if n := len(e.Children); n > 0 && e.Children[n-1].Tag == tag {
				e.Children = e.Children[:n-1]
			}
		})
		return message.Encode()
	}
	sequences := func(n int) []byte {
		return append(bytes.Repeat([]byte{0x30, 0x80}, n), make([]byte, 2*n)...)
	}
	many := append(append([]byte{0x30, 0x80}, bytes.Repeat([]byte{0x02, 0x00}, 512)...), 0, 0)
	for says, message := range map[string][]byte{
		fmt.Sprintf("are more than %d", cms.MaxSize):               seal(t, make([]byte, cms.MaxSize), sim.Primitive).Message().Encode(),
		"more than 512 elements or 12 levels":                      sequences(13),
		"more than 512 elements":                                   many,
		"tag 0x3f":                                                 []byte("\x3f\x81\x01\x00"),
		"tag 0x00":                                                 []byte("\x00\x00"),
		"it ends too early":                                        []byte("\x30\x01\x02"), // inside an element of definite length
		" ends too early":                                          []byte("\x30\x82\x01"), // inside a length
		"length of 5 bytes":                                        []byte("\x30\x85\x00\x00\x00\x00\x02\x05\x00"),
		"encrypted key of 255 bytes for a key of 256":              changed(func(e *sim.Envelope) { e.EncryptedKey = e.EncryptedKey[1:] }),
		"encryptedContentInfo lacks its encryptedContent":          lacks(0x80),
		"KeyTransRecipientInfo lacks its encryptedKey":             lacks(0x04),
		"contentType of ContentInfo is 2a864886f70d010702, not 2a": bytes.ReplaceAll(bytes.Replace(changed(func(*sim.Envelope) {}), []byte("\xf7\x0d\x01\x07\x03"), []byte("\xf7\x0d\x01\x07\x02"), 1), []byte("\x03\x04\x01\x2a"), []byte("\x03\x04\x01\x02")),
	} {
		if _, err := cms.Open(t.Context(), message, recipient()); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("not %q: %v", says, err)
		}
	}
	if _, err := cms.Open(t.Context(), sequences(12), recipient()); err == nil || strings.Contains(err.Error(), "more than") {
		t.Errorf("12 levels: %v", err)
	}
	if _, err := cms.RecipientID("no key"); !errors.Is(err, cms.ErrKey) {
		t.Errorf("the name of what is no key: %v", err)
	}
}

// holding is a key like the TPM's, which remembers what it gave.
type holding struct {
	*rsa.PrivateKey
	gives []byte
	err   error
}

func (h *holding) DecryptContext(_ context.Context, ciphertext []byte, opts crypto.DecrypterOpts) (out []byte, err error) {
	if h.err == nil && h.gives == nil {
		h.gives, h.err = h.PrivateKey.Decrypt(nil, ciphertext, opts)
	}
	return h.gives, h.err
}

func TestTheContentKeyIsWiped(t *testing.T) {
	t.Parallel()
	message := seal(t, []byte("data key"), sim.Primitive).Message().Encode()
	for name, key := range map[string]*holding{
		"a good one":          {PrivateKey: recipient()},
		"one of other length": {PrivateKey: recipient(), gives: bytes.Repeat([]byte{7}, 31)},
		"another one":         {PrivateKey: recipient(), gives: bytes.Repeat([]byte{7}, 32)},
	} {
		_, err := cms.Open(t.Context(), message, key)
		if (err == nil) != (name == "a good one") {
			t.Errorf("%s: %v", name, err)
		}
		if len(key.gives) == 0 || !bytes.Equal(key.gives, make([]byte, len(key.gives))) {
			t.Errorf("%s: %x is left", name, key.gives)
		}
	}
}

// That the TPM could not decrypt is told like all that decryption reveals, and without the TPM's words.
func TestATPMThatCannotDecryptIsTheSameError(t *testing.T) {
	t.Parallel()
	message := seal(t, []byte("data key"), sim.Primitive).Message().Encode()
	key := &holding{PrivateKey: recipient(), err: fmt.Errorf("%w: TPM_RC_FAILURE", provider.ErrDecrypt)}
	if _, err := cms.Open(t.Context(), message, key); err != cms.ErrDecrypt { //nolint:errorlint // bare
		t.Errorf("%v", err)
	}
	key.err = errors.New("the key is not to be used")
	if _, err := cms.Open(t.Context(), message, key); !errors.Is(err, cms.ErrKey) || !errors.Is(err, key.err) {
		t.Errorf("%v", err)
	}
}
