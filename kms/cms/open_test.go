package cms_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"io"
	"sync"
	"testing"

	sim "github.com/tpm2-p11/tpm2-p11/internal/nitrosim/cms"
	"github.com/tpm2-p11/tpm2-p11/kms/cms"
)

// recipient is the key that the messages of these tests are for.
var recipient = sync.OnceValue(newKey)

func newKey() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
}

var forms = map[string]sim.Form{"constructed": sim.Constructed, "primitive": sim.Primitive}

func seal(t testing.TB, plaintext []byte, form sim.Form) *sim.Envelope {
	t.Helper()
	e, err := sim.Seal(&recipient().PublicKey, plaintext, form)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestAnAnswerOpensInBothForms(t *testing.T) {
	t.Parallel()
	for name, form := range forms {
		for _, n := range []int{0, 1, 15, 16, 17, 32, 255, 256, 1190, 4096, 60000} {
			want := make([]byte, n)
			rand.Read(want)
			got, err := cms.Open(t.Context(), seal(t, want, form).Message().Encode(), recipient())
			if err != nil {
				t.Fatalf("%s, %d bytes: %v", name, n, err)
			}
			if !bytes.Equal(got.Bytes(), want) {
				t.Errorf("%s, %d bytes: another plaintext", name, n)
			}
			got.Wipe()
		}
	}
}

func TestContentInManyPiecesOpens(t *testing.T) {
	t.Parallel()
	want := bytes.Repeat([]byte("piece by piece "), 20)
	message := seal(t, want, sim.Constructed).Message()
	content := message.Children[1].Children[0].Children[2].Children[2]
	whole := content.Children[0].Content
	content.Children = nil
	for i, size := 0, 1; i < len(whole); i, size = i+size, size+7 {
		content.Children = append(content.Children, &sim.Element{Tag: 0x04, Content: whole[i:min(i+size, len(whole))]})
	}
	got, err := cms.Open(t.Context(), message.Encode(), recipient())
	if err != nil || !bytes.Equal(got.Bytes(), want) {
		t.Errorf("%v", err)
	}
}

func TestBERMayUseAnyFormOfLength(t *testing.T) {
	t.Parallel()
	for name, form := range forms {
		for _, indefinite := range []bool{false, true} {
			message := seal(t, []byte("data key"), form).Message()
			walk(message, func(e *sim.Element) { e.Indefinite = indefinite && len(e.Children) > 0 })
			if _, err := cms.Open(t.Context(), message.Encode(), recipient()); err != nil {
				t.Errorf("%s, all indefinite %t: %v", name, indefinite, err)
			}
		}
	}
}

func walk(e *sim.Element, visit func(*sim.Element)) {
	visit(e)
	for _, child := range e.Children {
		walk(child, visit)
	}
}

func TestHashParametersMayBeAbsent(t *testing.T) {
	t.Parallel()
	message := seal(t, []byte("data key"), sim.Primitive).Message()
	removed := 0
	walk(message, func(e *sim.Element) {
		if n := len(e.Children); n == 2 && e.Children[1].Tag == 0x05 {
			e.Children = e.Children[:1]
			removed++
		}
	})
	if _, err := cms.Open(t.Context(), message.Encode(), recipient()); err != nil || removed != 2 {
		t.Errorf("%d removed: %v", removed, err)
	}
}

func TestAnAnswerForAnotherKeyIsRefused(t *testing.T) {
	t.Parallel()
	message := seal(t, []byte("data key"), sim.Primitive).Message().Encode()
	bigger, err := rsa.GenerateKey(rand.Reader, 3072)
	if err != nil {
		t.Fatal(err)
	}
	for _, other := range []*rsa.PrivateKey{newKey(), bigger} {
		if _, err := cms.Open(t.Context(), message, other); !errors.Is(err, cms.ErrRecipient) {
			t.Errorf("got %v", err)
		}
	}
	elliptic, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cms.Open(t.Context(), message, notRSA{elliptic}); !errors.Is(err, cms.ErrKey) {
		t.Errorf("an elliptic key: %v", err)
	}
}

// notRSA is a Decrypter with a key of another kind.
type notRSA struct{ *ecdsa.PrivateKey }

func (notRSA) Decrypt(io.Reader, []byte, crypto.DecrypterOpts) ([]byte, error) {
	return nil, errors.New("asked to decrypt")
}

func TestAllThatDecryptionRevealsIsOneError(t *testing.T) {
	t.Parallel()
	public := &recipient().PublicKey
	padded := func(last ...byte) []byte {
		block := make([]byte, 32)
		copy(block[32-len(last):], last)
		e, err := sim.SealPadded(public, block, sim.Primitive)
		if err != nil {
			t.Fatal(err)
		}
		return e.Message().Encode()
	}
	contentKey := func(size int) []byte { // with content that this key decrypts, if AES takes it
		e := seal(t, []byte("data key"), sim.Primitive)
		key := make([]byte, size)
		encrypted, err := rsa.EncryptOAEP(crypto.SHA256.New(), rand.Reader, public, key, nil)
		if err != nil {
			t.Fatal(err)
		}
		e.EncryptedKey = encrypted
		if block, err := aes.NewCipher(key); err == nil {
			cipher.NewCBCEncrypter(block, e.IV).CryptBlocks(e.Ciphertext, bytes.Repeat([]byte{16}, 16))
		}
		return e.Message().Encode()
	}
	badBlock := seal(t, []byte("data key"), sim.Primitive)
	badBlock.EncryptedKey[100] ^= 1
	tooLarge := seal(t, []byte("data key"), sim.Primitive)
	tooLarge.EncryptedKey = bytes.Repeat([]byte{0xff}, 256)
	sha1, err := rsa.EncryptOAEP(crypto.SHA1.New(), rand.Reader, public, make([]byte, 32), nil)
	if err != nil {
		t.Fatal(err)
	}
	otherHash := seal(t, []byte("data key"), sim.Primitive)
	otherHash.EncryptedKey = sha1

	for name, message := range map[string][]byte{
		"padding of 0":                  padded(0),
		"padding of 17":                 padded(bytes.Repeat([]byte{17}, 17)...),
		"padding of 32":                 padded(bytes.Repeat([]byte{32}, 32)...),
		"padding of 255":                padded(255),
		"padding with a wrong byte":     padded(3, 2, 3),
		"padding with a wrong first":    padded(bytes.Repeat([]byte{16}, 15)...),
		"content key of 16 bytes":       contentKey(16),
		"content key of 24 bytes":       contentKey(24),
		"content key of 0 bytes":        contentKey(0),
		"content key of 33 bytes":       contentKey(33),
		"a flipped bit in the key":      badBlock.Message().Encode(),
		"an encrypted key beyond N":     tooLarge.Message().Encode(),
		"a key encrypted by OAEP SHA-1": otherHash.Message().Encode(),
	} {
		if plaintext, err := cms.Open(t.Context(), message, recipient()); err != cms.ErrDecrypt || plaintext != nil { //nolint:errorlint // bare
			t.Errorf("%s: %v", name, err)
		}
	}
	for n := byte(1); n <= 16; n++ {
		plaintext, err := cms.Open(t.Context(), padded(bytes.Repeat([]byte{n}, int(n))...), recipient())
		if err != nil || plaintext.Len() != 32-int(n) {
			t.Errorf("padding of %d: %v", n, err)
		}
	}
}

// lost is a key whose TPM went away, and that takes a context.
type lost struct{ *rsa.PrivateKey }

var errLost = errors.New("the TPM cannot be reached")

func (lost) DecryptContext(ctx context.Context, _ []byte, _ crypto.DecrypterOpts) ([]byte, error) {
	return nil, errors.Join(errLost, ctx.Err())
}

func TestAKeyThatDoesNotWorkSaysWhy(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	message := seal(t, []byte("data key"), sim.Primitive).Message().Encode()
	_, err := cms.Open(ctx, message, lost{recipient()})
	for _, want := range []error{cms.ErrKey, errLost, context.Canceled} {
		if !errors.Is(err, want) {
			t.Errorf("%v is not %v", err, want)
		}
	}
}
