package provider_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

func TestSealedDataComesBackAndNeverTravels(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	both := b.bound(t, currentPCRs(7), policy.PIN{})
	pcrs := b.bound(t, currentPCRs(7))
	long := string(bytes.Repeat([]byte("0123456789abcdef"), provider.MaxSealed/16))
	for _, tt := range []struct {
		name, data, authValue string
		tmpl                  provider.Template
		auth                  provider.Auth
	}{
		{"plain", "a sealed secret", "", provider.Template{}, provider.Auth{}},
		{"as long as may be", long, "", provider.Template{}, provider.Auth{}},
		{"PIN", "a sealed secret", "12345678", provider.Template{DictionaryAttack: true}, provider.Auth{Value: pin("12345678")}},
		{"PCRs", "a sealed secret", "", provider.Template{AuthPolicy: digestOf(t, pcrs)}, provider.Auth{Policy: pcrs}},
		{"PCRs and PIN", "a sealed secret", "12345678", provider.Template{AuthPolicy: digestOf(t, both)}, provider.Auth{Policy: both, Value: pin("12345678")}},
	} {
		b.wire.Reset()
		o, err := b.Seal(t.Context(), pin(tt.data), tt.tmpl, pin(tt.authValue))
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if !o.Public.IsSealed() || o.Public.Describe() != "sealed data" || o.Public.Attributes().NoDA == tt.tmpl.DictionaryAttack {
			t.Errorf("%s: made %s with %+v", tt.name, o.Public.Describe(), o.Public.Attributes())
		}
		data, err := b.Unseal(t.Context(), o, tt.auth)
		if err != nil || string(data.Bytes()) != tt.data {
			t.Errorf("%s: %v", tt.name, err)
		}
		if b.wire.Saw([]byte(tt.data)) || tt.authValue != "" && b.wire.Saw([]byte(tt.authValue)) {
			t.Errorf("%s: the secret or the PIN went over the wire", tt.name)
		}
		if tt.authValue != "" {
			wrong := tt.auth
			wrong.Value = pin("wrong")
			if _, err := b.Unseal(t.Context(), o, wrong); !errors.Is(err, provider.ErrAuth) {
				t.Errorf("%s, wrong PIN: %v", tt.name, err)
			}
		}
	}
}

func TestSealRefusesWhatDoesNotFit(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	key := b.key(t, signKey, "")
	b.wire.Reset()
	for name, try := range map[string]func() error{
		"nothing": func() error { _, err := b.Seal(t.Context(), nil, provider.Template{}, nil); return err },
		"too much": func() error {
			_, err := b.Seal(t.Context(), pin(string(make([]byte, 129))), provider.Template{}, nil)
			return err
		},
		"a long auth value": func() error {
			_, err := b.Seal(t.Context(), pin("x"), provider.Template{}, pin(string(make([]byte, 33))))
			return err
		},
		"half a policy digest": func() error {
			_, err := b.Seal(t.Context(), pin("x"), provider.Template{AuthPolicy: make([]byte, 16)}, nil)
			return err
		},
		"unsealing a key": func() error { _, err := b.Unseal(t.Context(), key, provider.Auth{}); return err },
		"an unknown key type": func() error {
			_, err := b.CreateKey(t.Context(), provider.Template{Type: "dsa", Use: provider.Use{Sign: true}}, nil)
			return err
		},
		"a key that may do nothing": func() error {
			_, err := b.CreateKey(t.Context(), provider.Template{Type: provider.P256}, nil)
			return err
		},
	} {
		if err := try(); !errors.Is(err, provider.ErrUnsupported) && !errors.Is(err, provider.ErrWrongUse) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := len(b.wire.Exchanges()); n != 0 {
		t.Errorf("%d commands were sent", n)
	}
}

func TestChangeAuth(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	old := b.key(t, signKey, "old value")
	b.wire.Reset()
	changed, err := b.ChangeAuth(t.Context(), old, provider.Auth{Value: pin("old value")}, pin("new value"))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name  string
		key   provider.Object
		value string
		want  error
	}{
		{"the new blob", changed, "new value", nil},
		{"the new blob with the old value", changed, "old value", provider.ErrAuth},
		{"the old blob", old, "old value", nil},
	} {
		if err := b.trySign(t.Context(), tt.key, provider.Auth{Value: pin(tt.value)}); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	if b.wire.Saw([]byte("old value")) || b.wire.Saw([]byte("new value")) {
		t.Error("an auth value went over the wire")
	}
	if _, err := b.ChangeAuth(t.Context(), old, provider.Auth{Value: pin("wrong")}, pin("new value")); !errors.Is(err, provider.ErrAuth) {
		t.Errorf("with a wrong value: %v", err)
	}
	empty, err := b.ChangeAuth(t.Context(), old, provider.Auth{Value: pin("old value")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.trySign(t.Context(), empty, provider.Auth{}); err != nil {
		t.Errorf("with the value taken away: %v", err)
	}

	bound := b.bound(t, currentPCRs(7))
	key := b.boundKey(t, bound, "value")
	if _, err := b.ChangeAuth(t.Context(), key, provider.Auth{Value: pin("value")}, nil); !errors.Is(err, provider.ErrPolicy) {
		t.Errorf("a bound key's auth value changed without its policy: %v", err)
	}
	_, err = b.ChangeAuth(t.Context(), key, provider.Auth{Policy: bound}, pin("other"))
	if !errors.Is(err, provider.ErrPolicy) || !strings.Contains(err.Error(), "TPM2_ObjectChangeAuth") {
		t.Errorf("a bound key's auth value changed by a policy that does not name the command: %v", err)
	}
}

func TestWrappedObjectsAreOfNoUseElsewhere(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	other := newStore(t)
	o, err := b.Seal(t.Context(), pin("data"), provider.Template{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Unseal(t.Context(), o, provider.Auth{Label: "data"}); !errors.Is(err, provider.ErrWrongTPM) {
		t.Errorf("another TPM unsealed: %v", err)
	}
	mixed := b.key(t, signKey, "")
	mixed.Private = b.key(t, signKey, "").Private
	if err := b.Load(t.Context(), mixed); !errors.Is(err, provider.ErrWrongTPM) {
		t.Errorf("the private area of one key with the public area of another: %v", err)
	}
	if got := b.wire.Count(tpm2.TPMCCLoad); got != 1 {
		t.Errorf("%d loads", got)
	}
}
