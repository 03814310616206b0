package keystore

import (
	"errors"
	"strings"
	"testing"

	"github.com/tpm2-p11/tpm2-p11/provider"
)

func TestLabelsThatNobodyCouldTellApart(t *testing.T) {
	t.Parallel()
	for _, label := range []string{"web", "Web Server 2", "schlüssel", "ключ", "鍵", "0x", "0xweb", "81000100", "pkcs11"} {
		if err := CheckLabel(label); err != nil {
			t.Errorf("%q: %v", label, err)
		}
	}
	for name, label := range map[string]string{
		"nothing":                   "",
		"a handle":                  "0x81000100",
		"a handle in capitals":      "0X81000100",
		"a URI":                     "pkcs11:x",
		"a URI in capitals":         "PKCS11:object=web",
		"a line break":              "web\nmail",
		"an escape sequence":        "\x1b[31mweb",
		"a zero-width space":        "web\u200b",
		"a change of direction":     "web\u202egpj",
		"a character without shape": "web\u3164",
		"a space that is none":      "web\u00a0",
		"what is not UTF-8":         "web\xff",
		"a book":                    strings.Repeat("x", 256),
	} {
		err := CheckLabel(label)
		if !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if len(err.Error()) > 200 {
			t.Errorf("%s: the message echoes all of it: %v", name, err)
		}
	}
}

func TestALabelIsTakenOnceUnlessItMayRepeat(t *testing.T) {
	t.Parallel()
	s := tpmStore(t)
	token := s.initialized(t, "", "")
	unique := signing("web")
	unique.Unique = true
	first := create(t, token, unique)
	before := handles(t, token)
	if _, err := token.CreateKey(ctx, unique); !errors.Is(err, ErrLabelTaken) {
		t.Errorf("a new key of the same label: %v", err)
	}
	wantHandles(t, token, before...)
	must(t, token.TPM().Persist(ctx, wrapped(first.Object), 0x81000180))
	must(t, token.Delete(ctx, first, false))
	create(t, token, unique)
	if _, err := token.Link(ctx, 0x81000180, unique); !errors.Is(err, ErrLabelTaken) {
		t.Errorf("a linked key of the same label: %v", err)
	}
	create(t, token, signing("web"))
	if got := labels(t, token); len(got) != 2 {
		t.Errorf("labels that may repeat: %v", got)
	}
}

func TestAnEllipticCurveKeyThatDecryptsIsNotMade(t *testing.T) {
	t.Parallel()
	token := tpmStore(t).initialized(t, "", "")
	for _, use := range []provider.Use{{Decrypt: true}, {Sign: true, Decrypt: true}} {
		spec := signing("web")
		spec.Use = use
		if _, err := token.CreateKey(ctx, spec); !errors.Is(err, ErrInvalid) {
			t.Errorf("%+v: %v", use, err)
		}
	}
}
