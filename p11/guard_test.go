package p11

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"maps"
	"math/big"
	"slices"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/tpm2-p11/tpm2-p11/keystore"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// issued is a certificate that an authority issues for an entry's key.
func issued(t *testing.T, e keystore.Entry) []byte {
	t.Helper()
	public, err := e.Object.Public.Key()
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	from := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	leaf := &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: e.Label}, NotBefore: from, NotAfter: from.AddDate(1, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, leaf, &x509.Certificate{Subject: pkix.Name{CommonName: "The CA"}}, public, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// What the service's configuration takes from a client holds at once: for what it has begun, for keys that it has found, and for those
// whose value is in its operation already.
func TestAnOperationEndsWithThePermission(t *testing.T) {
	t.Parallel()
	w := open(t)
	owner := w.session(true)
	before := w.machine.Count(t)
	w.make(ecKey("web"))
	w.make(keystore.KeySpec{Label: "mail", Type: provider.RSA2048, Use: provider.Use{Decrypt: true}, Wrapped: true})
	w.create(owner, secretTemplate(CKK_GENERIC_SECRET, onToken, label("mac"), Attribute{CKA_VALUE, make([]byte, 32)})...)
	w.aes(owner, make([]byte, 32), onToken, label("disk"))
	time.Sleep(settled)

	var withdrawn atomic.Bool
	guard := func(_, _, purpose string) bool { return purpose != "manage" && !withdrawn.Load() }
	client := w.client(nil, guard)
	s, another := client.session(false), client.session(false)
	web, public, mail := client.one(s, CKO_PRIVATE_KEY, label("web")), client.one(s, CKO_PUBLIC_KEY, label("web")), client.one(s, CKO_PRIVATE_KEY, label("mail"))
	mac, disk := client.one(s, CKO_SECRET_KEY, label("mac")), client.one(s, CKO_SECRET_KEY, label("disk"))
	hmac, cbc := mechanismOf(CKM_SHA256_HMAC), Mechanism{Type: CKM_AES_CBC_PAD, Parameter: make([]byte, 16)}
	oaep := mechanismOf(CKM_RSA_PKCS_OAEP, uint64(CKM_SHA256), CKG_MGF1_SHA256, CKZ_DATA_SPECIFIED, 0)
	room := func() *Output { return &Output{Capacity: 1 << 10} }

	w.must(client.MessageSignInit(s, mechanismOf(CKM_ECDSA_SHA256), web))
	w.must(client.MessageSignInit(another, hmac, mac))
	w.must(client.MessageVerifyInit(s, hmac, mac))
	made := w.signed(func(out *Output) error { return client.SignMessage(another, nil, []byte("message"), out) })
	uses := map[string]func() error{
		"a message is signed":    func() error { return client.SignMessage(s, nil, []byte("message"), room()) },
		"a message gets a MAC":   func() error { return client.SignMessage(another, nil, []byte("message"), room()) },
		"a MAC is verified":      func() error { return client.VerifyMessage(s, nil, []byte("message"), made) },
		"a signature is made":    func() error { return client.Sign(s, []byte("message"), room()) },
		"something is decrypted": func() error { return client.Decrypt(s, make([]byte, 256), room()) },
		"a part is encrypted":    func() error { return client.EncryptUpdate(s, make([]byte, 16), room()) },
		"a part is decrypted":    func() error { return client.DecryptUpdate(another, make([]byte, 16), room()) },
	}
	begin := func() {
		t.Helper()
		w.must(client.SignInit(s, mechanismOf(CKM_ECDSA_SHA256), web))
		w.must(client.DecryptInit(s, oaep, mail))
		w.must(client.EncryptInit(s, cbc, disk))
		w.must(client.DecryptInit(another, cbc, disk))
	}

	begin()
	withdrawn.Store(true)
	for name, use := range uses {
		if err := use(); RVOf(err) != CKR_KEY_FUNCTION_NOT_PERMITTED {
			t.Errorf("%s although it is not permitted any more: %v", name, err)
		}
	}
	for _, found := range []ObjectHandle{web, public, mac} {
		_, err := client.GetAttributeValue(s, found, []AttributeQuery{{Type: CKA_LABEL, Capacity: 100}})
		w.refused(err, CKR_OBJECT_HANDLE_INVALID)
	}
	withdrawn.Store(false)
	begin()
	for name, use := range uses {
		want := CKR_OK
		if name == "something is decrypted" { // zeros, which are no ciphertext
			want = CKR_ENCRYPTED_DATA_INVALID
		}
		if err := use(); RVOf(err) != want {
			t.Errorf("%s when it is permitted again: %v", name, err)
		}
	}
	client.attribute(s, web, CKA_LABEL)
	w.token.TPM().Release()
	if after := w.machine.Count(t); after != before {
		t.Errorf("the TPM holds %+v, before it was %+v", after, before)
	}
}

// Who may do what goes by labels, so that a client which manages a token does not give a key the label of one that it may use, by the
// key's certificate neither. What it may use anyway it may call as it likes.
func TestAClientThatManagesGetsNoPurposeByALabel(t *testing.T) {
	t.Parallel()
	w := open(t)
	owner := w.session(true)
	w.make(ecKey("ca"))
	w.make(ecKey("web"))
	unnamed := w.make(ecKey(noLabel))
	w.create(owner, secretTemplate(CKK_AES, onToken, label("disk"), Attribute{CKA_VALUE, make([]byte, 32)})...)
	w.create(owner, class(CKO_DATA), onToken, label("sealed"), Attribute{CKA_VALUE, []byte("secret")})
	w.create(owner, class(CKO_DATA), onToken, label("open"), noTo(CKA_PRIVATE), Attribute{CKA_VALUE, []byte("public")})

	guard := func(_, key, purpose string) bool {
		return purpose == "manage" || purpose == "sign" && (key == "web" || key == "mine") || purpose == "decrypt" && key == "mine"
	}
	client := w.client(nil, guard)
	s := client.session(true)
	ca, public, web := client.one(s, CKO_PRIVATE_KEY, label("ca")), client.one(s, CKO_PUBLIC_KEY, label("ca")), client.one(s, CKO_PRIVATE_KEY, label("web"))
	disk, sealed, plain := client.one(s, CKO_SECRET_KEY), client.one(s, CKO_DATA, label("sealed")), client.one(s, CKO_DATA, label("open"))
	for _, c := range []struct {
		object ObjectHandle
		label  string
		want   RV
	}{
		{ca, "web", CKR_ACTION_PROHIBITED},
		{public, "web", CKR_ACTION_PROHIBITED},
		{web, "mine", CKR_ACTION_PROHIBITED},
		{disk, "mine", CKR_ACTION_PROHIBITED},
		{sealed, "mine", CKR_ACTION_PROHIBITED},
		{plain, "mine", CKR_OK},
		{ca, "root", CKR_OK},
		{web, "web", CKR_OK},
		{web, "retired", CKR_OK},
		{web, "web", CKR_ACTION_PROHIBITED},
	} {
		if err := client.SetAttributeValue(s, c.object, []Attribute{label(c.label)}); RVOf(err) != c.want {
			t.Errorf("it calls object %x %q: %v, want %v", c.object, c.label, err, c.want)
		}
	}
	w.refused(second(client.CreateObject(s, certificateTemplateOf(issued(t, unnamed), label("web")))), CKR_ACTION_PROHIBITED)
	client.create(s, certificateTemplateOf(issued(t, unnamed), label("mail"))...)
	client.one(s, CKO_PRIVATE_KEY, label("mail"))
}

// Who copies a secret key can use the copy for whatever the key is for, so that must be permitted.
func TestClientsCopyOnlyWhatTheyMayUseInEveryWay(t *testing.T) {
	t.Parallel()
	w := open(t)
	s := w.session(true)
	w.create(s, secretTemplate(CKK_GENERIC_SECRET, onToken, label("mac"), yesTo(CKA_SIGN), Attribute{CKA_VALUE, make([]byte, 32)})...)
	for _, c := range []struct {
		purposes []string
		want     RV
	}{
		{[]string{"decrypt"}, CKR_KEY_FUNCTION_NOT_PERMITTED},
		{[]string{"sign"}, CKR_KEY_FUNCTION_NOT_PERMITTED},
		{[]string{"sign", "decrypt"}, CKR_OK},
	} {
		guard := func(_, _, purpose string) bool { return slices.Contains(c.purposes, purpose) }
		client := w.client(nil, guard)
		session := client.session(false)
		_, err := client.CopyObject(session, client.one(session, CKO_SECRET_KEY), []Attribute{noTo(CKA_TOKEN)})
		if got := RVOf(err); got != c.want {
			t.Errorf("who may %q copies a MAC key: %v, want %v", c.purposes, err, c.want)
		}
	}
}

// A client of the service sees the keys that it may use for something that they can do, with their public halves and certificates, and
// not one whose every use is for others.
func TestClientsSeeOnlyKeysThatTheyMayUse(t *testing.T) {
	t.Parallel()
	w := open(t)
	s := w.session(true)
	before := w.machine.Count(t)
	web := w.make(ecKey("web"))
	w.create(s, certificateTemplateOf(issued(t, web))...)
	w.make(keystore.KeySpec{Label: "agree", Type: provider.P256, Use: provider.Use{Derive: true}, Wrapped: true})
	w.make(keystore.KeySpec{Label: "both", Type: provider.RSA2048, Use: provider.Use{Sign: true, Decrypt: true}, Wrapped: true})
	w.create(s, class(CKO_DATA), onToken, label("sealed"), Attribute{CKA_VALUE, []byte("secret")})
	w.create(s, class(CKO_DATA), onToken, label("open"), noTo(CKA_PRIVATE), Attribute{CKA_VALUE, []byte("public")})
	w.create(s, certificateTemplateOf(authority(t), label("authority"))...)
	w.create(s, secretTemplate(CKK_GENERIC_SECRET, onToken, label("mac"), yesTo(CKA_SIGN), Attribute{CKA_VALUE, make([]byte, 32)})...)
	w.create(s, secretTemplate(CKK_AES, onToken, label("wrapping"), yesTo(CKA_UNWRAP), noTo(CKA_DECRYPT), noTo(CKA_ENCRYPT), Attribute{CKA_VALUE, make([]byte, 32)})...)

	names := map[ObjectClass]string{CKO_PRIVATE_KEY: "private", CKO_PUBLIC_KEY: "public", CKO_CERTIFICATE: "certificate", CKO_SECRET_KEY: "secret", CKO_DATA: "data"}
	anyones := []string{"certificate authority", "data open"}
	for name, c := range map[string]struct {
		guard Guard
		want  []string
	}{
		"signs": {
			func(_, _, purpose string) bool { return purpose == "sign" },
			[]string{"private web", "public web", "certificate web", "private both", "public both", "secret mac"},
		},
		"decrypts": {
			func(_, _, purpose string) bool { return purpose == "decrypt" },
			[]string{"private agree", "public agree", "private both", "public both", "secret mac", "secret wrapping", "data sealed"},
		},
		"unwraps": {
			func(_, _, purpose string) bool { return purpose == "unwrap" },
			[]string{"secret wrapping"},
		},
		"signs with a key that cannot": {
			func(_, key, purpose string) bool { return key == "agree" && purpose == "sign" },
			[]string{},
		},
		"manages": {
			func(_, _, purpose string) bool { return purpose == "manage" },
			[]string{"private web", "public web", "certificate web", "private agree", "public agree", "private both", "public both", "secret mac",
				"secret wrapping", "data sealed"},
		},
	} {
		client := w.client(nil, c.guard)
		if name != "signs with a key that cannot" {
			c.want = append(c.want, anyones...)
		}
		seen := map[string]bool{}
		session := client.session(false)
		for _, o := range client.find(session) {
			kind := client.attribute(session, o, CKA_CLASS)
			for class, name := range names {
				if string(kind) == string(ulong(uint64(class))) {
					seen[name+" "+string(client.attribute(session, o, CKA_LABEL))] = true
				}
			}
		}
		slices.Sort(c.want)
		if got := slices.Sorted(maps.Keys(seen)); !slices.Equal(got, c.want) {
			t.Errorf("who %s sees %q, want %q", name, got, c.want)
		}
		for _, entry := range []string{"web", "agree"} {
			found := w.one(s, CKO_PRIVATE_KEY, label(entry))
			_, err := client.GetAttributeValue(session, found, []AttributeQuery{{Type: CKA_LABEL, Capacity: 100}})
			if want := slices.Contains(c.want, "private "+entry); (err == nil) != want {
				t.Errorf("who %s asks for %q by its handle: %v", name, entry, err)
			}
		}
	}
	if after := w.machine.Count(t); after != before {
		t.Errorf("the TPM holds %+v, before it was %+v", after, before)
	}
}

// An application chooses much of what a refusal is about. The log has the beginning of it.
func TestTheLogHasTheBeginningOfAReason(t *testing.T) {
	t.Parallel()
	w := open(t)
	c := w.client(nil, func(_, _, purpose string) bool { return purpose == "sign" })
	s := c.session(true)
	long := bytes.Repeat([]byte("é"), 100<<10)
	key := c.aes(s, make([]byte, 32), Attribute{CKA_LABEL, long})
	kept := []Attribute{class(CKO_DATA), flag(CKA_TOKEN, true), {CKA_VALUE, []byte("data")}}
	for name, call := range map[string]struct {
		call func() error
		want RV
	}{
		"a label":                       {func() error { return c.SignInit(s, Mechanism{Type: CKM_ECDSA}, key) }, CKR_KEY_TYPE_INCONSISTENT},
		"a policy of who keeps nothing": {func() error { return second(c.CreateObject(s, append(kept, Attribute{CKA_TPM2_POLICY, long}))) }, CKR_TOKEN_WRITE_PROTECTED},
	} {
		before := len(w.log.String())
		w.refused(call.call(), call.want)
		if line := w.log.String()[before:]; line == "" || len(line) > 2*maxReason || !utf8.ValidString(line) {
			t.Errorf("%s: a line of %d bytes: %.100s", name, len(line), line)
		}
	}
}
