package cms_test

import (
	"bytes"
	"testing"

	sim "github.com/tpm2-p11/tpm2-p11/internal/nitrosim/cms"
	"github.com/tpm2-p11/tpm2-p11/kms/cms"
)

func FuzzOpen(f *testing.F) {
	for _, form := range forms {
		message := seal(f, []byte("data key"), form).Message()
		f.Add(message.Encode())
		walk(message, func(e *sim.Element) { e.Indefinite = false })
		f.Add(message.Encode())
	}
	f.Add([]byte("\x30\x80\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x03\xa0\x80\x30\x80\x02\x01\x02\x31\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, message []byte) {
		if plaintext, err := cms.Open(t.Context(), message, recipient()); err == nil {
			// A message made of a good one; the plaintext is never longer than it.
			if plaintext.Len() >= len(message) {
				t.Errorf("%d bytes out of %d", plaintext.Len(), len(message))
			}
			plaintext.Wipe()
		} else {
			refused(t, "fuzzed", message)
		}
	})
}

func FuzzRoundTrip(f *testing.F) {
	f.Add([]byte{}, false)
	f.Add(bytes.Repeat([]byte{16}, 32), true)
	f.Fuzz(func(t *testing.T, plaintext []byte, primitive bool) {
		if len(plaintext) > 60000 {
			return
		}
		form := sim.Constructed
		if primitive {
			form = sim.Primitive
		}
		got, err := cms.Open(t.Context(), seal(t, plaintext, form).Message().Encode(), recipient())
		if err != nil || !bytes.Equal(got.Bytes(), plaintext) {
			t.Fatalf("%d bytes: %v", len(plaintext), err)
		}
		got.Wipe()
	})
}
