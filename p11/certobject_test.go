package p11

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// authority is a CA's own certificate.
func authority(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "The CA"}, BasicConstraintsValid: true, IsCA: true,
		NotBefore: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), NotAfter: time.Date(2036, 1, 2, 3, 4, 5, 0, time.UTC),
	}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// Some authorities forget that the first bit of a serial number is its sign.
func TestCertificateWithANegativeSerialNumber(t *testing.T) {
	t.Parallel()
	w := open(t)
	s := w.session(true)
	der := bytes.Replace(authority(t), []byte{2, 1, 1, 0x30}, []byte{2, 1, 0x81, 0x30}, 1)
	for form, serial := range map[string][]byte{"an INTEGER": {2, 1, 0x81}, "Java's": {0x81}} {
		made, err := w.CreateObject(s, certificateTemplateOf(der, Attribute{CKA_SERIAL_NUMBER, serial}))
		if err != nil {
			t.Fatalf("%s: %v", form, err)
		}
		w.one(s, CKO_CERTIFICATE, Attribute{CKA_SERIAL_NUMBER, []byte{2, 1, 0x81}})
		w.must(w.DestroyObject(s, made))
	}
}

func certificateTemplateOf(der []byte, more ...Attribute) []Attribute {
	return append([]Attribute{class(CKO_CERTIFICATE), {CKA_CERTIFICATE_TYPE, ulong(CKC_X_509)}, {CKA_VALUE, der}, onToken}, more...)
}

// The certificates of authorities are of nobody's key. They are kept, found without a login, called anew and deleted by the user alone.
func TestCertificateOfNobodysKey(t *testing.T) {
	t.Parallel()
	w := guarded(t)
	s := w.session(true)
	der := authority(t)
	_, err := w.CreateObject(s, certificateTemplateOf(der))
	w.refused(err, CKR_USER_NOT_LOGGED_IN)
	w.must(w.Login(s, CKU_USER, []byte(userPIN)))
	_, err = w.CreateObject(w.session(false), certificateTemplateOf(der))
	w.refused(err, CKR_SESSION_READ_ONLY)
	for name, bad := range map[string]Attribute{
		"private":              yesTo(CKA_PRIVATE),
		"trusted":              yesTo(CKA_TRUSTED),
		"not to be changed":    noTo(CKA_MODIFIABLE),
		"another check value":  {CKA_CHECK_VALUE, []byte{1, 2, 3}},
		"another term":         {CKA_END_DATE, []byte("20990101")},
		"another security":     {CKA_JAVA_MIDP_SECURITY_DOMAIN, ulong(1)},
		"another public key":   {CKA_PUBLIC_KEY_INFO, []byte{0x30, 0}},
		"another subject":      {CKA_SUBJECT, []byte{0x30, 0}},
		"another serial":       {CKA_SERIAL_NUMBER, []byte{2, 1, 9}},
		"attribute certifcate": {CKA_CERTIFICATE_TYPE, ulong(1)},
	} {
		if _, err := w.CreateObject(s, with(certificateTemplateOf(der), bad)); RVOf(err) != CKR_TEMPLATE_INCONSISTENT {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, bad := range []Attribute{{CKA_CERTIFICATE_CATEGORY, ulong(4)}, {CKA_LABEL, []byte("web\xff")}} {
		_, err := w.CreateObject(s, with(certificateTemplateOf(der), bad))
		w.refused(err, CKR_ATTRIBUTE_VALUE_INVALID)
	}

	made := w.create(s, certificateTemplateOf(der)...)
	w.must(w.Logout(s))
	if got := w.one(s, CKO_CERTIFICATE); got != made {
		t.Errorf("made %x, found %x", made, got)
	}
	sum := sha1.Sum(der)
	parsed, err := x509.ParseCertificate(der)
	w.must(err)
	for a, want := range map[AttributeType][]byte{
		CKA_VALUE: der, CKA_LABEL: []byte("The CA"), CKA_ID: publicKeyID(parsed), CKA_CHECK_VALUE: sum[:3], CKA_PRIVATE: {0}, CKA_MODIFIABLE: {1},
		CKA_TRUSTED: {0}, CKA_CERTIFICATE_CATEGORY: ulong(CK_CERTIFICATE_CATEGORY_AUTHORITY), CKA_START_DATE: []byte("20260102"), CKA_END_DATE: []byte("20360102"),
	} {
		if got := w.attribute(s, made, a); !bytes.Equal(got, want) {
			t.Errorf("attribute 0x%x: %x, want %x", uint64(a), got, want)
		}
	}
	w.refused(w.DestroyObject(s, made), CKR_USER_NOT_LOGGED_IN)
	w.refused(w.SetAttributeValue(s, made, []Attribute{label("x")}), CKR_USER_NOT_LOGGED_IN)

	w.must(w.Login(s, CKU_USER, []byte(userPIN)))
	w.must(w.SetAttributeValue(s, made, []Attribute{label("our CA"), {CKA_ID, []byte{7}}}))
	w.one(s, CKO_CERTIFICATE, label("our CA"), Attribute{CKA_ID, []byte{7}})
	again := w.create(s, certificateTemplateOf(der, label("their CA"))...)
	if again != made {
		t.Errorf("the same certificate became %x, was %x", again, made)
	}
	w.must(w.Finalize())
	w.must(w.Initialize(0, false))
	s = w.session(true)
	w.one(s, CKO_CERTIFICATE, label("their CA"), Attribute{CKA_ID, []byte{7}})
	w.must(w.Login(s, CKU_USER, []byte(userPIN)))
	w.must(w.DestroyObject(s, made))
	if left := w.find(s); len(left) != 0 {
		t.Errorf("%d objects are left", len(left))
	}
	if files, err := filepath.Glob(filepath.Join(w.token.Dir(), "????????*.json")); err != nil || len(files) != 0 {
		t.Errorf("files are left: %v, %v", files, err)
	}
}

// A certificate that came before its key is that key's from then on, under its name.
func TestCertificateWaitsForItsKey(t *testing.T) {
	t.Parallel()
	w := open(t)
	s := w.session(true)
	key := newEC(t)
	der := issue(t, "www.example.org", &key.PublicKey)
	made := w.create(s, certificateTemplateOf(der, label("a stranger"), Attribute{CKA_ID, []byte{9}})...)
	private := w.create(s, with(ecParts(t, key), label("web"), Attribute{CKA_ID, []byte{7}})...)
	if got := w.one(s, CKO_CERTIFICATE, label("web"), Attribute{CKA_ID, []byte{7}}); got != made {
		t.Errorf("made %x, found %x", made, got)
	}
	if kept, err := w.token.Secrets(); err != nil || len(kept) != 0 {
		t.Errorf("it is kept twice: %v, %v", kept, err)
	}
	w.must(w.DestroyObject(s, private))
	if left := w.find(s); len(left) != 0 {
		t.Errorf("%d objects are left", len(left))
	}
}

// NSS brings a private key, asks for its public half, tells the subject of its certificate, and then brings that.
func TestKeyAndCertificateAsPK12UtilBringsThem(t *testing.T) {
	t.Parallel()
	w := open(t)
	s := w.session(true)
	key := newRSA(t)
	half := sha1.Sum(key.N.Bytes())
	id := Attribute{CKA_ID, half[:]}
	private := w.create(s, with(rsaParts(key), id, yesTo(CKA_UNWRAP), yesTo(CKA_SIGN), yesTo(CKA_DECRYPT))...)
	if w.attribute(s, private, CKA_UNWRAP)[0] != 0 {
		t.Error("the key says that it unwraps")
	}
	public := []Attribute{class(CKO_PUBLIC_KEY), number(CKA_KEY_TYPE, CKK_RSA), onToken, {CKA_MODULUS, key.N.Bytes()}, {CKA_PUBLIC_EXPONENT, []byte{1, 0, 1}}}
	if got, want := w.create(s, with(public, id)...), w.one(s, CKO_PUBLIC_KEY); got != want {
		t.Errorf("the public half is %x, was %x", got, want)
	}
	_, err := w.CreateObject(s, with(public, Attribute{CKA_ID, []byte{1}}))
	w.refused(err, CKR_TEMPLATE_INCONSISTENT)
	for _, other := range []Attribute{yesTo(CKA_TRUSTED), flag(CKA_MODIFIABLE, false), {CKA_START_DATE, []byte("20261127")}} {
		_, err = w.CreateObject(s, with(public, id, other))
		w.refused(err, CKR_TEMPLATE_INCONSISTENT)
	}
	_, err = w.CreateObject(w.session(false), public)
	w.refused(err, CKR_SESSION_READ_ONLY)

	der := issue(t, "site", &key.PublicKey)
	certificate, err := x509.ParseCertificate(der)
	w.must(err)
	w.refused(w.SetAttributeValue(s, private, []Attribute{{CKA_SUBJECT, []byte("site")}}), CKR_ATTRIBUTE_VALUE_INVALID)
	w.must(w.SetAttributeValue(s, private, []Attribute{{CKA_SUBJECT, certificate.RawSubject}}))
	w.one(s, CKO_PRIVATE_KEY, Attribute{CKA_SUBJECT, certificate.RawSubject})
	w.create(s, certificateTemplateOf(der, label("site"), id)...)
	w.one(s, CKO_PRIVATE_KEY, label("site"), id, Attribute{CKA_SUBJECT, certificate.RawSubject})
	w.refused(w.SetAttributeValue(s, private, []Attribute{{CKA_SUBJECT, certificate.RawIssuer}}), CKR_ATTRIBUTE_VALUE_INVALID)
}

// What is in the file of a certificate and is none does not show, and takes nothing else with it.
func TestCertificateWhoseFileWasChanged(t *testing.T) {
	t.Parallel()
	w := open(t)
	s := w.session(true)
	w.create(s, certificateTemplateOf(authority(t))...)
	w.make(ecKey("web"))
	kept, err := w.token.Secrets()
	w.must(err)
	file := filepath.Join(w.token.Dir(), kept[0].ID+".json")
	text, err := os.ReadFile(file)
	w.must(err)
	w.must(os.WriteFile(file, bytes.Replace(text, []byte(`"plain": "MII`), []byte(`"plain": "AII`), 1), 0o600))
	if found := w.find(s, class(CKO_CERTIFICATE)); len(found) != 0 {
		t.Errorf("%d certificates show", len(found))
	}
	w.one(s, CKO_PRIVATE_KEY, label("web"))
	if problems, err := w.token.Problems(); err != nil || len(problems) != 1 {
		t.Errorf("problems: %v, %v", problems, err)
	}
}
