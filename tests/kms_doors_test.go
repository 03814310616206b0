package tests

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"

	"github.com/tpm2-p11/tpm2-p11/internal/nitrosim/keyservice"
)

// hides demands that a text does not show a secret in any of the forms that a log could give it.
func hides(t *testing.T, where, text string, secret []byte) {
	t.Helper()
	for form, shown := range map[string]string{
		"as it is": string(secret), "in hex": hex.EncodeToString(secret), "in base64": base64.RawStdEncoding.EncodeToString(secret[:30]),
		"as numbers": strings.Trim(fmt.Sprint(secret), "[]"), "in part": string(secret[4:20]),
	} {
		if strings.Contains(strings.ToLower(text), strings.ToLower(shown)) {
			t.Errorf("%s shows it %s", where, form)
		}
	}
}

// dataKey asks KMS for a new data key.
func (a *application) dataKey(template ...*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
	a.t.Helper()
	return a.p11().GenerateKey(a.session, []*pkcs11.Mechanism{pkcs11.NewMechanism(ckmKMSDataKey, nil)}, append(template, pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, 32)))
}

// A forked child and a client that may not manage the token leave it as it is; what a client keeps for its session alone it may have.
func TestModuleUnwrapsNothingIntoWhatOthersManage(t *testing.T) {
	type expected struct{ session, token, dataKey uint }
	for name, c := range map[string]struct {
		way  transport
		want expected
		says string
	}{
		"Unwraps":     {through("unwrap"), expected{pkcs11.CKR_OK, pkcs11.CKR_TOKEN_WRITE_PROTECTED, pkcs11.CKR_OK}, `the purpose \"manage\"`},
		"ForkedChild": {transport{name: "forked", prepare: forkFirst}, expected{pkcs11.CKR_TOKEN_WRITE_PROTECTED, pkcs11.CKR_TOKEN_WRITE_PROTECTED, pkcs11.CKR_TOKEN_WRITE_PROTECTED}, `forked = \"all\"`},
	} {
		t.Run(name, func(t *testing.T) {
			story{
				ways: []transport{c.way},
				boot: func(t *testing.T, config string) *machine { return newRecipient(t, config).machine },
				app: func(a *application) {
					wrapped := a.read("wrapped.kms")
					_, err := a.unwrap(nil, wrapped, aesKey(false)...)
					a.refused("a session key", c.want.session, err)
					_, err = a.unwrap(nil, wrapped, aesKey(true)...)
					a.refused("a token key", c.want.token, err)
					_, err = a.unwrap(nil, wrapped, privateKeyOfKMS()...)
					a.refused("a private key", c.want.token, err)
					_, err = a.dataKey(aesKey(false)...)
					a.refused("a data key", c.want.dataKey, err)
					_, err = a.dataKey(aesKey(true)...)
					a.refused("a data key in the token", c.want.token, err)
				},
				after: func(m *machine, _ string) {
					if log := string(m.read("debug.log")); !strings.Contains(log, c.says) {
						m.t.Errorf("the log does not say %q:\n%s", c.says, last(log, 1500))
					}
					if listed := m.tpm2p11("key", "list").stdout; strings.Contains(listed, "data key") || strings.Contains(listed, "fleet") {
						m.t.Errorf("left behind:\n%s", listed)
					}
				},
			}.tell(t)
		})
	}
}

// Through a server's socket it takes the purpose "unwrap": to decrypt is another.
func TestServersSocketUnwrapsForWhomItIsSaid(t *testing.T) {
	t.Parallel()
	m := newRecipient(t, "")
	m.show(m.dir)
	m.run("install", "-m", "755", module, m.path("module.so"))
	m.write("server.conf", string(m.read("tpm2-p11.conf"))+"\n[[access]]\nusers = [\"www-data\"]\npurposes = [\"sign\", \"decrypt\", \"manage\"]\n"+
		"[[access]]\nusers = [\"mail\"]\npurposes = [\"unwrap\", \"manage\"]\n")
	m.write("tpm2-p11.conf", fmt.Sprintf("socket = %q\nlog = \"stderr\"\n", m.path("socket")))
	for _, file := range []string{"tpm2-p11.conf", "wrapped.kms"} {
		if err := os.Chmod(m.path(file), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s := &service{machine: m.machine}
	s.begin()
	t.Cleanup(s.end)
	unwrap := []string{"--unwrap", "--mechanism", "0x80544B01", "--id", "01", "--input-file", "wrapped.kms", "--key-type", "AES:", "--sensitive", "--application-id", "02", "--application-label", "disk"}
	if r := s.as("www-data", unwrap...); r.code == 0 || !strings.Contains(r.all(), "CKR_KEY_FUNCTION_NOT_PERMITTED") {
		t.Errorf("without the purpose: %d %s", r.code, r.all())
	}
	if listed := s.as("mail", "--list-objects", "--type", "secrkey"); strings.Contains(listed.stdout, "disk") {
		t.Errorf("left behind: %s", listed.all())
	}
	if r := s.as("mail", unwrap...); r.code != 0 {
		t.Errorf("with the purpose: %d %s", r.code, r.all())
	}
	if listed := s.as("mail", "--list-objects", "--type", "secrkey"); !strings.Contains(listed.stdout, "disk") {
		t.Errorf("what was unwrapped is not there: %s", listed.all())
	}
	if log := string(m.read("debug.log")) + s.log.String(); !strings.Contains(log, "is not for this client to use so") {
		t.Errorf("the log does not say why:\n%s", last(log, 1500))
	}
}

// In a token with a PIN nothing is unwrapped before the login; what is imported is under the PIN as all keys of the token are; and
// after the logout nothing of it is left for the application, whatever is cached.
func TestModuleUnwrapsBehindAPIN(t *testing.T) {
	story{
		boot: func(t *testing.T, config string) *machine {
			m := newInstance(t)
			m.configureTop(config, fmt.Sprintf("key_id = %q\ncontext = { purpose = \"db\" }\nrecipient = \"recipient\"\nattempts = 1\ncache_for = \"1h\"\n", m.key))
			m.write("pin", userPIN)
			m.write("so", soPIN)
			m.tpm2p11("init", "--pin-file", "pin", "--so-pin-file", "so")
			m.tpm2p11("key", "create", "recipient", "--use", "decrypt", "--pin-file", "pin")
			m.write("wrapped", "0123456789abcdef0123456789abcdef")
			m.encrypt("wrapped", "wrapped.kms")
			key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			der, err := x509.MarshalPKCS8PrivateKey(key)
			if err != nil {
				t.Fatal(err)
			}
			m.write("fleet.der", string(der))
			m.encrypt("fleet.der", "fleet.kms")
			return m.machine
		},
		app: func(a *application) {
			wrapped := a.read("wrapped.kms")
			_, err := a.dataKey(aesKey(false)...)
			a.refused("a data key before the login", pkcs11.CKR_USER_NOT_LOGGED_IN, err)
			if keys := a.find(a.session, pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY)); len(keys) != 0 {
				a.t.Errorf("private keys before the login: %v", keys)
			}

			a.ok("C_Login", a.p11().Login(a.session, pkcs11.CKU_USER, userPIN))
			recipient := a.recipient()
			for _, public := range []bool{true, false} {
				_, err = a.unwrap(nil, a.read("fleet.kms"), privateKeyOfKMS(pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, !public))...)
				if public {
					a.refused("a private key that everybody sees", pkcs11.CKR_TEMPLATE_INCONSISTENT, err)
				} else {
					a.ok("C_UnwrapKey of a private key", err)
				}
			}
			first, err := a.unwrap(nil, wrapped, aesKey(false)...)
			a.ok("C_UnwrapKey", err)
			a.happen("KMS goes")
			cached, err := a.unwrap(nil, wrapped, aesKey(false)...)
			a.ok("C_UnwrapKey of what is cached", err)
			a.gcm(first, cached)
			a.works("fleet")
			fleet := a.private("fleet")

			a.ok("C_Logout", a.p11().Logout(a.session))
			_, err = a.p11().UnwrapKey(a.session, []*pkcs11.Mechanism{pkcs11.NewMechanism(ckmKMSUnwrap, nil)}, recipient, wrapped, aesKey(false))
			a.refused("after the logout", pkcs11.CKR_USER_NOT_LOGGED_IN, err)
			_, err = a.sign(a.session, ecdsaSHA256(), fleet, message)
			a.refused("the imported key after the logout", pkcs11.CKR_USER_NOT_LOGGED_IN, err)
			a.refused("the key that was unwrapped", pkcs11.CKR_OBJECT_HANDLE_INVALID, a.p11().DestroyObject(a.session, first))

			a.ok("C_Login", a.p11().Login(a.session, pkcs11.CKU_USER, userPIN))
			_, err = a.unwrap(nil, wrapped, aesKey(false)...)
			a.refused("what was cached under the former login", pkcs11.CKR_FUNCTION_FAILED, err)
			a.happen("KMS is back")
			_, err = a.unwrap(nil, wrapped, aesKey(false)...)
			a.ok("C_UnwrapKey", err)
		},
		events: map[string]func(m *machine) string{
			"KMS goes":    func(m *machine) string { m.instance.kms.Inject(keyservice.Close, 1000); return "" },
			"KMS is back": func(m *machine) string { m.instance.kms.Inject(keyservice.Close, 0); return "" },
		},
		after: func(m *machine, _ string) {
			m.write("in.txt", "what is signed")
			m.write("wrong", "not-the-pin")
			m.refused([]string{"PIN"}, command, "sign", "fleet", "--in", "in.txt", "--out", "sig", "--pin-file", "wrong")
			m.tpm2p11("sign", "fleet", "--in", "in.txt", "--out", "sig", "--pin-file", "pin")
			log := string(m.read("debug.log"))
			for _, secret := range [][]byte{m.read("wrapped"), m.read("fleet.der")[36:68]} {
				hides(m.t, "the log", log, secret)
			}
			if n := strings.Count(log, "request to KMS"); n < 4 {
				m.t.Errorf("only %d requests were logged: the test proves nothing", n)
			}
		},
	}.tell(t)
}

// What leaves the module takes the word of both, template and configuration; a generic secret is as long as it was encrypted; without
// a recipient in [kms] the TPM makes one; and without an encryption context the log warns.
func TestModuleExtractsWhatBothAllow(t *testing.T) {
	generic := func(more ...*pkcs11.Attribute) []*pkcs11.Attribute {
		return append([]*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_GENERIC_SECRET), pkcs11.NewAttribute(pkcs11.CKA_LABEL, "password"),
		}, more...)
	}
	extractable := []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, true), pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, false)}
	story{
		boot: func(t *testing.T, config string) *machine {
			m := newInstance(t)
			m.configureTop(config, fmt.Sprintf("key_id = %q\nattempts = 1\nextractable = true\n", m.key))
			m.tpm2p11("init", "--no-pin")
			m.tpm2p11("key", "create", "recipient", "--use", "decrypt")
			m.write("password", "a password of 31 bytes in total")
			m.encrypt("password", "bound.kms")
			return m.machine
		},
		app: func(a *application) {
			context := []byte(`{"context":{"purpose":"db"}}`)
			for _, token := range []bool{false, true} {
				place := pkcs11.NewAttribute(pkcs11.CKA_TOKEN, token)
				key, err := a.unwrap(context, a.read("bound.kms"), generic(append(extractable, place)...)...)
				a.ok("C_UnwrapKey", err)
				if got := a.value(key, pkcs11.CKA_VALUE); !bytes.Equal(got, a.read("password")) {
					a.t.Errorf("the value is %q", got)
				}
				closed, err := a.unwrap(context, a.read("bound.kms"), generic(place)...)
				a.ok("C_UnwrapKey", err)
				_, err = a.p11().GetAttributeValue(a.session, closed, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_VALUE, nil)})
				a.refused("the value of a key whose template does not ask", pkcs11.CKR_ATTRIBUTE_SENSITIVE, err)
			}

			made, err := a.dataKey(generic(extractable...)...)
			a.ok("C_GenerateKey without a recipient in [kms]", err)
			again, err := a.unwrap(nil, a.value(made, ckaCiphertext), generic(extractable...)...)
			a.ok("C_UnwrapKey of what was generated", err)
			if value := a.value(made, pkcs11.CKA_VALUE); len(value) != 32 || !bytes.Equal(value, a.value(again, pkcs11.CKA_VALUE)) {
				a.t.Error("its ciphertext gives another key")
			}
		},
		after: func(m *machine, _ string) {
			log := string(m.read("debug.log"))
			if n := strings.Count(log, "a request to KMS without encryption context"); n != 2 {
				m.t.Errorf("%d warnings, want one for the data key and one for its unwrapping", n)
			}
			hides(m.t, "the log", log, m.read("password"))
		},
	}.tell(t)
}
