package pe

import (
	"bytes"
	"crypto"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tpm2-p11/tpm2-p11/internal/imagetest"
)

func parse(t *testing.T, file []byte) *Image {
	t.Helper()
	i, err := Parse(file)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// An image's hash is what other tools say, whatever the image: as it comes, as a UKI, signed once and twice.
func TestDigestsAreThoseOfPesign(t *testing.T) {
	t.Parallel()
	uki := imagetest.UKI(t, imagetest.Parts(t, "quiet")...)
	owner := imagetest.NewAuthority(t, "owner", nil)
	signed := owner.Sign(t, uki)
	for name, file := range map[string][]byte{
		"stub": imagetest.Read(t, imagetest.Stub), "loader": imagetest.Read(t, imagetest.Loader),
		"UKI": uki, "signed UKI": signed, "UKI signed twice": owner.Sign(t, signed),
		"UKI with an odd end": append(bytes.Clone(uki), "odd"...),
	} {
		path := filepath.Join(t.TempDir(), "image")
		if err := os.WriteFile(path, file, 0o600); err != nil {
			t.Fatal(err)
		}
		want := strings.TrimPrefix(strings.TrimSpace(imagetest.Run(t, "pesign", "-h", "-i", path)), "hash: ")
		if got := hex.EncodeToString(parse(t, file).Digest(crypto.SHA256)); got != want {
			t.Errorf("%s: %s, pesign says %s", name, got, want)
		}
	}
}

func TestSectionsAreAsInMemory(t *testing.T) {
	t.Parallel()
	file := imagetest.UKI(t, imagetest.Part{Name: ".cmdline", Content: "quiet"})
	i := parse(t, file)
	s, ok := i.Section(".cmdline")
	if got, err := i.Contents(s); !ok || err != nil || string(got) != "quiet" {
		t.Errorf("%+v holds %q, %v", s, got, err)
	}
	// In memory a section may be longer than in the file: the rest is zero.
	s.VirtualSize = s.RawSize + 3
	if got, err := i.Contents(s); err != nil || len(got) != int(s.RawSize)+3 || string(got[s.RawSize:]) != "\x00\x00\x00" || string(got[:5]) != "quiet" {
		t.Errorf("filled to %q, %v", got, err)
	}
	s.VirtualSize = 1 << 31
	if _, err := i.Contents(s); !errors.Is(err, ErrMalformed) {
		t.Errorf("a section of two gibibytes: %v", err)
	}
	if _, ok := i.Section(".initrd"); ok {
		t.Error("a section that is not there was found")
	}
}

// headerOf is a minimal image to change.
func headerOf(t testing.TB) []byte {
	t.Helper()
	b := make([]byte, 0x400)
	copy(b, "MZ")
	put := func(at, size int, v uint32) {
		if size == 2 {
			binary.LittleEndian.PutUint16(b[at:], uint16(v))
		} else {
			binary.LittleEndian.PutUint32(b[at:], v)
		}
	}
	put(60, 4, 64)
	copy(b[64:], "PE\x00\x00")
	put(64+6, 2, 1)    // sections
	put(64+20, 2, 240) // optional header
	const optional = 64 + 24
	put(optional, 2, 0x20b)
	put(optional+60, 4, 0x200) // headers
	put(optional+108, 4, 16)   // directories
	const section = optional + 240
	copy(b[section:], ".linux")
	put(section+8, 4, 0x100)
	put(section+12, 4, 0x1000)
	put(section+16, 4, 0x200)
	put(section+20, 4, 0x200)
	return b
}

func TestImagesThatFirmwareWouldNotLoad(t *testing.T) {
	t.Parallel()
	const optional, section = 64 + 24, 64 + 24 + 240
	parse(t, headerOf(t))
	for name, change := range map[string]func(b []byte) []byte{
		"empty":                        func([]byte) []byte { return nil },
		"not MZ":                       func(b []byte) []byte { b[0] = 'm'; return b },
		"header beyond the end":        func(b []byte) []byte { b[62] = 1; return b },
		"header before the start":      func(b []byte) []byte { b[63] = 0xff; return b },
		"not PE":                       func(b []byte) []byte { b[64] = 'p'; return b },
		"unknown optional header":      func(b []byte) []byte { b[optional] = 7; return b },
		"short optional header":        func(b []byte) []byte { b[64+20] = 100; return b },
		"no optional header":           func(b []byte) []byte { b[64+20] = 0; return b },
		"directories beyond it":        func(b []byte) []byte { b[64+20] = 120; return b },
		"headers beyond the end":       func(b []byte) []byte { b[optional+62] = 1; return b },
		"headers of no length":         func(b []byte) []byte { b[optional+61] = 0; return b },
		"headers without their table":  func(b []byte) []byte { b[optional+60], b[optional+61] = 0x48, 1; return b },
		"too many sections":            func(b []byte) []byte { b[64+6] = 97; return b },
		"section beyond the end":       func(b []byte) []byte { b[section+18] = 1; return b },
		"section cut short":            func(b []byte) []byte { return b[:0x3ff] },
		"certificates in the middle":   func(b []byte) []byte { b[optional+108+4+32+1], b[optional+108+4+36] = 1, 8; return b },
		"certificates beyond the end":  func(b []byte) []byte { b[optional+108+4+32+1], b[optional+108+4+36] = 4, 8; return b },
		"certificates over everything": func(b []byte) []byte { b[optional+108+4+37] = 4; return b },
		"sections that overlap": func(b []byte) []byte {
			b[64+6] = 2
			copy(b[section+40:], b[section:section+40])
			return b
		},
	} {
		_, err := Parse(change(headerOf(t)))
		if !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
