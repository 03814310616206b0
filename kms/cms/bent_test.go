package cms_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"

	sim "github.com/tpm2-p11/tpm2-p11/internal/nitrosim/cms"
	"github.com/tpm2-p11/tpm2-p11/kms/cms"
)

// typed are all errors that a message can bring about.
var typed = []error{cms.ErrMalformed, cms.ErrUnsupported, cms.ErrRecipient, cms.ErrDecrypt}

func refused(t testing.TB, name string, message []byte) {
	t.Helper()
	plaintext, err := cms.Open(t.Context(), message, recipient())
	if plaintext != nil || err == nil {
		t.Errorf("%s: accepted", name)
		return
	}
	if !slices.ContainsFunc(typed, func(target error) bool { return errors.Is(err, target) }) {
		t.Errorf("%s: %v", name, err)
	}
}

// bend makes one change to a fresh message for each of its elements, where the change applies.
func bend(t *testing.T, e *sim.Envelope, what string, change func(*sim.Element) bool) {
	t.Helper()
	for i := 0; ; i++ {
		message := e.Message()
		var elements []*sim.Element
		walk(message, func(e *sim.Element) { elements = append(elements, e) })
		if i == len(elements) {
			return
		}
		if change(elements[i]) {
			refused(t, fmt.Sprintf("%s, element %d (tag %#02x)", what, i, elements[i].Tag), message.Encode())
		}
	}
}

func TestEveryBentElementIsRefused(t *testing.T) {
	t.Parallel()
	isHash := func(e *sim.Element) bool { return len(e.Children) == 2 && e.Children[1].Tag == 0x05 }
	for name, form := range forms {
		e := seal(t, []byte("the data key of 32 bytes, or so."), form)
		for i := range 4 {
			bend(t, e, fmt.Sprintf("%s: child %d missing", name, i), func(e *sim.Element) bool {
				if i >= len(e.Children) || isHash(e) && i == 1 { // absent parameters of a hash are right
					return false
				}
				e.Children = slices.Delete(e.Children, i, i+1)
				return true
			})
			bend(t, e, fmt.Sprintf("%s: child %d twice", name, i), func(e *sim.Element) bool {
				if i >= len(e.Children) || e.Children[i].Tag == 0x04 && len(e.Children) == 1 { // one more piece of content
					return false
				}
				e.Children = slices.Insert(e.Children, i, e.Children[i])
				return true
			})
		}
		bend(t, e, name+": a further child", func(e *sim.Element) bool {
			e.Children = append(e.Children, &sim.Element{Tag: 0x05})
			return len(e.Children) > 1
		})
		bend(t, e, name+": children reversed", func(e *sim.Element) bool {
			slices.Reverse(e.Children)
			return len(e.Children) > 1
		})
		for bit := range 8 {
			bend(t, e, fmt.Sprintf("%s: bit %d of the tag", name, bit), func(e *sim.Element) bool {
				e.Tag ^= 1 << bit
				return true
			})
		}
		for _, tag := range []byte{0x00, 0x01, 0x05, 0x0c, 0x1f, 0x24, 0x3f, 0xa3, 0xff} {
			bend(t, e, fmt.Sprintf("%s: tag %#02x", name, tag), func(e *sim.Element) bool {
				if e.Tag == tag {
					return false
				}
				e.Tag = tag
				return true
			})
		}
		bend(t, e, name+": primitive of indefinite length", func(e *sim.Element) bool {
			e.Indefinite = true
			return len(e.Children) == 0
		})
		bend(t, e, name+": empty", func(e *sim.Element) bool {
			was := len(e.Children) + len(e.Content)
			e.Children, e.Content = nil, nil
			return was > 0
		})
		bend(t, e, name+": a byte more", func(e *sim.Element) bool {
			e.Content = append(bytes.Clone(e.Content), 0)
			return len(e.Children) == 0
		})
		bend(t, e, name+": a byte less", func(e *sim.Element) bool {
			if len(e.Content) == 0 {
				return false
			}
			e.Content = e.Content[1:]
			return true
		})
		for bit := range 8 { // of identifiers, versions, recipient: what must have one value
			bend(t, e, fmt.Sprintf("%s: bit %d of the content's last byte", name, bit), func(element *sim.Element) bool {
				if n := len(element.Content); n == 0 || n == len(e.IV) || n == len(e.Ciphertext) || n == len(e.EncryptedKey) {
					return false
				}
				element.Content = bytes.Clone(element.Content)
				element.Content[len(element.Content)-1] ^= 1 << bit
				return true
			})
		}
	}
}

func TestAMessageCutAtAnyByteIsRefused(t *testing.T) {
	t.Parallel()
	for name, form := range forms {
		message := seal(t, []byte("data key"), form).Message().Encode()
		for i := range message {
			refused(t, fmt.Sprintf("%s: cut at byte %d", name, i), message[:i])
		}
	}
}

func TestTrailingBytesAreRefused(t *testing.T) {
	t.Parallel()
	for name, form := range forms {
		message := seal(t, []byte("data key"), form).Message().Encode()
		for _, more := range []string{"\x00", "\x00\x00", "\x30\x00", "x"} {
			refused(t, fmt.Sprintf("%s: followed by %x", name, more), append(bytes.Clone(message), more...))
		}
		refused(t, name+": twice", append(bytes.Clone(message), message...))
	}
}

// A flipped bit of the IV or of all but the last two blocks changes the
// plaintext without a trace: CBC is not authenticated. Everywhere else it is found.
func TestAFlippedBitIsRefusedWhereTheFormCanTell(t *testing.T) {
	t.Parallel()
	plaintext := []byte("data key") // one block: the IV is before it
	for name, form := range forms {
		e := seal(t, plaintext, form)
		message := e.Message().Encode()
		iv := bytes.Index(message, e.IV)
		for i := range message {
			for _, bit := range []byte{0, 3, 5, 7} {
				bent := bytes.Clone(message)
				bent[i] ^= 1 << bit
				got, err := cms.Open(t.Context(), bent, recipient())
				switch {
				case err != nil:
				case i >= iv && i < iv+len(plaintext):
				case bytes.Equal(got.Bytes(), plaintext):
					t.Errorf("%s: bit %d of byte %d is of no meaning", name, bit, i)
				case i >= iv && i < iv+16+len(e.Ciphertext)+8: // padding right by chance
				default:
					t.Errorf("%s: accepted with bit %d of byte %d flipped", name, bit, i)
				}
			}
		}
	}
}

func TestAbsurdLengthsAreRefused(t *testing.T) {
	t.Parallel()
	for name, message := range map[string]string{
		"nothing":                         "",
		"a tag":                           "\x30",
		"more than is there":              "\x30\x05\x02",
		"a length of 4 GiB":               "\x30\x84\xff\xff\xff\xff\x02\x01\x02",
		"a length of 2 GiB":               "\x30\x84\x80\x00\x00\x00\x02\x01\x02",
		"a length of five bytes":          "\x30\x85\x00\x00\x00\x00\x03\x02\x01\x02",
		"a length of 126 bytes":           "\x30\xfe" + string(make([]byte, 200)),
		"the reserved length":             "\x30\xff" + string(make([]byte, 200)),
		"a length cut short":              "\x30\x82\x01",
		"no end of contents":              "\x30\x80\x30\x80\x30\x80",
		"half an end of contents":         "\x30\x80\x00",
		"end of contents of some length":  "\x30\x80\x00\x01\x00",
		"end of contents at the start":    "\x00\x00",
		"end of contents in definite one": "\x30\x02\x00\x00",
		"an inner end beyond the outer":   "\x30\x04\x30\x80\x02\x00\x00\x00",
		"high tag numbers":                "\x3f\x81\x01\x00",
	} {
		if _, err := cms.Open(t.Context(), []byte(message), recipient()); !errors.Is(err, cms.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, message := range map[string][]byte{
		"64 KiB of open sequences":      bytes.Repeat([]byte{0x30, 0x80}, cms.MaxSize/2),
		"64 KiB of empty integers":      append([]byte{0x30, 0x80}, bytes.Repeat([]byte{0x02, 0x00}, cms.MaxSize/2-2)...),
		"one byte more than is allowed": append([]byte{0x30, 0x82, 0xff, 0xfd}, make([]byte, cms.MaxSize-3)...),
	} {
		if _, err := cms.Open(t.Context(), message, recipient()); !errors.Is(err, cms.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestContentThatIsNotWholeBlocksIsRefused(t *testing.T) {
	t.Parallel()
	for name, form := range forms {
		for _, n := range []int{0, 1, 15, 17} {
			e := seal(t, []byte("data key"), form)
			e.Ciphertext = make([]byte, n)
			if _, err := cms.Open(t.Context(), e.Message().Encode(), recipient()); !errors.Is(err, cms.ErrMalformed) {
				t.Errorf("%s, %d bytes: %v", name, n, err)
			}
		}
	}
}

func TestOtherAlgorithmsAreNamed(t *testing.T) {
	t.Parallel()
	for name, change := range map[string][2]string{
		"AES-256-GCM":        {"\x60\x86\x48\x01\x65\x03\x04\x01\x2a", "\x60\x86\x48\x01\x65\x03\x04\x01\x2e"},
		"AES-128-CBC":        {"\x60\x86\x48\x01\x65\x03\x04\x01\x2a", "\x60\x86\x48\x01\x65\x03\x04\x01\x02"},
		"SHA-512":            {"\x60\x86\x48\x01\x65\x03\x04\x02\x01", "\x60\x86\x48\x01\x65\x03\x04\x02\x03"},
		"PKCS #1 v1.5":       {"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x07", "\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01"},
		"signed data":        {"\x2a\x86\x48\x86\xf7\x0d\x01\x07\x03", "\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02"},
		"version 0":          {"\x02\x01\x02\x31", "\x02\x01\x00\x31"},
		"recipient of ver 0": {"\x02\x01\x02\x80", "\x02\x01\x00\x80"},
	} {
		message := seal(t, []byte("data key"), sim.Primitive).Message().Encode()
		bent := bytes.Replace(message, []byte(change[0]), []byte(change[1]), 1)
		if _, err := cms.Open(t.Context(), bent, recipient()); !errors.Is(err, cms.ErrUnsupported) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
