package config

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
)

const twoTokens = `
[[token]]
label = "a"
store = "/srv/a"
tpm = "device:/dev/tpm0"

[[token]]
label = "b"
store = "/srv/b"
tpm = "device:/dev/tpm1"
`

func TestOverride(t *testing.T) {
	t.Parallel()
	here, err := filepath.Abs("here")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, text string
		override   Override
		want       []Token
	}{
		{"nothing", twoTokens, Override{}, []Token{{Label: "a", Store: "/srv/a", TPM: "device:/dev/tpm0"}, {Label: "b", Store: "/srv/b", TPM: "device:/dev/tpm1"}}},
		{"a TPM for all", twoTokens, Override{TPM: "swtpm:path=/s"}, []Token{{Label: "a", Store: "/srv/a", TPM: "swtpm:path=/s"}, {Label: "b", Store: "/srv/b", TPM: "swtpm:path=/s"}}},
		{"a store for one", twoTokens, Override{Store: "/other", Token: "b"}, []Token{{Label: "b", Store: "/other", TPM: "device:/dev/tpm1"}}},
		{"a relative store for the only one", "store = \"/srv/c\"", Override{Store: "here", Token: "x"}, []Token{{Store: here}}},
	} {
		before, err := root().parse("/etc/x.conf", []byte(c.text))
		if err != nil {
			t.Fatal(err)
		}
		first := before.Tokens[0].TPM
		got, err := before.With(c.override)
		if err != nil || len(got.Tokens) != len(c.want) {
			t.Errorf("%s: %+v, %v", c.name, got.Tokens, err)
			continue
		}
		for i, want := range c.want {
			if g := got.Tokens[i]; g.Label != want.Label || g.Store != want.Store || g.TPM != want.TPM {
				t.Errorf("%s: token %d is %+v", c.name, i, g)
			}
		}
		if before.Tokens[0].TPM != first {
			t.Errorf("%s: the configuration itself was changed", c.name)
		}
	}
}

func TestOverrideRefuses(t *testing.T) {
	t.Parallel()
	parse := func(text string) Config {
		t.Helper()
		c, err := root().parse("/etc/x.conf", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	for _, token := range []string{"", "c"} {
		if _, err := parse(twoTokens).With(Override{Store: "/other", Token: token}); !errors.Is(err, ErrSeveralTokens) {
			t.Errorf("a store for token %q of several: %v", token, err)
		}
	}
	token := func(name, more string) string {
		return "[[token]]\nlabel = \"" + name + "\"\nstore = \"/srv/" + name + "\"\ntpm = \"device:/dev/" + name + "\"\n" + more + "\n"
	}
	const key = "[[token.key]]\nlabel = \"k\"\nhandle = 0x81000100\n"
	for text, want := range map[string]string{
		token("a", "owner_auth_file = \"/x\"") + token("b", "owner_auth_file = \"/y\""):             "x.conf:6: token \"b\" has another owner_auth_file",
		token("a", "endorsement_auth_file = \"/x\"") + token("b", "endorsement_auth_file = \"/y\""): "and a TPM has one endorsement authorisation",
		token("a", key) + token("b", key): "x.conf:13: key \"k\" has the handle 0x81000100",
	} {
		var where *Error
		_, err := parse(text).With(Override{TPM: "swtpm:path=/s"})
		if !errors.As(err, &where) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "swtpm:path=/s") {
			t.Errorf("%v, want %s", err, want)
		}
	}
}
