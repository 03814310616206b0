package keystore

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tpm2-p11/tpm2-p11/internal/secret"
	"github.com/tpm2-p11/tpm2-p11/keystore/tss2"
	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

const aesValue = "0123456789abcdef"

func aesSpec(label string) SecretSpec {
	return SecretSpec{Label: label, Info: SecretInfo{Kind: SecretAES, Length: 16, Private: true, Sensitive: true, Use: []SecretUse{UseDecrypt, UseEncrypt}}}
}

// keep puts a secret into the store.
func keep(t testing.TB, token *Token, s SecretSpec, value string) Entry {
	t.Helper()
	v := secret.From([]byte(value))
	defer v.Wipe()
	e, err := token.CreateSecret(ctx, v, s)
	must(t, err)
	return e
}

func opened(token *Token, e Entry) (string, error) {
	value, err := token.OpenSecret(ctx, e)
	if err != nil {
		return "", err
	}
	defer value.Wipe()
	return string(value.Bytes()), nil
}

// secretCalled is the one secret of a label.
func secretCalled(t testing.TB, token *Token, label string) Entry {
	t.Helper()
	all, err := token.Secrets()
	must(t, err)
	at := slices.IndexFunc(all, func(e Entry) bool { return e.Label == label })
	if at < 0 {
		t.Fatalf("there is no secret %q among %v", label, all)
	}
	return all[at]
}

// A secret is sealed under the token's PIN, is no key, and its file shows nothing.
func TestASecretIsKept(t *testing.T) {
	t.Parallel()
	s := tpmStore(t)
	token := s.initialized(t, "1234", "5678")
	v := secret.From([]byte(aesValue))
	if _, err := token.CreateSecret(ctx, v, aesSpec("kept")); !errors.Is(err, ErrLoginNeeded) {
		t.Errorf("without a login: %v", err)
	}
	must(t, token.Login(ctx, User, pin("1234")))
	e := keep(t, token, aesSpec("kept"), aesValue)
	if keys, err := token.Keys(); err != nil || len(keys) != 0 {
		t.Errorf("it is among the keys: %v, %v", keys, err)
	}
	if _, err := token.Find(Query{Label: "kept"}); !errors.Is(err, ErrNotFound) {
		t.Errorf("it is found as a key: %v", err)
	}
	key, err := tss2.Decode(s.read(t, e.ID+pemSuffix))
	must(t, err)
	if !key.Sealed || key.EmptyAuth {
		t.Errorf("its PEM is not sealed data with an authorisation: %+v", key)
	}
	for _, suffix := range []string{pemSuffix, sidecarSuffix} {
		if bytes.Contains(s.read(t, e.ID+suffix), []byte(aesValue)) {
			t.Errorf("%s has it in the clear", suffix)
		}
	}

	// Another process, before its login and after.
	other := s.open(t)
	e = secretCalled(t, other, "kept")
	if e.Secret.String() != "aes128" || !e.Secret.Allows(UseDecrypt) || e.Secret.Allows(UseWrap) || e.Linked() {
		t.Errorf("it is read as %+v", e)
	}
	if _, err := opened(other, e); !errors.Is(err, ErrLoginNeeded) {
		t.Errorf("before the login: %v", err)
	}
	must(t, other.Login(ctx, User, pin("1234")))
	if got, err := opened(other, e); err != nil || got != aesValue {
		t.Errorf("it opens as %q, %v", got, err)
	}
	renamed, err := other.SetMetadata(e, Metadata{Label: "renamed", CKAID: []byte{1}})
	must(t, err)
	if got, err := opened(other, renamed); err != nil || got != aesValue || renamed.Label != "renamed" {
		t.Errorf("renamed it opens as %q, %v", got, err)
	}
	if _, err := other.Persist(ctx, renamed, 0); !errors.Is(err, ErrInvalid) {
		t.Errorf("it is persisted: %v", err)
	}
	must(t, other.Delete(ctx, renamed, false))
	if files, _ := filepath.Glob(filepath.Join(s.dir, e.ID+"*")); len(files) != 0 {
		t.Errorf("files are left: %v", files)
	}
}

// Every byte that a file has of a secret counts: what was changed is not read, or does not open.
func TestAChangedSecretDoesNotOpen(t *testing.T) {
	t.Parallel()
	s := tpmStore(t)
	token := s.initialized(t, "", "")
	spec := aesSpec("kept")
	spec.Info.Mechanism, spec.Info.Mechanisms, spec.Info.KMSCiphertext = 0x1080, []uint64{0x1087}, []byte("ciphertext")
	e := keep(t, token, spec, aesValue)
	other := keep(t, token, aesSpec("other"), "fedcba9876543210")
	sideFile, pemFile := e.ID+sidecarSuffix, e.ID+pemSuffix
	side, pemText := s.read(t, sideFile), s.read(t, pemFile)

	change := func(name string, edit func(part map[string]any)) {
		t.Helper()
		var whole map[string]any
		must(t, json.Unmarshal(side, &whole))
		edit(whole["secret"].(map[string]any))
		text, err := json.Marshal(whole)
		must(t, err)
		s.write(t, sideFile, text)
		for _, found := range secretsOf(t, token) {
			if found.ID == e.ID {
				if got, err := opened(token, found); !errors.Is(err, ErrCorrupt) {
					t.Errorf("%s: it opens as %q, %v", name, got, err)
				}
			}
		}
	}
	for field, value := range map[string]any{
		"kind": "generic", "use": []string{"decrypt", "encrypt", "wrap"}, "sensitive": false, "extractable": true, "private": false, "mechanism": 1,
		"mechanisms": nil, "always_sensitive": true, "never_extractable": true, "wrap_with_trusted": true, "application": "x", "object_id": "AAAA",
		"kms_ciphertext": "AAAA", "length": 24, "public": true, "plain": "AAAA", "sealed": "AAAA",
	} {
		change(field, func(part map[string]any) { part[field] = value })
	}
	for _, b := range []int{0, 5, 15, 16, 31} {
		change("a bit of the value", func(part map[string]any) {
			var sealed []byte
			must(t, json.Unmarshal([]byte(`"`+part["sealed"].(string)+`"`), &sealed))
			sealed[b] ^= 1
			part["sealed"] = sealed
		})
	}

	// The file of another secret, and its PEM.
	s.write(t, sideFile, s.read(t, other.ID+sidecarSuffix))
	if ids := idsOf(secretsOf(t, token)); slices.Contains(ids, e.ID) {
		t.Error("with another secret's sidecar it is listed")
	}
	s.write(t, sideFile, side)
	s.write(t, pemFile, s.read(t, other.ID+pemSuffix))
	if ids := idsOf(secretsOf(t, token)); slices.Contains(ids, e.ID) {
		t.Error("with another secret's PEM it is listed")
	}
	problems, err := token.Problems()
	must(t, err)
	if len(problems) == 0 {
		t.Error("nothing is said of it")
	}

	// A torn sidecar is one problem, and says nothing of the PEM.
	s.write(t, pemFile, pemText)
	s.write(t, sideFile, []byte("torn"))
	if problems, err = token.Problems(); err != nil || len(problems) != 1 || problems[0].File != sideFile {
		t.Errorf("with a torn sidecar: %v, %v", problems, err)
	}
	s.write(t, sideFile, side)
	if got, err := opened(token, secretCalled(t, token, "kept")); err != nil || got != aesValue {
		t.Errorf("put back, it opens as %q, %v", got, err)
	}
	if got, err := opened(token, other); err != nil || got != "fedcba9876543210" {
		t.Errorf("the other one opens as %q, %v", got, err)
	}
}

func secretsOf(t testing.TB, token *Token) []Entry {
	t.Helper()
	all, err := token.Secrets()
	must(t, err)
	return all
}

func idsOf(entries []Entry) (ids []string) {
	for _, e := range entries {
		ids = append(ids, e.ID)
	}
	return ids
}

// A key with the sidecar of a secret remains a key, and a secret's PEM alone is nothing.
func TestKeysAndSecretsAreNotMixed(t *testing.T) {
	t.Parallel()
	s := tpmStore(t)
	token := s.initialized(t, "", "")
	spec := signing("web")
	spec.Wrapped = true
	e := create(t, token, spec)
	kept := keep(t, token, aesSpec("kept"), aesValue)
	side, err := parseSidecar(s.read(t, kept.ID+sidecarSuffix))
	must(t, err)
	side.Name = hexText(e.Object.Public.Name())
	s.writeSidecar(t, e.ID, side)
	keys, err := token.Keys()
	must(t, err)
	if len(keys) != 1 || keys[0].Secret != nil || keys[0].Label != e.ID {
		t.Errorf("the key is %+v", keys)
	}
	must(t, os.Remove(filepath.Join(s.dir, kept.ID+sidecarSuffix)))
	if all := secretsOf(t, token); len(all) != 0 {
		t.Errorf("a secret without its sidecar is listed: %v", all)
	}
	if keys, err := token.Keys(); err != nil || len(keys) != 1 {
		t.Errorf("a secret's PEM is a key: %v, %v", keys, err)
	}
}

// Public data takes no TPM and no PIN.
func TestPublicData(t *testing.T) {
	t.Parallel()
	s := tpmStore(t)
	token := s.initialized(t, "1234", "5678")
	s.swtpm.Stop(t)
	info := SecretInfo{Kind: SecretData, Length: 7, Application: "app"}
	e := keep(t, token, SecretSpec{Label: "open", Info: info, Public: true}, "for all")
	twin := keep(t, token, SecretSpec{Label: "open", Info: info, Public: true}, "for all")
	if all := secretsOf(t, token); len(all) != 2 {
		t.Fatalf("%d objects", len(all))
	}
	if got, err := opened(token, e); err != nil || got != "for all" {
		t.Errorf("it opens as %q, %v", got, err)
	}
	must(t, token.Delete(ctx, e, false))
	if all := secretsOf(t, token); len(all) != 1 || all[0].ID != twin.ID {
		t.Errorf("left are %v", all)
	}
}

func TestSecretsThatCannotBeKept(t *testing.T) {
	t.Parallel()
	s := tpmStore(t)
	token := s.initialized(t, "", "")
	data := func(n int) SecretInfo { return SecretInfo{Kind: SecretData, Length: n} }
	for name, c := range map[string]struct {
		value int
		spec  SecretSpec
	}{
		"without a label":         {16, aesSpec("")},
		"an AES key of 15 bytes":  {15, SecretSpec{Label: "x", Info: SecretInfo{Kind: SecretAES, Length: 15}}},
		"another length":          {17, aesSpec("x")},
		"no kind":                 {16, SecretSpec{Label: "x", Info: SecretInfo{Kind: "des", Length: 16}}},
		"an empty key":            {0, SecretSpec{Label: "x", Info: SecretInfo{Kind: SecretGeneric}}},
		"a huge key":              {513, SecretSpec{Label: "x", Info: SecretInfo{Kind: SecretGeneric, Length: 513}}},
		"huge data":               {MaxSecretData + 1, SecretSpec{Label: "x", Info: data(MaxSecretData + 1)}},
		"data that encrypts":      {1, SecretSpec{Label: "x", Info: SecretInfo{Kind: SecretData, Length: 1, Use: []SecretUse{UseEncrypt}}}},
		"uses in disorder":        {16, SecretSpec{Label: "x", Info: SecretInfo{Kind: SecretAES, Length: 16, Use: []SecretUse{UseEncrypt, UseDecrypt}}}},
		"an unknown use":          {16, SecretSpec{Label: "x", Info: SecretInfo{Kind: SecretAES, Length: 16, Use: []SecretUse{"derive"}}}},
		"a public key":            {16, SecretSpec{Label: "x", Info: SecretInfo{Kind: SecretAES, Length: 16}, Public: true}},
		"public data of a policy": {1, SecretSpec{Label: "x", Info: data(1), Public: true, Policy: policy.Policy{Root: policy.PIN{}}}},
		"an application's binary": {1, SecretSpec{Label: "x", Info: SecretInfo{Kind: SecretData, Length: 1, Application: "\xff"}}},
		"too much to say":         {1, SecretSpec{Label: "x", Info: SecretInfo{Kind: SecretData, Length: 1, ObjectID: make([]byte, maxFacts)}}},
	} {
		v := secret.New(c.value)
		if _, err := token.CreateSecret(ctx, v, c.spec); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
		v.Wipe()
	}
	if names, _ := filepath.Glob(filepath.Join(s.dir, "*.*[nm]")); len(names) != 1 {
		t.Errorf("files are left: %v", names)
	}
	if _, err := opened(token, create(t, token, signing("web"))); !errors.Is(err, ErrInvalid) {
		t.Errorf("a key is opened: %v", err)
	}
}

// A crash on the way leaves the whole secret or nothing.
func TestAnInterruptedSecretConverges(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		state   State
		lostPEM bool
		there   bool
	}{
		{"creation: before the PEM", Pending, true, false},
		{"creation: after the PEM", Pending, false, true},
		{"deletion: before its PEM's", Deleting, false, false},
		{"deletion: after its PEM's", Deleting, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := tpmStore(t)
			token := s.initialized(t, "", "")
			e := keep(t, token, aesSpec("kept"), aesValue)
			side, err := parseSidecar(s.read(t, e.ID+sidecarSuffix))
			must(t, err)
			side.State = c.state
			s.writeSidecar(t, e.ID, side)
			if c.lostPEM {
				must(t, os.Remove(filepath.Join(s.dir, e.ID+pemSuffix)))
			}
			must(t, s.open(t).Recover(ctx))
			all := secretsOf(t, token)
			if !c.there {
				if files, _ := filepath.Glob(filepath.Join(s.dir, e.ID+"*")); len(all) != 0 || len(files) != 0 {
					t.Errorf("left are %v and %v", all, files)
				}
				return
			}
			if len(all) != 1 || all[0].State != Ready {
				t.Fatalf("left are %v", all)
			}
			if got, err := opened(token, all[0]); err != nil || got != aesValue {
				t.Errorf("it opens as %q, %v", got, err)
			}
		})
	}
}

// A secret of another machine's store, or of a token that was made anew, does not open, and the log has no secret.
func TestASecretBelongsToItsToken(t *testing.T) {
	t.Parallel()
	s := tpmStore(t)
	token := s.initialized(t, "1234", "5678")
	must(t, token.Login(ctx, User, pin("1234")))
	keep(t, token, aesSpec("kept"), aesValue)
	must(t, token.Init(ctx, InitOptions{Label: "again", UserPIN: pin("1234"), SOPIN: pin("5678"), Force: true}))
	must(t, token.Login(ctx, User, pin("1234")))
	if got, err := opened(token, secretCalled(t, token, "kept")); !errors.Is(err, provider.ErrAuth) {
		t.Errorf("in the new token it opens as %q, %v", got, err)
	}
	must(t, os.Chmod(s.dir, 0o700))
	away := tpmStore(t)
	foreign := away.initialized(t, "1234", "5678")
	must(t, foreign.Login(ctx, User, pin("1234")))
	for _, name := range idsOf(secretsOf(t, token)) {
		away.write(t, name+pemSuffix, s.read(t, name+pemSuffix))
		away.write(t, name+sidecarSuffix, s.read(t, name+sidecarSuffix))
	}
	if got, err := opened(foreign, secretCalled(t, foreign, "kept")); err == nil {
		t.Errorf("on another machine it opens as %q", got)
	}
	if log := s.log.String() + away.log.String(); strings.Contains(log, aesValue) {
		t.Errorf("the log has the secret:\n%s", log)
	}
}
