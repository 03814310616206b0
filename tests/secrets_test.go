package tests

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"
)

// An operator makes, writes, reads, uses and deletes secret keys and data with pkcs11-tool.
func TestPKCS11ToolSecrets(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	withPIN(m)
	held := m.tpm.Count(t)
	user := func(args ...string) result {
		t.Helper()
		return m.pkcs11Tool(append([]string{"--login", "--pin", "123456"}, args...)...)
	}
	m.write("in.txt", "the contract, 32 bytes in length")
	m.write("key", "0123456789abcdef0123456789abcdef")
	user("--keygen", "--key-type", "AES:32", "--label", "made", "--id", "01", "--private", "--sensitive")
	user("--keygen", "--key-type", "GENERIC:32", "--label", "mac", "--id", "02", "--private", "--usage-sign")
	user("--write-object", "key", "--type", "secrkey", "--key-type", "AES:32", "--label", "written", "--id", "03", "--private", "--extractable")
	user("--write-object", "in.txt", "--type", "data", "--label", "letter", "--application-id", "1.2.3.4", "--private")
	m.pkcs11Tool("--login", "--pin", "123456", "--write-object", "in.txt", "--type", "data", "--label", "notice")

	public := m.pkcs11Tool("--list-objects").stdout
	if !strings.Contains(public, "notice") || strings.Contains(public, "letter") || strings.Contains(public, "Secret Key") {
		t.Errorf("before the login there is\n%s", public)
	}
	objects := user("--list-objects").stdout
	for _, want := range []string{"Secret Key Object; AES length 32", "Secret Key Object; Generic secret length 32", "always sensitive", "never extractable", "letter", "1.2.3.4"} {
		if !strings.Contains(objects, want) {
			t.Errorf("the list lacks %q:\n%s", want, objects)
		}
	}

	// What was encrypted here openssl decrypts, and the other way round.
	const iv = "000102030405060708090a0b0c0d0e0f"
	openssl := func(cipher string, args ...string) {
		t.Helper()
		m.run("openssl", append([]string{"enc", cipher, "-K", fmt.Sprintf("%x", m.read("key")), "-iv", iv}, args...)...)
	}
	for mechanism, cipher := range map[string]string{"AES-CBC-PAD": "-aes-256-cbc", "AES-CBC": "-aes-256-cbc"} {
		pad := []string{}
		if mechanism == "AES-CBC" {
			pad = []string{"-nopad"}
		}
		user("--encrypt", "--id", "03", "-m", mechanism, "--iv", iv, "-i", "in.txt", "-o", "encrypted")
		openssl(cipher, append(pad, "-d", "-in", "encrypted", "-out", "plain")...)
		if !bytes.Equal(m.read("plain"), m.read("in.txt")) {
			t.Errorf("%s: openssl decrypts %q", mechanism, m.read("plain"))
		}
		openssl(cipher, append(pad, "-in", "in.txt", "-out", "encrypted")...)
		user("--decrypt", "--id", "03", "-m", mechanism, "--iv", iv, "-i", "encrypted", "-o", "plain")
		if !bytes.Equal(m.read("plain"), m.read("in.txt")) {
			t.Errorf("%s: what openssl encrypted decrypts as %q", mechanism, m.read("plain"))
		}
	}
	user("--encrypt", "--id", "01", "-m", "AES-CBC-PAD", "--iv", iv, "-i", "in.txt", "-o", "encrypted")
	user("--decrypt", "--id", "01", "-m", "AES-CBC-PAD", "--iv", iv, "-i", "encrypted", "-o", "plain")
	if !bytes.Equal(m.read("plain"), m.read("in.txt")) {
		t.Errorf("it decrypts as %q", m.read("plain"))
	}

	user("--read-object", "--type", "secrkey", "--id", "03", "-o", "read")
	if !bytes.Equal(m.read("read"), m.read("key")) {
		t.Errorf("the key is read as %x", m.read("read"))
	}
	user("--read-object", "--type", "data", "--label", "letter", "-o", "read")
	if !bytes.Equal(m.read("read"), m.read("in.txt")) {
		t.Errorf("the letter is %q", m.read("read"))
	}
	m.refused(nil, "pkcs11-tool", "--module", module, "--login", "--pin", "123456", "--read-object", "--type", "secrkey", "--id", "01", "-o", "stolen")
	if stolen, err := os.ReadFile(m.path("stolen")); err == nil && len(stolen) > 0 {
		t.Errorf("a sensitive key is read: %x", stolen)
	}
	m.refused(nil, "pkcs11-tool", "--module", module, "--read-object", "--type", "data", "--label", "letter", "-o", "stolen")

	// The command knows of them, and files of the store show nothing.
	list := m.tpm2p11("key", "list").stdout
	for _, want := range []string{"made", "aes256", "written", "mac", "generic", "letter", "data"} {
		if !strings.Contains(list, want) {
			t.Errorf("key list lacks %q:\n%s", want, list)
		}
	}
	var shown struct {
		Secrets []struct{ Label, Type, File string }
	}
	if err := json.Unmarshal([]byte(m.tpm2p11("key", "list", "--json").stdout), &shown); err != nil || len(shown.Secrets) != 5 {
		t.Errorf("key list --json: %v, %+v", err, shown)
	}
	if doctor := m.tpm2p11("doctor").all(); !strings.Contains(doctor, `secret "made"`) || !strings.Contains(doctor, "5 secrets and data objects") {
		t.Errorf("doctor does not say that they are well:\n%s", doctor)
	}
	files, err := filepath.Glob(m.path("store/*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if content, _ := os.ReadFile(file); bytes.Contains(content, m.read("key")) {
			t.Errorf("%s has a key in the clear", file)
		}
	}

	// A file that is changed opens nothing, and the others go on.
	for _, s := range shown.Secrets {
		if s.Label == "made" {
			side := filepath.Join("store", s.File+".json")
			whole := string(m.read(side))
			m.write(side, strings.Replace(whole, `"sensitive": true`, `"extractable": true`, 1))
			// pkcs11-tool takes no notice of the refusal, and writes what its buffer has: zeros.
			if said := user("--read-object", "--type", "secrkey", "--id", "01", "-o", "stolen").all(); !strings.Contains(said, "CKR_DEVICE_ERROR") || !strings.Contains(said, "not as it was written") {
				t.Errorf("a key that a file calls extractable is read:\n%s", said)
			}
			if stolen := m.read("stolen"); !bytes.Equal(stolen, make([]byte, len(stolen))) {
				t.Errorf("a key that a file calls extractable is read: %x", stolen)
			}
			m.refused([]string{"CKR_DEVICE_ERROR"}, "pkcs11-tool", "--module", module, "--login", "--pin", "123456", "--encrypt", "--id", "01", "-m", "AES-CBC-PAD", "--iv", iv, "-i", "in.txt", "-o", "stolen")
			m.write(side, whole)
		}
	}
	user("--encrypt", "--id", "01", "-m", "AES-CBC-PAD", "--iv", iv, "-i", "in.txt", "-o", "encrypted")

	for _, o := range [][]string{{"secrkey", "made"}, {"secrkey", "mac"}, {"secrkey", "written"}, {"data", "letter"}, {"data", "notice"}} {
		user("--delete-object", "--type", o[0], "--label", o[1])
	}
	if objects := user("--list-objects").stdout; strings.Contains(objects, "Secret") || strings.Contains(objects, "Data") {
		t.Errorf("left are\n%s", objects)
	}
	if now := m.tpm.Count(t); now != held {
		t.Errorf("the TPM holds %v now, %v before", now, held)
	}
}

// One key wraps another, and unwraps it into a token object, as pkcs11-tool wants it.
func TestPKCS11ToolWrapping(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	m.tpm2p11("init", "--label", "web", "--no-pin")
	m.write("key", "0123456789abcdef")
	m.pkcs11Tool("--keygen", "--key-type", "AES:32", "--label", "kek", "--id", "01", "--usage-wrap")
	m.pkcs11Tool("--write-object", "key", "--type", "secrkey", "--key-type", "AES:16", "--label", "wrapped", "--id", "02", "--extractable")
	m.pkcs11Tool("--wrap", "--mechanism", "AES-KEY-WRAP", "--id", "01", "--application-id", "02", "--output-file", "wrapped")
	m.pkcs11Tool("--unwrap", "--mechanism", "AES-KEY-WRAP", "--id", "01", "-i", "wrapped", "--key-type", "AES:", "--application-label", "back", "--application-id", "03", "--extractable")
	m.pkcs11Tool("--read-object", "--type", "secrkey", "--id", "03", "-o", "read")
	if !bytes.Equal(m.read("read"), m.read("key")) {
		t.Errorf("it came back as %x", m.read("read"))
	}
	bent := m.read("wrapped")
	bent[0] ^= 1
	m.write("wrapped", string(bent))
	m.refused([]string{"CKR_WRAPPED_KEY_INVALID"}, "pkcs11-tool", "--module", module, "--unwrap", "--mechanism", "AES-KEY-WRAP", "--id", "01", "-i", "wrapped", "--key-type", "AES:", "--application-label", "bent", "--application-id", "04")
}

// secretKey is a template.
func secretKey(kind uint, more ...*pkcs11.Attribute) []*pkcs11.Attribute {
	return append([]*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, kind)}, more...)
}

func (a *application) encrypt(m *pkcs11.Mechanism, key pkcs11.ObjectHandle, data []byte) ([]byte, error) {
	if err := a.p11().EncryptInit(a.session, []*pkcs11.Mechanism{m}, key); err != nil {
		return nil, err
	}
	return a.p11().Encrypt(a.session, data)
}

// A Go program encrypts with keys of its session and of the token, in one part and in several.
func TestSecretKeysOfAnApplication(t *testing.T) {
	story{
		before: func(m *machine) { m.tpm2p11("init", "--label", "web", "--no-pin") },
		app: func(a *application) {
			length := pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, 32)
			for _, token := range []bool{false, true} {
				key, err := a.p11().GenerateKey(a.session, []*pkcs11.Mechanism{mechanism(pkcs11.CKM_AES_KEY_GEN)}, []*pkcs11.Attribute{
					length, pkcs11.NewAttribute(pkcs11.CKA_TOKEN, token), pkcs11.NewAttribute(pkcs11.CKA_LABEL, fmt.Sprint(token))})
				a.ok("C_GenerateKey", err)
				nonce, aad := []byte("123456789012"), []byte("header")
				parameters := pkcs11.NewGCMParams(nonce, aad, 128)
				defer parameters.Free()
				gcm := pkcs11.NewMechanism(pkcs11.CKM_AES_GCM, parameters)
				ciphertext, err := a.encrypt(gcm, key, message)
				a.ok("C_Encrypt", err)
				if len(ciphertext) != len(message)+16 {
					a.t.Errorf("%d bytes became %d", len(message), len(ciphertext))
				}
				a.ok("C_EncryptInit", a.p11().EncryptInit(a.session, []*pkcs11.Mechanism{gcm}, key))
				var parts []byte
				for part := message; len(part) > 0; part = part[min(100, len(part)):] {
					got, err := a.p11().EncryptUpdate(a.session, part[:min(100, len(part))])
					a.ok("C_EncryptUpdate", err)
					parts = append(parts, got...)
				}
				got, err := a.p11().EncryptFinal(a.session)
				a.ok("C_EncryptFinal", err)
				if parts = append(parts, got...); !bytes.Equal(parts, ciphertext) {
					a.t.Error("in parts it is another ciphertext")
				}
				plaintext, err := a.decrypt(gcm, key, ciphertext)
				a.ok("C_Decrypt", err)
				if !bytes.Equal(plaintext, message) {
					a.t.Errorf("it decrypts as %q", plaintext)
				}
				ciphertext[0] ^= 1
				_, err = a.decrypt(gcm, key, ciphertext)
				a.refused("a bent ciphertext", pkcs11.CKR_ENCRYPTED_DATA_INVALID, err)
				a.ok("C_DecryptInit", a.p11().DecryptInit(a.session, []*pkcs11.Mechanism{gcm}, key))
				got, err = a.p11().DecryptUpdate(a.session, ciphertext)
				a.ok("C_DecryptUpdate", err)
				if len(got) != 0 {
					a.t.Error("plaintext comes before the tag was checked")
				}
				_, err = a.p11().DecryptFinal(a.session)
				a.refused("C_DecryptFinal", pkcs11.CKR_ENCRYPTED_DATA_INVALID, err)

				ctr := pkcs11.NewMechanism(pkcs11.CKM_AES_CTR, append([]byte{128, 0, 0, 0, 0, 0, 0, 0}, make([]byte, 16)...))
				ciphertext, err = a.encrypt(ctr, key, message)
				a.ok("C_Encrypt", err)
				plaintext, err = a.decrypt(ctr, key, ciphertext)
				a.ok("C_Decrypt", err)
				if !bytes.Equal(plaintext, message) {
					a.t.Errorf("it decrypts as %q", plaintext)
				}
				_, err = a.p11().GetAttributeValue(a.session, key, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_VALUE, nil)})
				a.refused("the value", pkcs11.CKR_ATTRIBUTE_SENSITIVE, err)
				_, err = a.sign(a.session, mechanism(pkcs11.CKM_SHA256_HMAC), key, message)
				a.refused("a MAC of an AES key", pkcs11.CKR_KEY_TYPE_INCONSISTENT, err)
				_, err = a.encrypt(pkcs11.NewMechanism(pkcs11.CKM_AES_CBC, make([]byte, 8)), key, message)
				a.refused("half an IV", pkcs11.CKR_MECHANISM_PARAM_INVALID, err)
				_, err = a.encrypt(mechanism(pkcs11.CKM_AES_GCM), key, message)
				a.refused("no parameter", pkcs11.CKR_MECHANISM_PARAM_INVALID, err)
			}
			mac, err := a.p11().CreateObject(a.session, secretKey(pkcs11.CKK_GENERIC_SECRET, pkcs11.NewAttribute(pkcs11.CKA_VALUE, []byte("Jefe"))))
			a.ok("C_CreateObject", err)
			signature, err := a.sign(a.session, mechanism(pkcs11.CKM_SHA256_HMAC), mac, []byte("what do ya want for nothing?"))
			a.ok("C_Sign", err)
			if got := fmt.Sprintf("%x", signature); got != "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843" {
				a.t.Errorf("the MAC is %s", got)
			}
			a.ok("C_Verify", a.verify(a.session, mechanism(pkcs11.CKM_SHA256_HMAC), mac, []byte("what do ya want for nothing?"), signature))

			// Session objects go with their session, token objects stay.
			a.ok("C_CloseSession", a.p11().CloseSession(a.session))
			a.session = a.open(pkcs11.CKF_RW_SESSION)
			if found := a.find(a.session, pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY)); len(found) != 1 {
				a.t.Errorf("%d secret keys are there", len(found))
			}
			a.object(pkcs11.CKO_SECRET_KEY, "true")
		},
	}.tell(t)
}
