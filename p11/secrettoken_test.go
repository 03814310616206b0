package p11

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tpm2-p11/tpm2-p11/internal/tokens"
)

// elsewhere is a module of another process on the same token, which is logged in unless the token has no PIN.
func (w *world) elsewhere(make func(func() (*tokens.Set, error)) *Module) *world {
	w.t.Helper()
	other := *w
	other.Module = make(func() (*tokens.Set, error) { return &tokens.Set{Tokens: w.lib.set.Tokens, Logger: w.lib.log}, nil })
	w.must(other.Initialize(0, false))
	w.t.Cleanup(func() { _ = other.Finalize() })
	return &other
}

// A token key is sealed: it is there for every process, works after the login alone, and is never shown.
func TestSecretTokenKey(t *testing.T) {
	t.Parallel()
	w := guarded(t)
	s := w.session(true)
	_, err := w.GenerateKey(s, Mechanism{Type: CKM_AES_KEY_GEN}, []Attribute{number(CKA_VALUE_LEN, 32), flag(CKA_TOKEN, true)})
	w.refused(err, CKR_USER_NOT_LOGGED_IN)
	w.must(w.Login(s, CKU_USER, []byte(userPIN)))
	key, err := w.GenerateKey(s, Mechanism{Type: CKM_AES_KEY_GEN}, []Attribute{number(CKA_VALUE_LEN, 32), flag(CKA_TOKEN, true), label("kept"), {CKA_ID, []byte{7}}})
	w.must(err)
	for a, want := range map[AttributeType]bool{
		CKA_TOKEN: true, CKA_PRIVATE: true, CKA_LOCAL: true, CKA_SENSITIVE: true, CKA_EXTRACTABLE: false, CKA_ALWAYS_SENSITIVE: true, CKA_NEVER_EXTRACTABLE: true,
	} {
		if got := w.attribute(s, key, a); !bytes.Equal(got, boolean(want)) {
			t.Errorf("attribute 0x%x is %x, want %t", uint64(a), got, want)
		}
	}
	gcm := flatGCM(make([]byte, 12), nil, 128)
	ciphertext, err := w.encrypt(s, gcm, key, []byte("the contract"))
	w.must(err)
	_, err = w.GetAttributeValue(s, key, []AttributeQuery{{Type: CKA_VALUE, Capacity: 100}})
	w.refused(err, CKR_ATTRIBUTE_SENSITIVE)

	// A size query asks no TPM; beginning does, since the key is kept by nobody.
	w.must(w.DecryptInit(s, gcm, key))
	if n := w.commands(func() { w.must(w.Decrypt(s, bytes.Clone(ciphertext), &Output{Query: true})) }); n != 0 {
		t.Errorf("a size query took %d TPM commands", n)
	}
	w.must(w.Decrypt(s, bytes.Clone(ciphertext), &Output{Capacity: 100}))
	if n := w.commands(func() { w.must(w.DecryptInit(s, gcm, key)) }); n == 0 {
		t.Error("the key was kept after its use")
	}

	// Another name, and the same key.
	w.must(w.SetAttributeValue(s, key, []Attribute{label("renamed"), {CKA_ID, []byte{8}}}))
	if found := w.find(s, class(CKO_SECRET_KEY), label("renamed")); len(found) != 1 || found[0] != key {
		t.Errorf("by its new name %v is found", found)
	}
	w.refused(w.SetAttributeValue(s, key, []Attribute{flag(CKA_EXTRACTABLE, true)}), CKR_ATTRIBUTE_READ_ONLY)
	w.must(w.Logout(s))
	if found := w.find(s); len(found) != 0 {
		t.Errorf("before the login %d objects are seen", len(found))
	}
	w.refused(w.EncryptInit(s, gcm, key), CKR_USER_NOT_LOGGED_IN)
	w.refused(w.DestroyObject(s, key), CKR_OBJECT_HANDLE_INVALID)

	// After a restart.
	w.must(w.Finalize())
	w.must(w.Initialize(0, false))
	s = w.session(true)
	w.must(w.Login(s, CKU_USER, []byte(userPIN)))
	again := w.one(s, CKO_SECRET_KEY)
	if again != key {
		t.Error("the handle is another one in another process")
	}
	if got, err := w.decrypt(s, gcm, again, bytes.Clone(ciphertext)); err != nil || string(got) != "the contract" {
		t.Errorf("decrypted %q, %v", got, err)
	}
	w.must(w.DestroyObject(s, again))
	if found := w.find(s); len(found) != 0 {
		t.Errorf("%d objects are left", len(found))
	}
	if files, err := filepath.Glob(filepath.Join(w.token.Dir(), "*.pem")); err != nil || len(files) != 0 {
		t.Errorf("files are left: %v, %v", files, err)
	}
}

// Data objects: private ones are sealed, public ones are for everybody.
func TestDataObjects(t *testing.T) {
	t.Parallel()
	w := guarded(t)
	s := w.session(true)
	w.must(w.Login(s, CKU_USER, []byte(userPIN)))
	canary := []byte("canary-canary-canary")
	private := w.create(s, class(CKO_DATA), flag(CKA_TOKEN, true), label("secret"), Attribute{CKA_APPLICATION, []byte("app")}, Attribute{CKA_OBJECT_ID, []byte{6, 1, 42}},
		Attribute{CKA_VALUE, bytes.Clone(canary)})
	public := w.create(s, class(CKO_DATA), flag(CKA_TOKEN, true), flag(CKA_PRIVATE, false), label("open"), Attribute{CKA_VALUE, []byte("for all")})
	large := bytes.Repeat([]byte("0123456789abcdef"), 4096)
	big := w.create(s, class(CKO_DATA), flag(CKA_TOKEN, true), label("large"), Attribute{CKA_VALUE, bytes.Clone(large)})
	empty := w.create(s, class(CKO_DATA), flag(CKA_TOKEN, true), label("empty"))

	for o, want := range map[ObjectHandle][]byte{private: canary, public: []byte("for all"), big: large, empty: {}} {
		r, err := w.GetAttributeValue(s, o, []AttributeQuery{{Type: CKA_VALUE, Capacity: 1 << 17}})
		w.must(err)
		if !bytes.Equal(r[0].Value, want) {
			t.Errorf("%d bytes of data came back as %d", len(want), r[0].Length)
		}
	}
	if n := w.commands(func() {
		r, err := w.GetAttributeValue(s, private, []AttributeQuery{{Type: CKA_VALUE, Query: true}})
		w.must(err)
		if r[0].Length != uint64(len(canary)) {
			t.Errorf("the length is %d", r[0].Length)
		}
	}); n != 0 {
		t.Errorf("a size query took %d TPM commands", n)
	}
	if found := w.find(s, class(CKO_DATA), Attribute{CKA_APPLICATION, []byte("app")}, Attribute{CKA_OBJECT_ID, []byte{6, 1, 42}}); len(found) != 1 || found[0] != private {
		t.Errorf("by its application %v is found", found)
	}
	err := filepath.WalkDir(w.token.Dir(), func(path string, _ os.DirEntry, err error) error {
		if content, _ := os.ReadFile(path); bytes.Contains(content, canary) || bytes.Contains(content, []byte("Y2FuYXJ5")) {
			t.Errorf("%s has the secret in the clear", path)
		}
		return err
	})
	w.must(err)
	if strings.Contains(w.log.String(), "canary") {
		t.Error("the log has the secret")
	}

	// A copy of what is private is not public.
	_, err = w.CopyObject(s, private, []Attribute{flag(CKA_PRIVATE, false)})
	w.refused(err, CKR_TEMPLATE_INCONSISTENT)
	copied, err := w.CopyObject(s, private, []Attribute{flag(CKA_TOKEN, false), label("copy")})
	w.must(err)
	if got := w.attribute(s, copied, CKA_VALUE); !bytes.Equal(got, canary) {
		t.Errorf("the copy is %q", got)
	}

	w.must(w.Logout(s))
	if found := w.find(s); len(found) != 1 || found[0] != public {
		t.Errorf("before the login %v are seen, want %v", found, public)
	}
	if got := w.attribute(s, public, CKA_VALUE); string(got) != "for all" {
		t.Errorf("public data is %q", got)
	}
	_, err = w.GetAttributeValue(s, private, []AttributeQuery{{Type: CKA_VALUE, Capacity: 100}})
	w.refused(err, CKR_OBJECT_HANDLE_INVALID)
	w.must(w.Login(s, CKU_USER, []byte(userPIN)))
	for _, o := range []ObjectHandle{private, public, big, empty} {
		w.must(w.DestroyObject(s, o))
	}
	if found := w.find(s); len(found) != 0 {
		t.Errorf("%d objects are left", len(found))
	}
}

// A secret under a policy opens only as long as the machine is as it was.
func TestSecretUnderAPolicy(t *testing.T) {
	t.Parallel()
	w := open(t)
	s := w.session(true)
	bound := Attribute{CKA_TPM2_POLICY, []byte("sha256:8")}
	w.machine.Extend(t, "sha256", 8, []byte("as it was"))
	key := w.aes(s, unhex(t, f128), flag(CKA_TOKEN, true), bound)
	data := w.create(s, class(CKO_DATA), flag(CKA_TOKEN, true), bound, Attribute{CKA_VALUE, []byte("secret")})
	if got := w.attribute(s, key, CKA_TPM2_POLICY); !strings.Contains(string(got), "PCR") && !strings.Contains(string(got), "8") {
		t.Errorf("CKA_TPM2_POLICY is %q", got)
	}
	iv := Mechanism{CKM_AES_CBC_PAD, make([]byte, 16)}
	w.must(w.EncryptInit(s, iv, key))
	if got := w.attribute(s, data, CKA_VALUE); string(got) != "secret" {
		t.Errorf("the data is %q", got)
	}
	_, err := w.CopyObject(s, key, []Attribute{flag(CKA_TOKEN, false)})
	w.refused(err, CKR_TEMPLATE_INCONSISTENT)
	copied, err := w.CopyObject(s, key, []Attribute{label("copy")})
	w.must(err)

	w.machine.Extend(t, "sha256", 8, []byte("something else"))
	w.refused(w.DecryptInit(s, iv, key), CKR_FUNCTION_REJECTED)
	w.refused(w.DecryptInit(s, iv, copied), CKR_FUNCTION_REJECTED)
	_, err = w.GetAttributeValue(s, data, []AttributeQuery{{Type: CKA_VALUE, Capacity: 100}})
	w.refused(err, CKR_FUNCTION_REJECTED)
}

// A client that asks for one value many times in a call gets it, and keeps neither the TPM nor the memory busier than one that asks once.
func TestAHiddenValueIsOpenedOnceACall(t *testing.T) {
	t.Parallel()
	w := open(t)
	s := w.session(true)
	before := w.machine.Count(t)
	w.machine.Extend(t, "sha256", 8, []byte("as it was"))
	bound := Attribute{CKA_TPM2_POLICY, []byte("sha256:8")}
	kept := w.create(s, class(CKO_DATA), flag(CKA_TOKEN, true), bound, Attribute{CKA_VALUE, []byte("secret")})
	long := w.create(s, class(CKO_DATA), Attribute{CKA_VALUE, make([]byte, 64<<10)})
	times := func(n int, o ObjectHandle) (results []AttributeResult, err error) {
		return w.GetAttributeValue(s, o, slices.Repeat([]AttributeQuery{{Type: CKA_VALUE, Capacity: 64 << 10}}, n))
	}

	once := w.commands(func() { w.must(second(times(1, kept))) })
	if often := w.commands(func() { w.must(second(times(1000, kept))) }); often > once {
		t.Errorf("1000 values in a call take %d TPM commands, one takes %d", often, once)
	}
	request := message(t, numbered(t, "C_GetAttributeValue"), int(s), int(kept), 2, int(CKA_VALUE), false, 6, int(CKA_VALUE), false, 6)
	if response := w.Dispatch(request); bytes.Count(response, []byte("secret")) != 2 {
		t.Errorf("the response to two queries is %q", response)
	}
	for n, want := range map[int]RV{15: CKR_OK, 16: CKR_GENERAL_ERROR} { // whose values alone are a message
		request := []any{numbered(t, "C_GetAttributeValue"), int(s), int(long), n}
		for range n {
			request = append(request, int(CKA_VALUE), false, 64<<10)
		}
		if got := ResponseRV(w.Dispatch(message(t, request...))); got != want {
			t.Errorf("64 KiB %d times in a call: %v, want %v", n, got, want)
		}
	}
	if log := w.log.String(); !strings.Contains(log, "ask for fewer at once") {
		t.Errorf("the log does not tell what to do:\n%s", log)
	}

	w.machine.Extend(t, "sha256", 8, []byte("something else"))
	once = w.commands(func() { w.refused(second(times(1, kept)), CKR_FUNCTION_REJECTED) })
	if often := w.commands(func() { w.refused(second(times(1000, kept)), CKR_FUNCTION_REJECTED) }); often > once {
		t.Errorf("1000 refusals in a call take %d TPM commands, one takes %d", often, once)
	}
	w.token.TPM().Release()
	if after := w.machine.Count(t); after != before {
		t.Errorf("the TPM holds %+v, before it was %+v", after, before)
	}
}

// Whoever can write the store cannot make a key more than it was: what was changed is shown, and opens nothing.
func TestTamperedSecret(t *testing.T) {
	t.Parallel()
	w := open(t)
	s := w.session(true)
	key := w.aes(s, unhex(t, f128), flag(CKA_TOKEN, true), label("kept"), flag(CKA_DECRYPT, false))
	iv := Mechanism{CKM_AES_CBC_PAD, make([]byte, 16)}
	w.must(w.EncryptInit(s, iv, key))
	secrets, err := w.token.Secrets()
	w.must(err)
	file := filepath.Join(w.token.Dir(), secrets[0].ID+".json")
	whole, err := os.ReadFile(file)
	w.must(err)
	rewrite := func(old, new string) {
		t.Helper()
		changed := strings.Replace(string(whole), old, new, 1)
		if changed == string(whole) {
			t.Fatalf("the file does not have %q:\n%s", old, whole)
		}
		w.must(os.WriteFile(file, []byte(changed), 0o600))
	}
	other := w.session(true)

	rewrite(`"sensitive": true`, `"extractable": true`)
	if got := w.attribute(s, w.one(s, CKO_SECRET_KEY), CKA_EXTRACTABLE); !bytes.Equal(got, []byte{1}) {
		t.Error("the test changed nothing")
	}
	_, err = w.GetAttributeValue(s, key, []AttributeQuery{{Type: CKA_VALUE, Capacity: 100}})
	w.refused(err, CKR_DEVICE_ERROR)
	kek := w.aes(s, unhex(t, f128), flag(CKA_WRAP, true))
	w.refused(w.WrapKey(s, Mechanism{Type: CKM_AES_KEY_WRAP}, kek, key, &Output{Capacity: 100}), CKR_DEVICE_ERROR)

	rewrite(`"encrypt"`, `"decrypt"`)
	w.one(s, CKO_SECRET_KEY, label("kept"))
	w.refused(w.DecryptInit(other, iv, key), CKR_DEVICE_ERROR)

	rewrite(`"kind": "aes"`, `"kind": "generic"`)
	if found := w.find(s, class(CKO_SECRET_KEY), number(CKA_KEY_TYPE, CKK_GENERIC_SECRET)); len(found) != 1 {
		t.Errorf("found %v", found)
	}
	w.refused(w.EncryptInit(other, iv, key), CKR_KEY_TYPE_INCONSISTENT)

	w.must(os.WriteFile(file, whole, 0o600))
	w.must(w.EncryptInit(other, iv, w.one(s, CKO_SECRET_KEY, label("kept"))))
}

// A forked child and a client of the service make session objects, and nothing that the token keeps.
func TestRestrainedApplicationsMakeSessionObjects(t *testing.T) {
	t.Parallel()
	w := open(t)
	s := w.session(true)
	value := Attribute{CKA_VALUE, unhex(t, f128)}
	key := w.aes(s, unhex(t, f128), flag(CKA_TOKEN, true), label("kept"))
	hidden := w.create(s, class(CKO_DATA), flag(CKA_TOKEN, true), label("hidden"), Attribute{CKA_VALUE, []byte("secret")})
	mac := w.create(s, secretTemplate(CKK_GENERIC_SECRET, flag(CKA_TOKEN, true), flag(CKA_SIGN, true), flag(CKA_SENSITIVE, false), flag(CKA_EXTRACTABLE, true), label("mac"),
		Attribute{CKA_VALUE, make([]byte, 32)})...)
	iv := Mechanism{CKM_AES_CBC_PAD, make([]byte, 16)}
	for name, make := range map[string]func(func() (*tokens.Set, error)) *Module{
		"a forked child": func(load func() (*tokens.Set, error)) *Module { return NewForked(load, nil) },
		"a client": func(load func() (*tokens.Set, error)) *Module {
			return NewServed(load, func(_, key, purpose string) bool { return key == "kept" && purpose == "decrypt" }, 0, nil)
		},
	} {
		child := w.elsewhere(make)
		c := child.session(true)
		calls := map[string]struct {
			want RV
			args []any
		}{
			"C_CreateObject": {CKR_OK, []any{int(c), 3, 0, ulong(uint64(CKO_SECRET_KEY)), 0x100, ulong(CKK_AES), 0x11, bytes.Clone(value.Value)}},
			"C_GenerateKey":  {CKR_OK, []any{int(c), int(CKM_AES_KEY_GEN), []byte(nil), 1, 0x161, ulong(16)}},
			"C_InitToken":    {CKR_TOKEN_WRITE_PROTECTED, []any{0, []byte("pin"), string(padded("x"))}},
			"C_SetPIN":       {CKR_TOKEN_WRITE_PROTECTED, []any{int(c), []byte("1234"), []byte("5678")}},
		}
		for function, call := range calls {
			response := child.Dispatch(message(t, append([]any{numbered(t, function)}, call.args...)...))
			if want := message(t, call.want); !bytes.HasPrefix(response, want) {
				t.Errorf("%s: %s: %x, want %v", name, function, response, call.want)
			}
		}
		own := child.aes(c, value.Value)
		child.must(child.SetAttributeValue(c, own, []Attribute{label("mine")}))
		_, err := child.CopyObject(c, own, []Attribute{flag(CKA_TOKEN, true)})
		child.refused(err, CKR_TOKEN_WRITE_PROTECTED)
		child.must(child.DestroyObject(c, own))
		for what, err := range map[string]error{
			"a token key":  second(child.CreateObject(c, secretTemplate(CKK_AES, flag(CKA_TOKEN, true), Attribute{CKA_VALUE, unhex(t, f128)}))),
			"a generation": second(child.GenerateKey(c, Mechanism{Type: CKM_AES_KEY_GEN}, []Attribute{flag(CKA_TOKEN, true), number(CKA_VALUE_LEN, 16)})),
			"a deletion":   child.DestroyObject(c, key),
			"a new name":   child.SetAttributeValue(c, key, []Attribute{label("x")}),
		} {
			if RVOf(err) != CKR_TOKEN_WRITE_PROTECTED {
				t.Errorf("%s: %s: %v", name, what, err)
			}
		}
		child.must(child.EncryptInit(c, iv, key))
		_, err = child.GetAttributeValue(c, hidden, []AttributeQuery{{Type: CKA_VALUE, Capacity: 100}})
		if want := name == "a forked child"; (err == nil) != want {
			t.Errorf("%s reads another's secret: %v", name, err)
		}
	}
	other := w.elsewhere(func(load func() (*tokens.Set, error)) *Module {
		return NewServed(load, func(_, key, purpose string) bool { return purpose == "sign" }, 0, nil)
	})
	c := other.session(false)
	other.refused(other.EncryptInit(c, iv, key), CKR_KEY_HANDLE_INVALID)
	_, err := other.GetAttributeValue(c, hidden, []AttributeQuery{{Type: CKA_VALUE, Capacity: 100}})
	other.refused(err, CKR_OBJECT_HANDLE_INVALID)
	// What it may use for something is used for nothing else.
	other.must(other.SignInit(c, Mechanism{Type: CKM_SHA256_HMAC}, mac))
	_, err = other.GetAttributeValue(c, mac, []AttributeQuery{{Type: CKA_VALUE, Capacity: 100}})
	other.refused(err, CKR_KEY_FUNCTION_NOT_PERMITTED)
}

func second[T any](_ T, err error) error { return err }

// A token that is made anew keeps nothing of the former one.
func TestInitTokenTakesSecretsAway(t *testing.T) {
	t.Parallel()
	w := open(t)
	s := w.session(true)
	w.aes(s, unhex(t, f128), flag(CKA_TOKEN, true))
	w.create(s, class(CKO_DATA), flag(CKA_TOKEN, true), flag(CKA_PRIVATE, false), Attribute{CKA_VALUE, []byte("open")})
	w.must(w.CloseSession(s))
	w.must(w.InitToken(0, nil, padded("again")))
	if found := w.find(w.session(false)); len(found) != 0 {
		t.Errorf("%d objects are left", len(found))
	}
	if secrets, err := w.token.Secrets(); err != nil || len(secrets) != 0 {
		t.Errorf("%d secrets are left, %v", len(secrets), err)
	}
}

// Nothing of it all stays in the TPM.
func TestSecretsLeaveNothingInTheTPM(t *testing.T) {
	t.Parallel()
	w := open(t)
	s := w.session(true)
	before := w.machine.Count(t)
	key := w.aes(s, unhex(t, f128), flag(CKA_TOKEN, true))
	iv := Mechanism{CKM_AES_CBC_PAD, make([]byte, 16)}
	for range 10 {
		_, err := w.encrypt(s, iv, key, []byte("part"))
		w.must(err)
	}
	w.must(w.DestroyObject(s, key))
	w.lib.set.Release()
	w.token.TPM().Release()
	if now := w.machine.Count(t); now != before {
		t.Errorf("the TPM holds %v now, %v before", now, before)
	}
}
