package tests

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"

	"github.com/tpm2-p11/tpm2-p11/internal/faulttpm"
)

// listen puts somebody who writes everything down between the machine and its TPM.
func (m *machine) listen() *faulttpm.Proxy {
	m.t.Helper()
	dir, err := os.MkdirTemp("", "wire") // short: it is a socket's path
	if err != nil {
		m.t.Fatal(err)
	}
	wire, err := faulttpm.Listen(filepath.Join(dir, "s"), m.tpm.Socket())
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { wire.Close(); os.RemoveAll(dir) })
	m.write("tpm2-p11.conf", strings.Replace(string(m.read("tpm2-p11.conf")), m.tpm.Address(), wire.Address(), 1))
	return wire
}

// Whoever listens between the process and the TPM reads no PIN, nor what it becomes, no plaintext and no key, in a token's whole life.
func TestNothingSecretIsOnTheWire(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	wire := m.listen()
	secrets := map[string][]byte{
		"the PIN": []byte("a PIN, canary 1"), "the next PIN": []byte("a PIN, canary 2"), "the SO PIN": []byte("a PIN, canary 3"),
		"a key's own PIN": []byte("a PIN, canary 4"), "the reset PIN": []byte("a PIN, canary 5"), "a sealed secret's PIN": []byte("a PIN, canary 6"),
		"the letter": []byte("a letter, canary 7"), "the sealed data": []byte("the sealed canary 8"), "the secret key": []byte("a secret key, 32 bytes: canary 9"),
	}
	for name, value := range secrets {
		m.write(name, string(value))
		if strings.Contains(name, "PIN") {
			digest := sha256.Sum256(value)
			secrets["the authValue of "+name] = digest[:]
		}
	}
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	m.write("in.key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
	secrets["a prime"], secrets["the other prime"] = private.Primes[0].Bytes(), private.Primes[1].Bytes()

	m.tpm2p11("init", "--pin-file", "the PIN", "--so-pin-file", "the SO PIN")
	m.tpm2p11("key", "create", "web", "--type", "p256", "--id", "01", "--pin-file", "the PIN")
	m.tpm2p11("key", "create", "own", "--type", "p256", "--pin-file", "the PIN", "--own-pin-file", "a key's own PIN")
	m.tpm2p11("key", "create", "mail", "--use", "decrypt", "--pin-file", "the PIN")
	m.tpm2p11("key", "import", "in.key", "--label", "imported", "--pin-file", "the PIN")
	m.tpm2p11("sign", "web", "--in", "the letter", "--out", "sig", "--pin-file", "the PIN")
	m.tpm2p11("sign", "imported", "--in", "the letter", "--out", "sig", "--pin-file", "the PIN")
	m.tpm2p11("sign", "own", "--in", "the letter", "--out", "sig", "--pin-file", "a key's own PIN")
	m.tpm2p11("key", "public", "mail", "--out", "mail.pub")
	m.run("openssl", "pkeyutl", "-encrypt", "-pubin", "-inkey", "mail.pub", "-in", "the letter", "-out", "encrypted",
		"-pkeyopt", "rsa_padding_mode:oaep", "-pkeyopt", "rsa_oaep_md:sha256", "-pkeyopt", "rsa_mgf1_md:sha256")
	if got := m.tpm2p11("decrypt", "mail", "--in", "encrypted", "--pin-file", "the PIN").stdout; got != string(secrets["the letter"]) {
		t.Errorf("decrypted to %q", got)
	}
	m.tpm2p11("seal", "--in", "the sealed data", "--out", "sealed", "--pin-file", "a sealed secret's PIN")
	if got := m.tpm2p11("unseal", "sealed", "--pin-file", "a sealed secret's PIN").stdout; got != string(secrets["the sealed data"]) {
		t.Errorf("unsealed as %q", got)
	}
	m.pkcs11Tool("--login", "--pin", string(secrets["the PIN"]), "--write-object", "the secret key", "--type", "secrkey", "--key-type", "AES:32", "--label", "aes", "--private", "--extractable")
	m.pkcs11Tool("--login", "--pin", string(secrets["the PIN"]), "--read-object", "--type", "secrkey", "--label", "aes", "-o", "read")
	m.tpm2p11("pin", "set", "--pin-file", "the PIN", "--new-pin-file", "the next PIN")
	m.pkcs11Tool("--login", "--pin", string(secrets["the next PIN"]), "--sign", "--id", "01", "--mechanism", "ECDSA-SHA256", "-i", "the letter", "-o", "sig")
	m.tpm2p11("pin", "reset", "--so-pin-file", "the SO PIN", "--new-pin-file", "the reset PIN")
	m.tpm2p11("sign", "web", "--in", "the letter", "--out", "sig", "--pin-file", "the reset PIN")

	if !wire.Saw(m.read("encrypted")) {
		t.Fatal("nobody listens")
	}
	for name, value := range secrets {
		if wire.Saw(value) {
			t.Errorf("%s is on the wire", name)
		}
	}
}

// encryptRaw raises a block to the public exponent: a ciphertext of any padding.
func encryptRaw(key *rsa.PublicKey, block []byte) []byte {
	c := new(big.Int).Exp(new(big.Int).SetBytes(block), big.NewInt(int64(key.E)), key.N)
	return c.FillBytes(make([]byte, key.Size()))
}

// Whatever is wrong with a ciphertext, the TPM is asked the same, answers the same, and so does the module: nothing is left to tell apart,
// in the answer or in its time. With PKCS #1 v1.5 good ones are no different either.
func TestBadCiphertextsAreAllTheSame(t *testing.T) {
	var wire *faulttpm.Proxy
	story{
		config: "legacy = [\"pkcs1-decryption\"]\n",
		ways:   transports[:1],
		boot: func(t *testing.T, config string) *machine {
			m := newMachine(t, config)
			wire = m.listen()
			return m
		},
		before: func(m *machine) {
			m.tpm2p11("init", "--no-pin")
			m.tpm2p11("key", "create", "mail", "--use", "decrypt")
			m.tpm2p11("key", "public", "mail", "--out", "mail.pub")
		},
		events: map[string]func(m *machine) string{
			"heard": func(*machine) string {
				var heard []string
				for _, e := range wire.Exchanges() {
					heard = append(heard, fmt.Sprintf("%v %d %x", e.Code(), len(e.Command), e.Response[:10]))
				}
				wire.Reset()
				return strings.Join(heard, ", ")
			},
		},
		app: func(a *application) {
			key, private := a.publicKey("mail.pub").(*rsa.PublicKey), a.private("mail")
			good, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, key, []byte("a letter"), nil)
			a.ok("rsa.EncryptOAEP", err)
			labelled, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, key, []byte("a letter"), []byte("a label"))
			a.ok("rsa.EncryptOAEP", err)
			block := func(first byte) []byte { // what Manger's attack tells apart
				b := make([]byte, key.Size())
				_, err := rand.Read(b[1:])
				a.ok("rand.Read", err)
				b[0] = first
				return b
			}
			minusOne := new(big.Int).Sub(key.N, big.NewInt(1))
			compare := func(m *pkcs11.Mechanism, want uint, ciphertexts map[string][]byte) {
				a.t.Helper()
				_, err := a.decrypt(oaep(pkcs11.CKM_SHA256, pkcs11.CKG_MGF1_SHA256, ""), private, good)
				a.ok("C_Decrypt", err)
				a.happen("heard")
				first, of := "", ""
				for name, c := range ciphertexts {
					_, err := a.decrypt(m, private, c)
					a.refused(name, want, err)
					if heard := a.happen("heard"); first == "" {
						first, of = heard, name
					} else if heard != first || heard == "" {
						a.t.Errorf("%s: %s\n%s: %s", of, first, name, heard)
					}
				}
			}
			compare(oaep(pkcs11.CKM_SHA256, pkcs11.CKG_MGF1_SHA256, ""), pkcs11.CKR_ENCRYPTED_DATA_INVALID, map[string][]byte{
				"padding under the bound": encryptRaw(key, block(0)), "padding over the bound": encryptRaw(key, block(1)),
				"another label": labelled, "zero": make([]byte, key.Size()), "one": encryptRaw(key, append(make([]byte, key.Size()-1), 1)),
				"minus one": encryptRaw(key, minusOne.FillBytes(make([]byte, key.Size()))),
			})
			plain, err := rsa.EncryptPKCS1v15(rand.Reader, key, []byte("a letter"))
			a.ok("rsa.EncryptPKCS1v15", err)
			short := append([]byte{0, 2}, bytes.Repeat([]byte{1}, key.Size()-2)...)
			short[5] = 0
			compare(mechanism(pkcs11.CKM_RSA_PKCS), pkcs11.CKR_OK, map[string][]byte{
				"a good one": plain, "noise": encryptRaw(key, block(0)), "no zero byte": encryptRaw(key, append([]byte{0, 2}, bytes.Repeat([]byte{7}, key.Size()-2)...)),
				"short padding": encryptRaw(key, short), "type 1": encryptRaw(key, append([]byte{0, 1}, block(0xff)[2:]...)),
			})
		},
	}.tell(t)
}
