package tests

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"

	"github.com/tpm2-p11/tpm2-p11/internal/nitrosim/keyservice"
	"github.com/tpm2-p11/tpm2-p11/internal/nitrosim/simtest"
)

// The vendor's numbers (docs/kms.md).
const (
	ckmKMSUnwrap  = 0x80544B01
	ckmKMSDataKey = 0x80544B02
	ckaCiphertext = 0x80544B13

	ckaPublicKeyInfo = 0x129 // of PKCS #11 v3.0, which miekg/pkcs11 does not name
)

// newRecipient is an instance whose token has a key for KMS's answers, and a data key that KMS encrypted, in wrapped.kms. Its
// configuration has more at the top, and more in [kms].
func newRecipient(t *testing.T, top string, more ...string) *instance {
	t.Helper()
	m := newInstance(t)
	m.configureTop(top, fmt.Sprintf("key_id = %q\ncontext = { purpose = \"db\" }\nrecipient = \"recipient\"\nattempts = 1\n%s", m.key, strings.Join(more, "")))
	m.tpm2p11("init", "--no-pin")
	m.tpm2p11("key", "create", "recipient", "--use", "decrypt", "--id", "01")
	m.write("wrapped", "0123456789abcdef0123456789abcdef")
	m.encrypt("wrapped", "wrapped.kms")
	return m
}

func (a *application) read(name string) []byte {
	a.t.Helper()
	b, err := os.ReadFile(filepath.Join(a.dir, name))
	a.ok(name, err)
	return b
}

func (a *application) recipient() pkcs11.ObjectHandle {
	a.t.Helper()
	found := a.find(a.session, pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY), pkcs11.NewAttribute(pkcs11.CKA_LABEL, "recipient"))
	if len(found) != 1 {
		a.t.Fatalf("recipients: %v", found)
	}
	return found[0]
}

func (a *application) unwrap(parameter, wrapped []byte, template ...*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
	a.t.Helper()
	return a.p11().UnwrapKey(a.session, []*pkcs11.Mechanism{pkcs11.NewMechanism(ckmKMSUnwrap, parameter)}, a.recipient(), wrapped, template)
}

// aesKey is the template of an AES key that encrypts.
func aesKey(token bool, more ...*pkcs11.Attribute) []*pkcs11.Attribute {
	return append([]*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_AES),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, token), pkcs11.NewAttribute(pkcs11.CKA_LABEL, "data key"),
	}, more...)
}

// gcm encrypts with one key and decrypts with another, which gives the same when they are the same.
func (a *application) gcm(with, again pkcs11.ObjectHandle) {
	a.t.Helper()
	parameters := pkcs11.NewGCMParams(bytes.Repeat([]byte{7}, 12), []byte("header"), 128)
	defer parameters.Free()
	mechanism := []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_GCM, parameters)}
	a.ok("C_EncryptInit", a.p11().EncryptInit(a.session, mechanism, with))
	sealed, err := a.p11().Encrypt(a.session, []byte("a record"))
	a.ok("C_Encrypt", err)
	a.ok("C_DecryptInit", a.p11().DecryptInit(a.session, mechanism, again))
	record, err := a.p11().Decrypt(a.session, sealed)
	a.ok("C_Decrypt", err)
	if string(record) != "a record" {
		a.t.Errorf("decrypted %q", record)
	}
}

func TestModuleUnwrapsKeysOfKMS(t *testing.T) {
	story{
		boot: func(t *testing.T, config string) *machine { return newRecipient(t, config).machine },
		app: func(a *application) {
			wrapped := a.read("wrapped.kms")
			session, err := a.unwrap(nil, wrapped, aesKey(false)...)
			a.ok("C_UnwrapKey", err)
			kept, err := a.unwrap([]byte(`{"context":{"purpose":"db"}}`), wrapped, aesKey(true)...)
			a.ok("C_UnwrapKey of a token object", err)
			a.gcm(session, kept)
			_, err = a.p11().GetAttributeValue(a.session, session, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_VALUE, nil)})
			a.refused("the value", pkcs11.CKR_ATTRIBUTE_SENSITIVE, err)
			if !bytes.Equal(a.value(kept, ckaCiphertext), wrapped) {
				a.t.Error("the key has another ciphertext")
			}

			mechanism := []*pkcs11.Mechanism{pkcs11.NewMechanism(ckmKMSDataKey, nil)}
			made, err := a.p11().GenerateKey(a.session, mechanism, aesKey(false, pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, 32)))
			a.ok("C_GenerateKey", err)
			again, err := a.unwrap(nil, a.value(made, ckaCiphertext), aesKey(false)...)
			a.ok("C_UnwrapKey of what was generated", err)
			a.gcm(made, again)
			for attribute, want := range map[uint]bool{pkcs11.CKA_LOCAL: false, pkcs11.CKA_EXTRACTABLE: false, pkcs11.CKA_SENSITIVE: true, pkcs11.CKA_NEVER_EXTRACTABLE: false} {
				if got := a.value(made, attribute); got[0] != boolByte(want) {
					a.t.Errorf("attribute 0x%x: %v", attribute, got)
				}
			}
		},
		after: func(m *machine, _ string) {
			if log := m.read("debug.log"); bytes.Contains(log, []byte("0123456789abcdef0123")) {
				m.t.Error("the log has the plaintext")
			}
		},
	}.tell(t)
}

// What is refused leaves nothing behind, and the log says why.
func TestModuleRefusesKeysOfKMS(t *testing.T) {
	fault := func(f keyservice.Fault) func(*machine) string {
		return func(m *machine) string { m.instance.kms.Inject(f, 1); return "" }
	}
	story{
		boot: func(t *testing.T, config string) *machine {
			m := newRecipient(t, config)
			m.write("odd", "17 bytes, no more")
			m.encrypt("odd", "odd.kms")
			m.as(simtest.ReleaseRole).tpm2p11("kms", "encrypt", "--in", "wrapped", "--out", "other.kms", "--context", "purpose=other")
			return m.machine
		},
		app: func(a *application) {
			wrapped := a.read("wrapped.kms")
			flipped := bytes.Clone(wrapped)
			flipped[len(flipped)-1] ^= 1
			for name, c := range map[string]struct {
				want      uint
				parameter []byte
				wrapped   []byte
				template  []*pkcs11.Attribute
			}{
				"a flipped bit":            {pkcs11.CKR_WRAPPED_KEY_INVALID, nil, flipped, aesKey(false)},
				"cut short":                {pkcs11.CKR_WRAPPED_KEY_INVALID, nil, wrapped[:40], aesKey(false)},
				"too much":                 {pkcs11.CKR_WRAPPED_KEY_LEN_RANGE, nil, make([]byte, 7000), aesKey(false)},
				"another context":          {pkcs11.CKR_WRAPPED_KEY_INVALID, nil, a.read("other.kms"), aesKey(false)},
				"an odd length":            {pkcs11.CKR_ATTRIBUTE_VALUE_INVALID, nil, a.read("odd.kms"), aesKey(false)},
				"no JSON":                  {pkcs11.CKR_MECHANISM_PARAM_INVALID, []byte("purpose=db"), wrapped, aesKey(false)},
				"an unknown member":        {pkcs11.CKR_MECHANISM_PARAM_INVALID, []byte(`{"key":"x"}`), wrapped, aesKey(false)},
				"two parameters":           {pkcs11.CKR_MECHANISM_PARAM_INVALID, []byte(`{} {}`), wrapped, aesKey(false)},
				"another KMS key":          {pkcs11.CKR_MECHANISM_PARAM_INVALID, []byte(`{"key_id":"alias/other"}`), wrapped, aesKey(false)},
				"a contradicted context":   {pkcs11.CKR_MECHANISM_PARAM_INVALID, []byte(`{"context":{"purpose":"other"}}`), wrapped, aesKey(false)},
				"more context":             {pkcs11.CKR_WRAPPED_KEY_INVALID, []byte(`{"context":{"more":"x"}}`), wrapped, aesKey(false)},
				"extractable":              {pkcs11.CKR_TEMPLATE_INCONSISTENT, nil, wrapped, aesKey(false, pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, true))},
				"not sensitive":            {pkcs11.CKR_TEMPLATE_INCONSISTENT, nil, wrapped, aesKey(true, pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, false))},
				"with a value":             {pkcs11.CKR_TEMPLATE_INCONSISTENT, nil, wrapped, aesKey(false, pkcs11.NewAttribute(pkcs11.CKA_VALUE, []byte("x")))},
				"a certificate":            {pkcs11.CKR_TEMPLATE_INCONSISTENT, nil, wrapped, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_CERTIFICATE)}},
				"without a class":          {pkcs11.CKR_TEMPLATE_INCOMPLETE, nil, wrapped, nil},
				"a private key that is no": {pkcs11.CKR_WRAPPED_KEY_INVALID, nil, wrapped, privateKeyOfKMS()},
			} {
				_, err := a.unwrap(c.parameter, c.wrapped, c.template...)
				a.refused(name, c.want, err)
			}
			mechanism := []*pkcs11.Mechanism{pkcs11.NewMechanism(ckmKMSDataKey, nil)}
			_, err := a.p11().GenerateKey(a.session, mechanism, aesKey(false, pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, 17)))
			a.refused("an AES key of 17 bytes", pkcs11.CKR_KEY_SIZE_RANGE, err)

			for _, c := range []struct {
				event string
				want  uint
			}{
				{"KMS is throttled", pkcs11.CKR_FUNCTION_FAILED},
				{"KMS goes in the middle", pkcs11.CKR_FUNCTION_FAILED},
				{"the answer is cut short", pkcs11.CKR_ENCRYPTED_DATA_INVALID},
				{"the answer is for another key", pkcs11.CKR_ENCRYPTED_DATA_INVALID},
				{"a bit of the answer flips", pkcs11.CKR_ENCRYPTED_DATA_INVALID},
				{"the answer comes in the clear", pkcs11.CKR_ENCRYPTED_DATA_INVALID},
				{"another image boots", pkcs11.CKR_FUNCTION_REJECTED},
			} {
				a.happen(c.event)
				_, err := a.unwrap(nil, wrapped, aesKey(true)...)
				a.refused(c.event, c.want, err)
			}

			if left := a.find(a.session, pkcs11.NewAttribute(pkcs11.CKA_LABEL, "data key")); len(left) != 0 {
				a.t.Errorf("left behind: %v", left)
			}
			if left := a.find(a.session, pkcs11.NewAttribute(pkcs11.CKA_LABEL, "fleet")); len(left) != 0 {
				a.t.Errorf("left behind: %v", left)
			}
		},
		events: map[string]func(m *machine) string{
			"KMS is throttled":              fault(keyservice.Throttle),
			"KMS goes in the middle":        fault(keyservice.Close),
			"the answer is cut short":       fault(keyservice.Truncate),
			"the answer is for another key": fault(keyservice.WrongKey),
			"a bit of the answer flips":     fault(keyservice.Flip),
			"the answer comes in the clear": fault(keyservice.Open),
			"another image boots": func(m *machine) string {
				m.instance.sim.Extend(m.t, "sha384", 4, []byte("another image"))
				return ""
			},
		},
		after: func(m *machine, _ string) {
			log := string(m.read("debug.log"))
			for _, reason := range []string{"access denied by KMS", "PCR4", "takes extractable = true in [kms]", "KMS cannot be reached", "KMS answered in the clear", "C_UnwrapKey failed"} {
				if !strings.Contains(log, reason) {
					m.t.Errorf("the log does not say %q", reason)
				}
			}
			if strings.Contains(log, "0123456789abcdef0123") {
				m.t.Error("the log has the plaintext")
			}
		},
	}.tell(t)
}

// privateKeyOfKMS is the template of a private key that is unwrapped.
func privateKeyOfKMS(more ...*pkcs11.Attribute) []*pkcs11.Attribute {
	return append([]*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY), pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, "fleet"), pkcs11.NewAttribute(pkcs11.CKA_SIGN, true),
	}, more...)
}

// A private key goes from KMS into the TPM, and signs from there.
func TestModuleImportsAPrivateKeyOfKMS(t *testing.T) {
	story{
		boot: func(t *testing.T, config string) *machine {
			m := newRecipient(t, config)
			key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			der, err := x509.MarshalPKCS8PrivateKey(key)
			if err != nil {
				t.Fatal(err)
			}
			public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
			if err != nil {
				t.Fatal(err)
			}
			m.write("fleet.der", string(der))
			m.write("fleet.pub", string(public))
			m.encrypt("fleet.der", "fleet.kms")
			return m.machine
		},
		app: func(a *application) {
			_, err := a.unwrap(nil, a.read("fleet.kms"), privateKeyOfKMS(pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false))...)
			a.refused("a session object", pkcs11.CKR_TEMPLATE_INCONSISTENT, err)
			_, err = a.unwrap(nil, a.read("fleet.kms"), privateKeyOfKMS(pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_RSA))...)
			a.refused("of another type", pkcs11.CKR_TEMPLATE_INCONSISTENT, err)
			key, err := a.unwrap(nil, a.read("fleet.kms"), privateKeyOfKMS(pkcs11.NewAttribute(0x80544B11, "sha256:7"))...)
			a.ok("C_UnwrapKey of a private key", err)
			if !bytes.Equal(a.value(key, ckaPublicKeyInfo), a.read("fleet.pub")) {
				a.t.Error("another public key")
			}
			if local := a.value(key, pkcs11.CKA_LOCAL); local[0] != 0 {
				a.t.Errorf("CKA_LOCAL: %v", local)
			}
			sign := func() error {
				if err := a.p11().SignInit(a.session, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_ECDSA_SHA256, nil)}, key); err != nil {
					return err
				}
				_, err := a.p11().Sign(a.session, []byte("message"))
				return err
			}
			a.ok("C_Sign", sign())
			a.happen("another image boots")
			a.refused("after PCR 7 changed", pkcs11.CKR_FUNCTION_REJECTED, sign())
		},
		events: map[string]func(m *machine) string{
			"another image boots": func(m *machine) string {
				m.instance.sim.Extend(m.t, "sha256", 7, []byte("another image"))
				return ""
			},
		},
	}.tell(t)
}

// Without [kms] there is nothing to unwrap for.
func TestModuleWithoutKMS(t *testing.T) {
	story{
		before: func(m *machine) {
			m.tpm2p11("init", "--no-pin")
			m.tpm2p11("key", "create", "recipient", "--use", "decrypt")
		},
		app: func(a *application) {
			list, err := a.p11().GetMechanismList(0)
			a.ok("C_GetMechanismList", err)
			for _, m := range list {
				if m.Mechanism == ckmKMSUnwrap || m.Mechanism == ckmKMSDataKey {
					a.t.Errorf("mechanism 0x%x is listed", m.Mechanism)
				}
			}
			_, err = a.unwrap(nil, []byte("ciphertext"), aesKey(false)...)
			a.refused("C_UnwrapKey", pkcs11.CKR_MECHANISM_INVALID, err)
			if unwraps := a.value(a.recipient(), pkcs11.CKA_UNWRAP); unwraps[0] != 0 {
				a.t.Errorf("CKA_UNWRAP: %v", unwraps)
			}
		},
	}.tell(t)
}

// pkcs11-tool unwraps by the mechanism's number, into a token object.
func TestPKCS11ToolUnwrapsAKeyOfKMS(t *testing.T) {
	t.Parallel()
	m := newRecipient(t, "")
	defer func() {
		if t.Failed() {
			t.Log(last(string(m.read("debug.log")), 1500))
		}
	}()
	m.pkcs11Tool("--unwrap", "--mechanism", "0x80544B01", "--id", "01", "--input-file", "wrapped.kms", "--key-type", "AES:", "--sensitive", "--application-id", "02", "--application-label", "disk")
	m.write("iv", "")
	m.write("record", "sixteen bytes ..")
	m.pkcs11Tool("--encrypt", "--id", "02", "--mechanism", "AES-CBC-PAD", "--iv", "000102030405060708090a0b0c0d0e0f", "--input-file", "record", "--output-file", "record.enc")
	m.run("openssl", "enc", "-d", "-aes-256-cbc", "-K", fmt.Sprintf("%x", m.read("wrapped")), "-iv", "000102030405060708090a0b0c0d0e0f", "-in", "record.enc", "-out", "record.dec")
	if got := m.read("record.dec"); string(got) != "sixteen bytes .." {
		t.Errorf("decrypted %q", got)
	}
}

// A recipient that cannot receive is refused before KMS is asked, and so is one that is not there.
func TestModuleRefusesRecipients(t *testing.T) {
	for name, create := range map[string][]string{
		"that signs":            {"--type", "rsa2048"},
		"with a PIN of its own": {"--use", "decrypt", "--own-pin-file", "own-pin"},
		"that is not there":     nil,
	} {
		want := uint(pkcs11.CKR_KEY_FUNCTION_NOT_PERMITTED)
		if create == nil {
			want = pkcs11.CKR_FUNCTION_FAILED
		}
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			story{
				boot: func(t *testing.T, top string) *machine {
					m := newInstance(t)
					m.configureTop(top, fmt.Sprintf("key_id = %q\nrecipient = \"recipient\"\n", m.key))
					m.tpm2p11("init", "--no-pin")
					m.write("own-pin", "1234")
					if create != nil {
						m.tpm2p11(append([]string{"key", "create", "recipient"}, create...)...)
					}
					return m.machine
				},
				app: func(a *application) {
					_, err := a.p11().GenerateKey(a.session, []*pkcs11.Mechanism{pkcs11.NewMechanism(ckmKMSDataKey, nil)}, aesKey(false, pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, 32)))
					a.refused("C_GenerateKey", want, err)
				},
				after: func(m *machine, _ string) {
					if log := string(m.read("debug.log")); !strings.Contains(log, "the recipient of [kms]") || strings.Contains(log, "operation=GenerateDataKey") {
						m.t.Errorf("the log: %s", last(log, 1500))
					}
				},
			}.tell(t)
		})
	}
}
