package signer

import (
	"os"
	"path/filepath"
	"testing"
)

func TestOptionsAndConfiguration(t *testing.T) {
	t.Parallel()
	conf := filepath.Join(t.TempDir(), "tpm2-p11.conf")
	if err := os.WriteFile(conf, []byte("tpm = \"device:/dev/tpm0\"\nstore = \"/srv/keys\"\nlog = \"stderr\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	defaults, err := options{tpm: "swtpm:path=/s"}.configuration()
	if err != nil {
		t.Fatal(err)
	}
	defaultStore := defaults.Tokens[0].Store
	for _, c := range []struct {
		name       string
		with       []Option
		tpm, store string
	}{
		{"a configuration", []Option{WithConfig(conf)}, "device:/dev/tpm0", "/srv/keys"},
		{"another TPM", []Option{WithConfig(conf), WithTPM("swtpm:path=/s")}, "swtpm:path=/s", "/srv/keys"},
		{"another store", []Option{WithConfig(conf), WithStore("/other")}, "device:/dev/tpm0", "/other"},
		// TPM2_P11_CONF, which is set in these tests, is not read.
		{"a TPM alone", []Option{WithTPM("swtpm:path=/s")}, "swtpm:path=/s", defaultStore},
		{"a store alone", []Option{WithStore("/other")}, "", "/other"},
	} {
		var o options
		for _, set := range c.with {
			set(&o)
		}
		got, err := o.configuration()
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if len(got.Tokens) != 1 || got.Tokens[0].TPM != c.tpm || got.Tokens[0].Store != c.store {
			t.Errorf("%s: got %+v", c.name, got.Tokens)
		}
		if got.Log != "off" {
			t.Errorf("%s: a library that logs to %q", c.name, got.Log)
		}
	}
	// Options cannot say what a configuration may not.
	for name, c := range map[string]struct {
		text string
		with Option
	}{
		"a store for several tokens": {"[[token]]\nlabel = \"a\"\nstore = \"a\"\n[[token]]\nlabel = \"b\"\nstore = \"b\"\n", WithStore("/other")},
		"one TPM with two owner authorisations": {"[[token]]\nlabel = \"a\"\nstore = \"a\"\ntpm = \"device:/dev/a\"\nowner_auth_file = \"x\"\n" +
			"[[token]]\nlabel = \"b\"\nstore = \"b\"\ntpm = \"device:/dev/b\"\nowner_auth_file = \"y\"\n", WithTPM("swtpm:path=/s")},
	} {
		if err := os.WriteFile(conf, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		var o options
		WithConfig(conf)(&o)
		c.with(&o)
		if got, err := o.configuration(); err == nil {
			t.Errorf("%s: got %+v", name, got.Tokens)
		}
	}
	if filepath.Dir(defaultStore) == filepath.Dir(os.Getenv("TPM2_P11_CONF")) {
		t.Errorf("the default store is that of $TPM2_P11_CONF: %s", defaultStore)
	}
}
