package cms_test

import (
	"bytes"
	"testing"

	"github.com/tpm2-p11/tpm2-p11/internal/fuzztest"
	sim "github.com/tpm2-p11/tpm2-p11/internal/nitrosim/cms"
	"github.com/tpm2-p11/tpm2-p11/kms/cms"
)

// FuzzOpen: any message opens or is refused as all bad ones are. The recipient differs in each process, so beside messages there are
// edits of this process's good ones: where, what to do and with which byte, four bytes each.
func FuzzOpen(f *testing.F) {
	var good [][]byte
	for _, form := range []sim.Form{sim.Constructed, sim.Primitive} {
		message := seal(f, []byte("data key"), form).Message()
		good = append(good, message.Encode())
		walk(message, func(e *sim.Element) { e.Indefinite = false })
		good = append(good, message.Encode())
	}
	for i, message := range good {
		f.Add(message, []byte(nil))
		f.Add([]byte(nil), []byte{0, 0, byte(4 * i), 0})
		f.Add([]byte(nil), []byte{1, 0x80, byte(4*i + 1), 0, 0, 40, 2, 3})
	}
	f.Add([]byte("\x30\x80\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x03\xa0\x80\x30\x80\x02\x01\x02\x31\x00\x00\x00"), []byte(nil))
	f.Fuzz(func(t *testing.T, message, edits []byte) {
		if len(message) == 0 && len(edits) >= 4 {
			message = fuzztest.Edited(good[int(edits[2]/4)%len(good)], edits)
		}
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
