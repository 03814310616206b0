package esl

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/tpm2-p11/tpm2-p11/internal/imagetest"
)

func TestDatabasesOfEfitools(t *testing.T) {
	t.Parallel()
	first, second := imagetest.NewAuthority(t, "first", nil), imagetest.NewAuthority(t, "second", nil)
	path := imagetest.Database(t, first, second)
	list := imagetest.Read(t, path)
	entries, err := Parse(list)
	if err != nil || len(entries) != 2 {
		t.Fatalf("%v, %v", entries, err)
	}
	for n, a := range []*imagetest.Authority{first, second} {
		e := entries[n]
		if e.Type != X509 || !bytes.Equal(e.Data, a.Certificate.Raw) || e.Owner.String() != []string{
			"00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-000000000002"}[n] {
			t.Errorf("entry %d is %s of %s", n, e.Type, e.Owner)
		}
		if !bytes.Contains(list, e.Bytes()) {
			t.Errorf("entry %d does not lie in the list as it is given", n)
		}
	}
	if X509.String() != "a5c059a1-94e4-4aa7-87b5-ab155c2bf072" {
		t.Errorf("the GUID of X.509 is %s", X509)
	}

	// The same, signed for an update, and as a running machine shows it.
	key, certificate := first.Files(t)
	signed := filepath.Join(t.TempDir(), "db.auth")
	imagetest.Run(t, "sign-efi-sig-list", "-k", key, "-c", certificate, "db", path, signed)
	for name, file := range map[string][]byte{
		"esl": list, "auth": imagetest.Read(t, signed), "efivarfs": append([]byte{0x27, 0, 0, 0}, list...),
	} {
		if got, err := Variable(file); err != nil || !bytes.Equal(got, list) {
			t.Errorf("%s: %d bytes of %d, %v", name, len(got), len(list), err)
		}
	}
	for name, file := range map[string][]byte{"nothing": nil, "a variable without contents": {0x27, 0, 0, 0}} {
		if got, err := Variable(file); err != nil || len(got) != 0 {
			t.Errorf("%s: %x, %v", name, got, err)
		}
	}
}

func TestWhatIsNoDatabase(t *testing.T) {
	t.Parallel()
	good := imagetest.Read(t, imagetest.Database(t, imagetest.NewAuthority(t, "owner", nil)))
	bent := func(at int, value byte) []byte {
		b := bytes.Clone(good)
		b[at] = value
		return b
	}
	_, certificate := imagetest.NewAuthority(t, "owner", nil).Files(t)
	for name, file := range map[string][]byte{
		"a certificate":                  imagetest.Read(t, certificate),
		"text":                           []byte("text"),
		"cut short":                      good[:len(good)-1],
		"cut in the header":              good[:27],
		"more after it":                  append(bytes.Clone(good), 0),
		"a list beyond the end":          bent(18, 0xff),
		"a list shorter than its header": bent(17, 0),
		"a header beyond the list":       bent(22, 1),
		"signatures of no length":        append(bytes.Clone(good[:24]), make([]byte, len(good)-24)...),
		"signatures that do not fit":     bent(24, 0x20),
		"too large":                      make([]byte, MaxSize+1),
		"attributes that none has":       {0xff, 0, 0, 0},
	} {
		if _, err := Variable(file); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzVariable: any file is a database or an error; what is read of one, put together, is no longer than it.
func FuzzVariable(f *testing.F) {
	for _, name := range []string{"db.esl", "db.auth"} {
		b, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			f.Fatal(err)
		}
		if variable, err := Variable(b); err != nil || len(variable) == 0 {
			f.Fatalf("%s: %v", name, err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		variable, err := Variable(file)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Errorf("an untyped refusal: %v", err)
			}
			return
		}
		entries, err := Parse(variable)
		if err != nil || !bytes.HasSuffix(file, variable) {
			t.Errorf("%d bytes, %v", len(variable), err)
		}
		total := 0
		for _, e := range entries {
			total += len(e.Bytes())
		}
		if total > len(variable) {
			t.Errorf("%d bytes of %d", total, len(variable))
		}
	})
}
