package p11

import (
	"bytes"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"encoding/asn1"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tpm2-p11/tpm2-p11/internal/tokens"
	"github.com/tpm2-p11/tpm2-p11/keystore"
	"github.com/tpm2-p11/tpm2-p11/provider"
	"github.com/tpm2-p11/tpm2-p11/provider/transport"
)

func TestAttributesOfAnImportedRSAKey(t *testing.T) {
	t.Parallel()
	w, s, private, public, key := rsaWorld(t, provider.Use{Sign: true, Decrypt: true})
	spki, err := x509.MarshalPKIXPublicKey(key)
	w.must(err)
	for _, c := range []struct {
		object ObjectHandle
		a      AttributeType
		want   []byte
	}{
		{private, CKA_CLASS, ulong(3)},
		{private, CKA_KEY_TYPE, ulong(CKK_RSA)},
		{private, CKA_MODULUS, key.N.Bytes()},
		{private, CKA_PUBLIC_EXPONENT, []byte{1, 0, 1}},
		{private, CKA_PUBLIC_KEY_INFO, spki},
		{private, CKA_LABEL, []byte("rsa")},
		{private, CKA_SUBJECT, nil},
		{private, CKA_START_DATE, nil},
		// It was born outside of the TPM. Without a policy there is none that lets it be duplicated.
		{private, CKA_LOCAL, []byte{0}},
		{private, CKA_KEY_GEN_MECHANISM, ulong(CK_UNAVAILABLE_INFORMATION)},
		{private, CKA_ALWAYS_SENSITIVE, []byte{0}},
		{private, CKA_NEVER_EXTRACTABLE, []byte{0}},
		{private, CKA_EXTRACTABLE, []byte{0}},
		{private, CKA_SENSITIVE, []byte{1}},
		{private, CKA_SIGN, []byte{1}},
		{private, CKA_DECRYPT, []byte{1}},
		{private, CKA_TPM2_POLICY, nil},
		{private, CKA_ALLOWED_MECHANISMS, numbers(uint64(CKM_RSA_PKCS), uint64(CKM_SHA256_RSA_PKCS), uint64(CKM_SHA384_RSA_PKCS), uint64(CKM_SHA512_RSA_PKCS),
			uint64(CKM_RSA_PKCS_PSS), uint64(CKM_SHA256_RSA_PKCS_PSS), uint64(CKM_SHA384_RSA_PKCS_PSS), uint64(CKM_SHA512_RSA_PKCS_PSS), uint64(CKM_RSA_PKCS_OAEP))},
		{public, CKA_CLASS, ulong(2)},
		{public, CKA_PRIVATE, []byte{0}},
		{public, CKA_VERIFY, []byte{1}},
		{public, CKA_ENCRYPT, []byte{1}},
		{public, CKA_MODULUS_BITS, ulong(2048)},
		// Nothing is encrypted to it that it does not decrypt.
		{public, CKA_ALLOWED_MECHANISMS, numbers(uint64(CKM_RSA_PKCS), uint64(CKM_SHA1_RSA_PKCS), uint64(CKM_SHA256_RSA_PKCS), uint64(CKM_SHA384_RSA_PKCS), uint64(CKM_SHA512_RSA_PKCS),
			uint64(CKM_RSA_PKCS_PSS), uint64(CKM_SHA1_RSA_PKCS_PSS), uint64(CKM_SHA256_RSA_PKCS_PSS), uint64(CKM_SHA384_RSA_PKCS_PSS), uint64(CKM_SHA512_RSA_PKCS_PSS), uint64(CKM_RSA_PKCS_OAEP))},
	} {
		if got := w.attribute(s, c.object, c.a); !bytes.Equal(got, c.want) {
			t.Errorf("object %x, attribute 0x%x: %x, want %x", c.object, uint64(c.a), got, c.want)
		}
	}
	entries, err := w.token.Keys()
	w.must(err)
	if got := w.attribute(s, private, CKA_TPM2_NAME); !bytes.Equal(got, entries[0].Object.Public.Name()) {
		t.Errorf("CKA_TPM2_NAME %x", got)
	}
	if a, b := w.attribute(s, private, CKA_UNIQUE_ID), w.attribute(s, public, CKA_UNIQUE_ID); len(a) != 64 || bytes.Equal(a, b) {
		t.Errorf("CKA_UNIQUE_ID %s and %s", a, b)
	}
	if private>>62 != 0 || public>>62 != 0 {
		t.Errorf("handles %x and %x", private, public)
	}
	size, err := w.GetObjectSize(s, private)
	w.must(err)
	if size < 256 {
		t.Errorf("size %d", size)
	}
}

func TestEveryQueryOfATemplateIsAnswered(t *testing.T) {
	t.Parallel()
	w := open(t)
	w.make(ecKey("web"))
	s := w.session(false)
	key := w.one(s, CKO_PRIVATE_KEY)
	ask := func(q ...AttributeQuery) ([]AttributeResult, RV) {
		t.Helper()
		r, err := w.GetAttributeValue(s, key, q)
		return r, RVOf(err)
	}
	r, rv := ask(AttributeQuery{Type: CKA_LABEL, Query: true}, AttributeQuery{Type: CKA_LABEL, Capacity: 3}, AttributeQuery{Type: CKA_SUBJECT, Query: true})
	if rv != CKR_OK || r[0].Length != 3 || r[0].Value != nil || string(r[1].Value) != "web" || r[2].Length != 0 || r[2].Unavailable {
		t.Errorf("%v: %+v", rv, r)
	}
	for want, bad := range map[RV]AttributeQuery{
		CKR_BUFFER_TOO_SMALL:       {Type: CKA_LABEL, Capacity: 2},
		CKR_ATTRIBUTE_SENSITIVE:    {Type: CKA_VALUE, Capacity: 99},
		CKR_ATTRIBUTE_TYPE_INVALID: {Type: CKA_MODULUS, Capacity: 999},
	} {
		r, rv := ask(bad, AttributeQuery{Type: CKA_LABEL, Capacity: 9})
		if rv != want || !r[0].Unavailable || r[0].Value != nil || string(r[1].Value) != "web" {
			t.Errorf("%v, want %v: %+v", rv, want, r)
		}
	}
}

func TestFindingIsASnapshot(t *testing.T) {
	t.Parallel()
	w := open(t)
	w.make(ecKey("a"))
	w.make(ecKey("b"))
	s := w.session(true)
	if _, err := w.FindObjects(s, 1); RVOf(err) != CKR_OPERATION_NOT_INITIALIZED {
		t.Errorf("C_FindObjects: %v", err)
	}
	w.must(w.FindObjectsInit(s, nil))
	w.refused(w.FindObjectsInit(s, nil), CKR_OPERATION_ACTIVE)
	w.make(ecKey("c"))
	var found []ObjectHandle
	for {
		next, err := w.FindObjects(s, 3)
		w.must(err)
		if len(next) == 0 {
			break
		}
		found = append(found, next...)
	}
	w.must(w.FindObjectsFinal(s))
	w.refused(w.FindObjectsFinal(s), CKR_OPERATION_NOT_INITIALIZED)
	if want := 4 + len(profiles); len(found) != want {
		t.Errorf("found %d objects, want %d", len(found), want)
	}
	if all := w.find(s); len(all) != 6 {
		t.Errorf("found %d objects, want 6", len(all))
	}
	if none := w.find(s, Attribute{0x4711, nil}); len(none) != 0 {
		t.Errorf("found %d objects by an unknown attribute", len(none))
	}
	if none := w.find(s, class(CKO_PRIVATE_KEY), Attribute{CKA_LABEL, nil}); len(none) != 0 {
		t.Errorf("found %d objects by an empty label", len(none))
	}
}

func TestCertificateBesideItsKey(t *testing.T) {
	t.Parallel()
	w := open(t)
	entry := w.make(ecKey("web"))
	public, err := entry.Object.Public.Key()
	w.must(err)
	der := issue(t, "www.example.org", public)
	certificate := func(a ...Attribute) []Attribute {
		return append([]Attribute{class(CKO_CERTIFICATE), {CKA_CERTIFICATE_TYPE, ulong(CKC_X_509)}, {CKA_VALUE, der}, onToken}, a...)
	}
	s, ro := w.session(true), w.session(false)
	_, err = w.CreateObject(ro, certificate())
	w.refused(err, CKR_SESSION_READ_ONLY)
	_, err = w.CreateObject(s, certificate(Attribute{CKA_ID, []byte("another")}))
	w.refused(err, CKR_TEMPLATE_INCONSISTENT)
	_, err = w.CreateObject(s, certificate(Attribute{CKA_SUBJECT, []byte("another")}))
	w.refused(err, CKR_TEMPLATE_INCONSISTENT)
	_, err = w.CreateObject(s, certificate(Attribute{CKA_MODIFIABLE, []byte{1}}))
	w.refused(err, CKR_TEMPLATE_INCONSISTENT)
	_, err = w.CreateObject(s, certificate(Attribute{CKA_CERTIFICATE_CATEGORY, ulong(CK_CERTIFICATE_CATEGORY_AUTHORITY)}))
	w.refused(err, CKR_TEMPLATE_INCONSISTENT)
	made, err := w.CreateObject(s, certificate(Attribute{CKA_ID, entry.CKAID}, label("web")))
	w.must(err)
	if got := w.one(s, CKO_CERTIFICATE); got != made {
		t.Errorf("made %x, found %x", made, got)
	}
	parsed, err := x509.ParseCertificate(der)
	w.must(err)
	digest := sha1.Sum(der)
	serial, err := asn1.Marshal(parsed.SerialNumber)
	w.must(err)
	for a, want := range map[AttributeType][]byte{
		CKA_VALUE: der, CKA_SUBJECT: parsed.RawSubject, CKA_ISSUER: parsed.RawIssuer, CKA_SERIAL_NUMBER: serial,
		CKA_ID: entry.CKAID, CKA_LABEL: []byte("web"), CKA_CHECK_VALUE: digest[:3], CKA_TRUSTED: {0}, CKA_PRIVATE: {0},
		CKA_CERTIFICATE_CATEGORY: ulong(CK_CERTIFICATE_CATEGORY_TOKEN_USER), CKA_CERTIFICATE_TYPE: ulong(0), CKA_MODIFIABLE: {0},
	} {
		if got := w.attribute(s, made, a); !bytes.Equal(got, want) {
			t.Errorf("attribute 0x%x: %x, want %x", uint64(a), got, want)
		}
	}
	if got := w.attribute(s, w.one(s, CKO_PRIVATE_KEY), CKA_SUBJECT); !bytes.Equal(got, parsed.RawSubject) {
		t.Errorf("the key's CKA_SUBJECT: %x", got)
	}
	w.refused(w.SetAttributeValue(s, made, []Attribute{label("x")}), CKR_ACTION_PROHIBITED)
	w.must(w.DestroyObject(s, made))
	if left := w.find(s, class(CKO_CERTIFICATE)); len(left) != 0 {
		t.Errorf("%d certificates left", len(left))
	}
	w.one(s, CKO_PRIVATE_KEY)

	stranger := issue(t, "stranger", strangersKey(t))
	session, err := w.CreateObject(ro, []Attribute{class(CKO_CERTIFICATE), {CKA_CERTIFICATE_TYPE, ulong(CKC_X_509)}, {CKA_VALUE, stranger}, label("stranger")})
	w.must(err)
	w.one(s, CKO_CERTIFICATE, label("stranger"), Attribute{CKA_MODIFIABLE, []byte{1}})
	w.must(w.SetAttributeValue(ro, session, []Attribute{label("a stranger")}))
	w.one(s, CKO_CERTIFICATE, label("a stranger"))
	w.must(w.DestroyObject(ro, session))
	_, err = w.CreateObject(s, []Attribute{class(CKO_CERTIFICATE), {CKA_CERTIFICATE_TYPE, ulong(CKC_X_509)}, {CKA_VALUE, stranger[1:]}})
	w.refused(err, CKR_ATTRIBUTE_VALUE_INVALID)
}

// Java and NSS make a key without a label, and name its certificate.
func TestCertificateNamesAKeyWithoutALabel(t *testing.T) {
	t.Parallel()
	for name, id := range map[string][]byte{"without a CKA_ID": nil, "with one": {0xa1, 7}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := open(t)
			s := w.session(true)
			_, private, err := w.GenerateKeyPair(s, mechanismOf(CKM_EC_KEY_PAIR_GEN), []Attribute{p256}, []Attribute{onToken, {CKA_ID, id}})
			w.must(err)
			store := func(subject, label string) {
				t.Helper()
				entries, err := w.token.Keys()
				w.must(err)
				public, err := entries[0].Object.Public.Key()
				w.must(err)
				_, err = w.CreateObject(s, []Attribute{class(CKO_CERTIFICATE), {CKA_CERTIFICATE_TYPE, ulong(CKC_X_509)},
					{CKA_VALUE, issue(t, subject, public)}, onToken, {CKA_LABEL, []byte(label)}})
				w.must(err)
			}
			for label, want := range map[string]string{"": string(w.attribute(s, private, CKA_LABEL)), "a\nb": string(w.attribute(s, private, CKA_LABEL))} {
				store("nameless", label)
				w.one(s, CKO_PRIVATE_KEY, Attribute{CKA_LABEL, []byte(want)})
			}
			store("named", "kt")
			w.one(s, CKO_PRIVATE_KEY, label("kt"))
			w.one(s, CKO_CERTIFICATE, label("kt"))
			// The key has a name now, which another certificate does not take away.
			store("renewed", "another")
			w.one(s, CKO_PRIVATE_KEY, label("kt"))
		})
	}
}

// NSS writes a certificate under the SHA-1 of its RSA key's modulus, and looks for the key under that too.
func TestCertificateFromNSSFindsItsKey(t *testing.T) {
	t.Parallel()
	w, s, private, public, key := rsaWorld(t, provider.Use{Sign: true})
	id := sha1.Sum(key.N.Bytes())
	store := func(subject string, id []byte) error {
		_, err := w.CreateObject(s, []Attribute{class(CKO_CERTIFICATE), {CKA_CERTIFICATE_TYPE, ulong(CKC_X_509)}, {CKA_VALUE, issue(t, subject, key)}, onToken, {CKA_ID, id}})
		return err
	}
	w.must(store("from NSS", id[:]))
	byNSS := Attribute{CKA_ID, id[:]}
	if w.one(s, CKO_PRIVATE_KEY, byNSS) != private || w.one(s, CKO_PUBLIC_KEY, byNSS) != public {
		t.Error("the key is another one")
	}
	w.one(s, CKO_CERTIFICATE, byNSS)

	// A CKA_ID that somebody chose stays.
	w.must(w.SetAttributeValue(s, private, []Attribute{{CKA_ID, []byte{1}}}))
	w.refused(store("again", id[:]), CKR_TEMPLATE_INCONSISTENT)
	w.one(s, CKO_PRIVATE_KEY, Attribute{CKA_ID, []byte{1}})
}

func strangersKey(t *testing.T) *rsa.PublicKey {
	t.Helper()
	n := bytes.Repeat([]byte{0xc5}, 128)
	key, err := rsaPublic(template{CKA_MODULUS: n, CKA_PUBLIC_EXPONENT: []byte{1, 0, 1}})
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// Java and crypto11 destroy each object of a key, one after another.
func TestDestroyingAKeyObjectByObject(t *testing.T) {
	t.Parallel()
	w := open(t)
	entry := w.make(ecKey("web"))
	public, err := entry.Object.Public.Key()
	w.must(err)
	s, other := w.session(true), w.session(true)
	certificate, err := w.CreateObject(s, []Attribute{class(CKO_CERTIFICATE), {CKA_CERTIFICATE_TYPE, ulong(CKC_X_509)}, {CKA_VALUE, issue(t, "web", public)}, onToken})
	w.must(err)
	private, half := w.one(s, CKO_PRIVATE_KEY), w.one(s, CKO_PUBLIC_KEY)
	w.must(w.DestroyObject(s, private))
	for _, o := range []ObjectHandle{half, certificate} {
		w.refused(w.DestroyObject(other, o), CKR_OBJECT_HANDLE_INVALID)
		w.must(w.DestroyObject(s, o))
		w.refused(w.DestroyObject(s, o), CKR_OBJECT_HANDLE_INVALID)
	}
	w.refused(w.DestroyObject(s, private), CKR_OBJECT_HANDLE_INVALID)
}

func TestRenamingAndDestroyingAKey(t *testing.T) {
	t.Parallel()
	w := open(t)
	w.make(keystore.KeySpec{Label: "web", Type: provider.P256, Use: provider.Use{Sign: true}})
	s, ro := w.session(true), w.session(false)
	private, public := w.one(s, CKO_PRIVATE_KEY), w.one(s, CKO_PUBLIC_KEY)
	w.refused(w.SetAttributeValue(ro, private, []Attribute{label("x")}), CKR_SESSION_READ_ONLY)
	w.refused(w.SetAttributeValue(s, private, []Attribute{noTo(CKA_SENSITIVE)}), CKR_ATTRIBUTE_READ_ONLY)
	// What is refused changes nothing, not even the half of it that could be.
	for _, bad := range [][]byte{nil, {}, make([]byte, 256)} {
		if err := w.SetAttributeValue(s, private, []Attribute{label("half"), {CKA_ID, bad}}); err == nil {
			t.Errorf("a CKA_ID of %d bytes was taken", len(bad))
		}
		w.one(s, CKO_PRIVATE_KEY, label("web"))
	}
	w.refused(w.SetAttributeValue(s, private, []Attribute{label("")}), CKR_ATTRIBUTE_VALUE_INVALID)
	w.must(w.SetAttributeValue(s, private, nil))
	w.must(w.SetAttributeValue(s, private, []Attribute{label("renamed"), {CKA_ID, []byte{1, 2}}}))
	w.must(w.SetAttributeValue(s, private, []Attribute{label("renamed again")}))
	w.must(w.SetAttributeValue(s, private, []Attribute{label("renamed")}))
	if got := w.one(s, CKO_PUBLIC_KEY, label("renamed"), Attribute{CKA_ID, []byte{1, 2}}); got != public {
		t.Errorf("handle %x became %x", public, got)
	}
	w.refused(w.DestroyObject(ro, private), CKR_SESSION_READ_ONLY)
	w.refused(w.DestroyObject(s, public), CKR_ACTION_PROHIBITED)
	w.must(w.DestroyObject(s, private))
	w.refused(w.DestroyObject(s, private), CKR_OBJECT_HANDLE_INVALID)
	if left := w.find(s); len(left) != 0 {
		t.Errorf("%d objects left", len(left))
	}
	w.token.TPM().Release()
	if c := w.machine.Count(t); c.Persistent != 1 {
		t.Errorf("%d persistent objects, want the SRK alone", c.Persistent)
	}
}

func TestKeysThatAnotherProcessChanges(t *testing.T) {
	t.Parallel()
	w := open(t)
	spec := ecKey("persistent")
	spec.Wrapped = false
	persistent, wrapped := w.make(spec), w.make(ecKey("wrapped"))
	s := w.session(true)
	elsewhere, err := keystore.Open(keystore.Options{Dir: w.token.Dir(), TPM: w.token.TPM()})
	w.must(err)
	for _, entry := range []keystore.Entry{persistent, wrapped} {
		key := w.one(s, CKO_PRIVATE_KEY, label(entry.Label))
		w.must(w.SignInit(s, mechanismOf(CKM_ECDSA), key))
		w.must(w.Sign(s, make([]byte, 32), &Output{Capacity: 64}))
		w.must(elsewhere.Delete(t.Context(), entry, false))
		w.refused(w.SignInit(s, mechanismOf(CKM_ECDSA), key), CKR_KEY_HANDLE_INVALID)
		w.refused(w.DestroyObject(s, key), CKR_OBJECT_HANDLE_INVALID)
	}
	if found := w.find(s); len(found) != 0 {
		t.Errorf("found %d objects", len(found))
	}

	// A key that moves is used where it is.
	moving, err := elsewhere.CreateKey(t.Context(), ecKey("moving"))
	w.must(err)
	key := w.one(s, CKO_PRIVATE_KEY)
	for range 2 {
		_, err = w.sign(s, mechanismOf(CKM_ECDSA), key, make([]byte, 32))
		w.must(err)
		if moving.Object.Handle == 0 {
			moving, err = elsewhere.Persist(t.Context(), moving, 0)
			w.must(err)
		}
	}

	// One of other tools', of which the store has no wrapped form, is missed when it is used.
	made, err := w.token.TPM().CreateKey(t.Context(), provider.Template{Type: provider.P256, Use: provider.Use{Sign: true}}, nil)
	w.must(err)
	const handle = 0x81000005
	w.must(w.token.TPM().Persist(t.Context(), made, handle))
	_, err = elsewhere.Link(t.Context(), handle, keystore.KeySpec{Label: "theirs"})
	w.must(err)
	w.must(w.SignInit(s, mechanismOf(CKM_ECDSA), w.one(s, CKO_PRIVATE_KEY, label("theirs"))))
	w.must(w.token.TPM().Evict(t.Context(), handle, made.Public.Name()))
	w.refused(w.Sign(s, make([]byte, 32), &Output{Capacity: 64}), CKR_KEY_HANDLE_INVALID)
}

// Two files may have one key, since somebody copied them. The key is one object nevertheless.
func TestACopyOfAKeysFilesIsNoOtherObject(t *testing.T) {
	t.Parallel()
	w := open(t)
	e := w.make(ecKey("web"))
	for _, suffix := range []string{".pem", ".json"} {
		text, err := os.ReadFile(filepath.Join(w.token.Dir(), e.ID+suffix))
		w.must(err)
		w.put("copy"+suffix, text)
	}
	s := w.session(false)
	w.one(s, CKO_PRIVATE_KEY)
	w.one(s, CKO_PUBLIC_KEY, label("web"))
	if found := w.find(s); len(found) != 2 {
		t.Errorf("found %x, want a private and a public key", found)
	}
	_, err := w.sign(s, mechanismOf(CKM_ECDSA), w.one(s, CKO_PRIVATE_KEY), make([]byte, 32))
	w.must(err)
}

// A crash on the way to a handle leaves a key that is used as a wrapped one until the next change finishes it.
func TestUnfinishedKeysAreUsed(t *testing.T) {
	t.Parallel()
	w := open(t)
	entry := w.make(ecKey("web"))
	s := w.session(false)
	for state, shown := range map[keystore.State]bool{keystore.Pending: true, keystore.Deleting: false, keystore.Ready: true} {
		path := filepath.Join(w.token.Dir(), entry.ID+".json")
		text, err := os.ReadFile(path)
		w.must(err)
		var sidecar map[string]any
		w.must(json.Unmarshal(text, &sidecar))
		sidecar["state"] = state
		text, err = json.Marshal(sidecar)
		w.must(err)
		w.must(os.WriteFile(path, text, 0o600))
		found := w.find(s, class(CKO_PRIVATE_KEY))
		if (len(found) == 1) != shown {
			t.Errorf("%s: found %v", state, found)
			continue
		}
		for _, key := range found {
			if _, err := w.sign(s, mechanismOf(CKM_ECDSA), key, make([]byte, 32)); err != nil {
				t.Errorf("%s: %v", state, err)
			}
		}
	}
}

func TestMechanismsAreDescribed(t *testing.T) {
	t.Parallel()
	w := open(t)
	ids, err := w.GetMechanismList(0)
	w.must(err)
	for _, id := range ids {
		info, err := w.GetMechanismInfo(0, id)
		w.must(err)
		switch {
		case info.Flags == 0:
			t.Errorf("mechanism 0x%x does nothing", uint64(id))
		case info.Flags&CKF_DIGEST == 0 && (info.MinKeySize == 0 || info.MaxKeySize < info.MinKeySize):
			t.Errorf("mechanism 0x%x: keys of %d to %d bits", uint64(id), info.MinKeySize, info.MaxKeySize)
		}
	}
	ec, err := w.GetMechanismInfo(0, CKM_EC_KEY_PAIR_GEN)
	w.must(err)
	if ec.MinKeySize != 256 || ec.MaxKeySize != 521 {
		t.Errorf("EC keys of %d to %d bits", ec.MinKeySize, ec.MaxKeySize)
	}
	_, err = w.GetMechanismInfo(0, 0x9999)
	w.refused(err, CKR_MECHANISM_INVALID)
	if n := w.commands(func() { w.GetMechanismInfo(0, CKM_RSA_PKCS) }); n != 0 {
		t.Errorf("%d TPM commands for what is known", n)
	}
}

// Applications describe every mechanism in turn, and a TPM that is away would make them wait for each.
func TestAbsentTPMIsAskedForItsKeySizesOnce(t *testing.T) {
	t.Parallel()
	dialer, err := transport.Parse("swtpm:path=" + t.TempDir() + "/nowhere")
	if err != nil {
		t.Fatal(err)
	}
	log := new(logbook)
	logger := slog.New(slog.NewTextHandler(log, nil))
	token, err := keystore.Open(keystore.Options{Dir: t.TempDir(), TPM: provider.New(dialer)})
	if err != nil {
		t.Fatal(err)
	}
	m := New(func() (*tokens.Set, error) {
		return &tokens.Set{Tokens: []*keystore.Token{token}, Logger: logger}, nil
	})
	if err := m.Initialize(0, false); err != nil {
		t.Fatal(err)
	}
	defer m.Finalize()
	for _, mechanism := range []MechanismType{CKM_RSA_PKCS, CKM_RSA_PKCS_PSS, CKM_ECDSA} {
		if info, err := m.GetMechanismInfo(0, mechanism); err != nil || info.MinKeySize == 0 || info.MaxKeySize != info.MinKeySize {
			t.Errorf("%+v: %v", info, err)
		}
	}
	if n := strings.Count(log.String(), "key sizes are not known"); n != 1 {
		t.Errorf("asked %d times:\n%s", n, log)
	}
}
