package p11

import (
	"bytes"
	"crypto/rand"
	"sync"
	"testing"

	"github.com/tpm2-p11/tpm2-p11/keystore"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

func flag(a AttributeType, v bool) Attribute { return Attribute{a, boolean(v)} }

func number(a AttributeType, v uint64) Attribute { return Attribute{a, ulong(v)} }

// secretTemplate is the template of a session key.
func secretTemplate(kind uint64, more ...Attribute) []Attribute {
	return append([]Attribute{class(CKO_SECRET_KEY), number(CKA_KEY_TYPE, kind)}, more...)
}

// create makes an object.
func (w *world) create(s SessionHandle, template ...Attribute) ObjectHandle {
	w.t.Helper()
	o, err := w.CreateObject(s, template)
	w.must(err)
	return o
}

// aes makes an AES session key of a known value.
func (w *world) aes(s SessionHandle, value []byte, more ...Attribute) ObjectHandle {
	w.t.Helper()
	return w.create(s, secretTemplate(CKK_AES, append(more, Attribute{CKA_VALUE, bytes.Clone(value)})...)...)
}

func (w *world) encrypt(s SessionHandle, m Mechanism, key ObjectHandle, data []byte) ([]byte, error) {
	if err := w.EncryptInit(s, m, key); err != nil {
		return nil, err
	}
	out := Output{Capacity: 1 << 20}
	err := w.Encrypt(s, data, &out)
	_, result := out.Result()
	return result, err
}

func (w *world) decrypt(s SessionHandle, m Mechanism, key ObjectHandle, data []byte) ([]byte, error) {
	if err := w.DecryptInit(s, m, key); err != nil {
		return nil, err
	}
	out := Output{Capacity: 1 << 20}
	err := w.Decrypt(s, data, &out)
	_, result := out.Result()
	return result, err
}

// inParts runs a multi-part operation with parts of a size.
func inParts(update func([]byte, *Output) error, final func(*Output) error, data []byte, size int) (result []byte, err error) {
	for len(data) > 0 && err == nil {
		n := min(size, len(data))
		out := Output{Capacity: 1 << 20}
		err = update(data[:n], &out)
		_, got := out.Result()
		result, data = append(result, got...), data[n:]
	}
	if err != nil {
		return result, err
	}
	out := Output{Capacity: 1 << 20}
	err = final(&out)
	_, got := out.Result()
	return append(result, got...), err
}

// A session key lives as long as its session, is not shown, and does what its template says.
func TestSecretSessionKey(t *testing.T) {
	t.Parallel()
	w := open(t)
	s, other := w.session(false), w.session(false)
	value := []byte("0123456789abcdef")
	key := w.aes(s, value, label("session"))
	for a, want := range map[AttributeType]bool{
		CKA_TOKEN: false, CKA_PRIVATE: false, CKA_SENSITIVE: true, CKA_EXTRACTABLE: false, CKA_LOCAL: false, CKA_ALWAYS_SENSITIVE: false,
		CKA_NEVER_EXTRACTABLE: false, CKA_ENCRYPT: true, CKA_DECRYPT: true, CKA_WRAP: false, CKA_UNWRAP: false, CKA_SIGN: false,
	} {
		if got := w.attribute(other, key, a); !bytes.Equal(got, boolean(want)) {
			t.Errorf("attribute 0x%x is %x, want %t", uint64(a), got, want)
		}
	}
	if got := w.attribute(s, key, CKA_VALUE_LEN); !bytes.Equal(got, ulong(16)) {
		t.Errorf("CKA_VALUE_LEN is %x", got)
	}
	_, err := w.GetAttributeValue(s, key, []AttributeQuery{{Type: CKA_VALUE, Capacity: 100}})
	w.refused(err, CKR_ATTRIBUTE_SENSITIVE)
	_, err = w.GetAttributeValue(s, key, []AttributeQuery{{Type: CKA_VALUE, Query: true}})
	w.refused(err, CKR_ATTRIBUTE_SENSITIVE)
	if found := w.find(other, class(CKO_SECRET_KEY), label("session")); len(found) != 1 || found[0] != key {
		t.Errorf("another session finds %v", found)
	}

	iv := Mechanism{Type: CKM_AES_CBC_PAD, Parameter: make([]byte, 16)}
	ciphertext, err := w.encrypt(other, iv, key, []byte("the contract"))
	w.must(err)
	w.must(w.EncryptInit(other, iv, key))
	w.must(w.CloseSession(s))
	_, err = w.decrypt(other, iv, key, ciphertext)
	w.refused(err, CKR_KEY_HANDLE_INVALID)
	if left := w.hidden(); left != 0 {
		t.Errorf("%d secret bytes are left", left)
	}
}

// The check value tells two copies of a key apart from two keys: kept ones, derived ones and those of a template.
func TestCheckValues(t *testing.T) {
	t.Parallel()
	w := open(t)
	s := w.session(true)
	zeros := Attribute{CKA_VALUE, make([]byte, 32)}
	check := func(v ...byte) Attribute { return Attribute{CKA_CHECK_VALUE, v} }
	for name, c := range map[string]struct {
		template []Attribute
		want     []byte
	}{
		// AES-256 of a block of zeros under a key of zeros begins with dc95c0; SHA-1 of 32 zeros with de8a84.
		"AES":                   {secretTemplate(CKK_AES, zeros), []byte{0xdc, 0x95, 0xc0}},
		"AES of the token":      {secretTemplate(CKK_AES, zeros, flag(CKA_TOKEN, true)), []byte{0xdc, 0x95, 0xc0}},
		"AES that says its own": {secretTemplate(CKK_AES, zeros, check(0xdc, 0x95, 0xc0)), []byte{0xdc, 0x95, 0xc0}},
		"AES that wants none":   {secretTemplate(CKK_AES, zeros, check()), nil},
		"a generic secret":      {secretTemplate(CKK_GENERIC_SECRET, zeros), []byte{0xde, 0x8a, 0x84}},
		"one that is guessed":   {secretTemplate(CKK_GENERIC_SECRET, Attribute{CKA_VALUE, []byte("1234")}), nil},
	} {
		key := w.create(s, c.template...)
		if got := w.attribute(s, key, CKA_CHECK_VALUE); !bytes.Equal(got, c.want) {
			t.Errorf("%s: %x, want %x", name, got, c.want)
		}
	}
	_, err := w.CreateObject(s, secretTemplate(CKK_AES, Attribute{CKA_VALUE, make([]byte, 32)}, check(1, 2, 3)))
	w.refused(err, CKR_ATTRIBUTE_VALUE_INVALID)
	w.must(w.Finalize())
	w.must(w.Initialize(0, false))
	s = w.session(true)
	w.one(s, CKO_SECRET_KEY, check(0xdc, 0x95, 0xc0))
}

// What a template cannot have is refused, and leaves nothing.
func TestSecretTemplatesThatAreRefused(t *testing.T) {
	t.Parallel()
	w := open(t)
	s, readOnly := w.session(true), w.session(false)
	value := Attribute{CKA_VALUE, []byte("0123456789abcdef")}
	for name, c := range map[string]struct {
		want     RV
		template []Attribute
	}{
		"no value":                 {CKR_TEMPLATE_INCOMPLETE, secretTemplate(CKK_AES)},
		"no type":                  {CKR_TEMPLATE_INCOMPLETE, []Attribute{class(CKO_SECRET_KEY), value}},
		"a type nobody has":        {CKR_TEMPLATE_INCONSISTENT, secretTemplate(0x13, value)},
		"an AES key of 15 bytes":   {CKR_ATTRIBUTE_VALUE_INVALID, secretTemplate(CKK_AES, Attribute{CKA_VALUE, make([]byte, 15)})},
		"a huge secret":            {CKR_ATTRIBUTE_VALUE_INVALID, secretTemplate(CKK_GENERIC_SECRET, Attribute{CKA_VALUE, make([]byte, 513)})},
		"a length that is not":     {CKR_TEMPLATE_INCONSISTENT, secretTemplate(CKK_AES, value, number(CKA_VALUE_LEN, 32))},
		"a trusted key":            {CKR_TEMPLATE_INCONSISTENT, secretTemplate(CKK_AES, value, flag(CKA_TRUSTED, true))},
		"one made here":            {CKR_ATTRIBUTE_READ_ONLY, secretTemplate(CKK_AES, value, flag(CKA_LOCAL, true))},
		"one that was never shown": {CKR_ATTRIBUTE_READ_ONLY, secretTemplate(CKK_AES, value, flag(CKA_ALWAYS_SENSITIVE, true))},
		"a modulus":                {CKR_ATTRIBUTE_TYPE_INVALID, secretTemplate(CKK_AES, value, Attribute{CKA_MODULUS, []byte{1}})},
		"half a bool":              {CKR_ATTRIBUTE_VALUE_INVALID, secretTemplate(CKK_AES, value, Attribute{CKA_SENSITIVE, []byte{}})},
		"a policy on a session":    {CKR_TEMPLATE_INCONSISTENT, secretTemplate(CKK_AES, value, Attribute{CKA_TPM2_POLICY, []byte("sha256:7")})},
		"a policy that is none":    {CKR_ATTRIBUTE_VALUE_INVALID, secretTemplate(CKK_AES, value, flag(CKA_TOKEN, true), Attribute{CKA_TPM2_POLICY, []byte("7")})},
		"a label that is no text":  {CKR_ATTRIBUTE_VALUE_INVALID, secretTemplate(CKK_AES, value, label("\xff"))},
		"a broken mechanism list":  {CKR_ATTRIBUTE_VALUE_INVALID, secretTemplate(CKK_AES, value, Attribute{CKA_ALLOWED_MECHANISMS, make([]byte, 9)})},
		"a huge mechanism list":    {CKR_ATTRIBUTE_VALUE_INVALID, secretTemplate(CKK_AES, value, Attribute{CKA_ALLOWED_MECHANISMS, make([]byte, 8*maxMechanisms+8)})},
		"huge data":                {CKR_ATTRIBUTE_VALUE_INVALID, []Attribute{class(CKO_DATA), {CKA_VALUE, make([]byte, 64<<10+1)}}},
		"data with a key type":     {CKR_ATTRIBUTE_TYPE_INVALID, []Attribute{class(CKO_DATA), value, number(CKA_KEY_TYPE, CKK_AES)}},
	} {
		for i := range c.template {
			c.template[i].Value = bytes.Clone(c.template[i].Value)
		}
		if _, err := w.CreateObject(s, c.template); RVOf(err) != c.want {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	_, err := w.CreateObject(readOnly, secretTemplate(CKK_AES, value, flag(CKA_TOKEN, true)))
	w.refused(err, CKR_SESSION_READ_ONLY)
	if found := w.find(s); len(found) != 0 {
		t.Errorf("%d objects are left", len(found))
	}
	if left := w.hidden(); left != 0 {
		t.Errorf("%d secret bytes are left", left)
	}
}

// The value of a template is wiped, and a readable key gives it back.
func TestReadableSecret(t *testing.T) {
	t.Parallel()
	w := open(t)
	s := w.session(false)
	given := []byte("0123456789abcdef")
	key := w.create(s, secretTemplate(CKK_GENERIC_SECRET, flag(CKA_SENSITIVE, false), flag(CKA_EXTRACTABLE, true), Attribute{CKA_VALUE, given})...)
	if !bytes.Equal(given, make([]byte, 16)) {
		t.Error("the template's value was not wiped")
	}
	if got := w.attribute(s, key, CKA_VALUE); string(got) != "0123456789abcdef" {
		t.Errorf("the value is %q", got)
	}
	r, err := w.GetAttributeValue(s, key, []AttributeQuery{{Type: CKA_VALUE, Query: true}})
	w.must(err)
	if r[0].Length != 16 {
		t.Errorf("the value's length is %d", r[0].Length)
	}
	_, err = w.GetAttributeValue(s, key, []AttributeQuery{{Type: CKA_VALUE, Capacity: 15}})
	w.refused(err, CKR_BUFFER_TOO_SMALL)

	// It can become more closely guarded, and never less.
	w.must(w.SetAttributeValue(s, key, []Attribute{flag(CKA_EXTRACTABLE, false), label("closed")}))
	_, err = w.GetAttributeValue(s, key, []AttributeQuery{{Type: CKA_VALUE, Capacity: 100}})
	w.refused(err, CKR_ATTRIBUTE_SENSITIVE)
	w.must(w.SetAttributeValue(s, key, []Attribute{flag(CKA_SENSITIVE, true)}))
	w.refused(w.SetAttributeValue(s, key, []Attribute{flag(CKA_EXTRACTABLE, true)}), CKR_ATTRIBUTE_READ_ONLY)
	w.refused(w.SetAttributeValue(s, key, []Attribute{flag(CKA_SENSITIVE, false)}), CKR_ATTRIBUTE_READ_ONLY)
	w.refused(w.SetAttributeValue(s, key, []Attribute{flag(CKA_SIGN, false)}), CKR_ATTRIBUTE_READ_ONLY)
	if got := w.attribute(s, key, CKA_LABEL); string(got) != "closed" {
		t.Errorf("the label is %q", got)
	}
	w.must(w.DestroyObject(s, key))
	w.refused(w.DestroyObject(s, key), CKR_OBJECT_HANDLE_INVALID)
}

// Keys are generated with the uses asked for, from the TPM's generator too.
func TestGeneratedSecret(t *testing.T) {
	t.Parallel()
	w := open(t)
	s := w.session(false)
	var seen [][]byte
	for range 2 {
		var key ObjectHandle
		if n := w.commands(func() {
			var err error
			key, err = w.GenerateKey(s, Mechanism{Type: CKM_AES_KEY_GEN}, []Attribute{number(CKA_VALUE_LEN, 32), flag(CKA_EXTRACTABLE, true)})
			w.must(err)
		}); n == 0 {
			t.Error("the TPM was not asked")
		}
		seen = append(seen, w.attribute(s, key, CKA_VALUE))
		if !bytes.Equal(w.attribute(s, key, CKA_LOCAL), []byte{1}) || !bytes.Equal(w.attribute(s, key, CKA_KEY_GEN_MECHANISM), ulong(uint64(CKM_AES_KEY_GEN))) {
			t.Error("the key does not say that it was made here")
		}
	}
	if len(seen[0]) != 32 || bytes.Equal(seen[0], seen[1]) || bytes.Equal(seen[0][:16], make([]byte, 16)) {
		t.Errorf("keys %x and %x", seen[0], seen[1])
	}
	wrapping, err := w.GenerateKey(s, Mechanism{Type: CKM_AES_KEY_GEN}, []Attribute{number(CKA_VALUE_LEN, 16), flag(CKA_WRAP, true), flag(CKA_UNWRAP, true)})
	w.must(err)
	for a, want := range map[AttributeType]bool{CKA_WRAP: true, CKA_UNWRAP: true, CKA_ENCRYPT: false, CKA_DECRYPT: false, CKA_SENSITIVE: true, CKA_ALWAYS_SENSITIVE: true, CKA_NEVER_EXTRACTABLE: true} {
		if got := w.attribute(s, wrapping, a); !bytes.Equal(got, boolean(want)) {
			t.Errorf("attribute 0x%x of a wrapping key is %x, want %t", uint64(a), got, want)
		}
	}
	for name, c := range map[string]struct {
		want      RV
		mechanism MechanismType
		template  []Attribute
	}{
		"no length":          {CKR_TEMPLATE_INCOMPLETE, CKM_AES_KEY_GEN, nil},
		"17 bytes":           {CKR_KEY_SIZE_RANGE, CKM_AES_KEY_GEN, []Attribute{number(CKA_VALUE_LEN, 17)}},
		"nothing":            {CKR_KEY_SIZE_RANGE, CKM_GENERIC_SECRET_KEY_GEN, []Attribute{number(CKA_VALUE_LEN, 0)}},
		"more than there is": {CKR_KEY_SIZE_RANGE, CKM_GENERIC_SECRET_KEY_GEN, []Attribute{number(CKA_VALUE_LEN, 1<<40)}},
		"a value":            {CKR_TEMPLATE_INCONSISTENT, CKM_AES_KEY_GEN, []Attribute{number(CKA_VALUE_LEN, 16), {CKA_VALUE, make([]byte, 16)}}},
		"another type":       {CKR_TEMPLATE_INCONSISTENT, CKM_AES_KEY_GEN, []Attribute{number(CKA_VALUE_LEN, 16), number(CKA_KEY_TYPE, CKK_GENERIC_SECRET)}},
		"another class":      {CKR_TEMPLATE_INCONSISTENT, CKM_AES_KEY_GEN, []Attribute{number(CKA_VALUE_LEN, 16), class(CKO_DATA)}},
		"no mechanism":       {CKR_MECHANISM_INVALID, CKM_AES_CBC, []Attribute{number(CKA_VALUE_LEN, 16)}},
	} {
		if _, err := w.GenerateKey(s, Mechanism{Type: c.mechanism}, c.template); RVOf(err) != c.want {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	_, err = w.GenerateKey(s, Mechanism{Type: CKM_AES_KEY_GEN, Parameter: []byte{1}}, []Attribute{number(CKA_VALUE_LEN, 16)})
	w.refused(err, CKR_MECHANISM_PARAM_INVALID)
}

// Private session objects are for the user alone, and end with the login.
func TestPrivateSecretsEndWithTheLogin(t *testing.T) {
	t.Parallel()
	w := guarded(t)
	s := w.session(false)
	value := []byte("0123456789abcdef")
	public := w.aes(s, value)
	if !bytes.Equal(w.attribute(s, public, CKA_PRIVATE), []byte{0}) {
		t.Error("without a login a session object is private")
	}
	_, err := w.CreateObject(s, secretTemplate(CKK_AES, flag(CKA_PRIVATE, true), Attribute{CKA_VALUE, bytes.Clone(value)}))
	w.refused(err, CKR_USER_NOT_LOGGED_IN)

	w.must(w.Login(s, CKU_USER, []byte(userPIN)))
	private := w.aes(s, value)
	iv := Mechanism{Type: CKM_AES_CTR, Parameter: append(ulong(128), make([]byte, 16)...)}
	w.must(w.EncryptInit(s, iv, private))
	w.must(w.EncryptUpdate(s, []byte("part"), &Output{Capacity: 4}))
	w.must(w.Logout(s))
	w.refused(w.EncryptUpdate(s, []byte("part"), &Output{Capacity: 4}), CKR_USER_NOT_LOGGED_IN)
	w.refused(w.EncryptUpdate(s, []byte("part"), &Output{Capacity: 4}), CKR_OPERATION_NOT_INITIALIZED)
	if found := w.find(s, class(CKO_SECRET_KEY)); len(found) != 1 || found[0] != public {
		t.Errorf("after the logout there are %v, want %v", found, public)
	}
	w.must(w.Login(s, CKU_USER, []byte(userPIN)))
	w.refused(w.EncryptInit(s, iv, private), CKR_KEY_HANDLE_INVALID)
	if left := w.hidden(); left != 16 {
		t.Errorf("%d secret bytes are left", left)
	}
}

// Copies may be guarded more closely, never less.
func TestCopiedSecret(t *testing.T) {
	t.Parallel()
	w := open(t)
	s := w.session(true)
	value := make([]byte, 16)
	rand.Read(value)
	key := w.aes(s, value, label("original"), flag(CKA_EXTRACTABLE, true))
	closed, err := w.CopyObject(s, key, []Attribute{label("copy"), flag(CKA_SENSITIVE, true), flag(CKA_EXTRACTABLE, false)})
	w.must(err)
	if string(w.attribute(s, closed, CKA_LABEL)) != "copy" || !bytes.Equal(w.attribute(s, key, CKA_VALUE), value) {
		t.Error("copy or original is not what it was made")
	}
	_, err = w.GetAttributeValue(s, closed, []AttributeQuery{{Type: CKA_VALUE, Capacity: 100}})
	w.refused(err, CKR_ATTRIBUTE_SENSITIVE)
	_, err = w.CopyObject(s, closed, []Attribute{flag(CKA_SENSITIVE, false)})
	w.refused(err, CKR_ATTRIBUTE_READ_ONLY)
	_, err = w.CopyObject(s, closed, []Attribute{flag(CKA_EXTRACTABLE, true)})
	w.refused(err, CKR_ATTRIBUTE_READ_ONLY)
	_, err = w.CopyObject(s, closed, []Attribute{flag(CKA_DECRYPT, true)})
	w.refused(err, CKR_ATTRIBUTE_TYPE_INVALID)
	iv := Mechanism{Type: CKM_AES_CBC_PAD, Parameter: make([]byte, 16)}
	ciphertext, err := w.encrypt(s, iv, closed, []byte("the contract"))
	w.must(err)
	if got, err := w.decrypt(s, iv, key, ciphertext); err != nil || string(got) != "the contract" {
		t.Errorf("the original decrypts %q, %v", got, err)
	}
	w.make(keystore.KeySpec{Label: "ec", Type: provider.P256, Use: provider.Use{Sign: true}})
	_, err = w.CopyObject(s, w.one(s, CKO_PRIVATE_KEY), nil)
	w.refused(err, CKR_ACTION_PROHIBITED)
}

// A key that one thread makes sensitive remains so while another one renames it.
func TestThreadsThatChangeOneKey(t *testing.T) {
	t.Parallel()
	w := open(t)
	s := w.session(true)
	for range 200 {
		key := w.aes(s, make([]byte, 16), label("shown"), flag(CKA_SENSITIVE, false), flag(CKA_EXTRACTABLE, true))
		var threads sync.WaitGroup
		for _, change := range []Attribute{flag(CKA_SENSITIVE, true), label("renamed"), flag(CKA_EXTRACTABLE, false)} {
			threads.Go(func() {
				if err := w.SetAttributeValue(s, key, []Attribute{change}); err != nil {
					t.Error(err)
				}
			})
		}
		threads.Wait()
		_, err := w.GetAttributeValue(s, key, []AttributeQuery{{Type: CKA_VALUE, Capacity: 100}})
		w.refused(err, CKR_ATTRIBUTE_SENSITIVE)
		for a, want := range map[AttributeType][]byte{CKA_SENSITIVE: {1}, CKA_EXTRACTABLE: {0}, CKA_LABEL: []byte("renamed")} {
			if got := w.attribute(s, key, a); !bytes.Equal(got, want) {
				t.Fatalf("attribute 0x%x is %x, want %x", uint64(a), got, want)
			}
		}
		w.must(w.DestroyObject(s, key))
	}
}

// Only what may be read is digested.
func TestDigestOfAKey(t *testing.T) {
	t.Parallel()
	w := open(t)
	s := w.session(false)
	readable := w.create(s, secretTemplate(CKK_GENERIC_SECRET, flag(CKA_EXTRACTABLE, true), Attribute{CKA_VALUE, []byte("bc")})...)
	closed := w.create(s, secretTemplate(CKK_GENERIC_SECRET, Attribute{CKA_VALUE, []byte("bc")})...)
	w.refused(w.DigestKey(s, readable), CKR_OPERATION_NOT_INITIALIZED)
	w.must(w.DigestInit(s, Mechanism{Type: CKM_SHA256}))
	w.must(w.DigestUpdate(s, []byte("a")))
	w.must(w.DigestKey(s, readable))
	out := Output{Capacity: 32}
	w.must(w.DigestFinal(s, &out))
	_, got := out.Result()
	for key, want := range map[ObjectHandle]RV{closed: CKR_KEY_INDIGESTIBLE, 12345: CKR_KEY_HANDLE_INVALID} {
		w.must(w.DigestInit(s, Mechanism{Type: CKM_SHA256}))
		w.refused(w.DigestKey(s, key), want)
		w.refused(w.DigestFinal(s, &Output{Capacity: 32}), CKR_OPERATION_NOT_INITIALIZED)
	}
	if want := unhex(t, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"); !bytes.Equal(got, want) {
		t.Errorf("the digest is %x", got)
	}
}
