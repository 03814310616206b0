package tests

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"os"
	"testing"

	"github.com/miekg/pkcs11"
)

// hexBytes stand in hexadecimal in JSON.
type hexBytes []byte

func (h *hexBytes) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(text))
	return err
}

// wycheproof is the file of Project Wycheproof's vectors.
type wycheproof struct {
	Keys   map[string]hexBytes // PKCS #8
	Groups []struct {
		File, Kind, Hash, Key string
		Tests                 []struct {
			ID              int
			Comment, Result string
			Msg, Out, Label hexBytes
		}
	}
}

func readWycheproof(t *testing.T) (w wycheproof) {
	t.Helper()
	text, err := os.ReadFile("testdata/wycheproof/rsa2048.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &w); err != nil {
		t.Fatal(err)
	}
	return w
}

// hashMechanisms are what a hash is called where it is one, in MGF1, and before a signature of either kind.
var hashMechanisms = map[string]struct{ hash, mgf, pkcs1, pss, size uint }{
	"SHA-1":   {pkcs11.CKM_SHA_1, pkcs11.CKG_MGF1_SHA1, 0, 0, 20},
	"SHA-256": {pkcs11.CKM_SHA256, pkcs11.CKG_MGF1_SHA256, pkcs11.CKM_SHA256_RSA_PKCS, pkcs11.CKM_SHA256_RSA_PKCS_PSS, 32},
	"SHA-384": {pkcs11.CKM_SHA384, pkcs11.CKG_MGF1_SHA384, pkcs11.CKM_SHA384_RSA_PKCS, pkcs11.CKM_SHA384_RSA_PKCS_PSS, 48},
	"SHA-512": {pkcs11.CKM_SHA512, pkcs11.CKG_MGF1_SHA512, pkcs11.CKM_SHA512_RSA_PKCS, pkcs11.CKM_SHA512_RSA_PKCS_PSS, 64},
}

// Signatures and ciphertexts by people who know where implementations go wrong, with their keys in the TPM: the module decides each as
// they say. Bad PKCS #1 ciphertexts give a message that nobody encrypted, the same each time; all other bad ciphertexts are one error.
func TestWycheproof(t *testing.T) {
	vectors := readWycheproof(t)
	story{
		config: "legacy = [\"pkcs1-decryption\"]\n",
		ways:   transports[:1], // what is decided below them is the same
		before: func(m *machine) {
			m.tpm2p11("init", "--no-pin")
			for name, key := range vectors.Keys {
				file := m.write(name+".pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})))
				for _, use := range []string{"sign", "decrypt"} {
					m.tpm2p11("key", "import", file, "--label", use+" "+name, "--use", use)
				}
			}
		},
		app: func(a *application) {
			decided := 0
			for _, g := range vectors.Groups {
				h := hashMechanisms[g.Hash]
				keys := map[string]pkcs11.ObjectHandle{"decrypt": a.private("decrypt " + g.Key), "sign": a.private("sign " + g.Key), "verify": a.public("sign " + g.Key)}
				private, err := x509.ParsePKCS8PrivateKey(vectors.Keys[g.Key])
				a.ok(g.Key, err)
				modulus := private.(*rsa.PrivateKey).N.Bytes()
				for _, v := range g.Tests {
					decided++
					valid := v.Result != "invalid"
					wrong := func(got any) {
						a.t.Errorf("%s, %d (%s, %s): %v", g.File, v.ID, v.Comment, v.Result, got)
					}
					switch g.Kind {
					case "oaep":
						got, err := a.decrypt(oaep(h.hash, h.mgf, string(v.Label)), keys["decrypt"], v.Out)
						want := uint(pkcs11.CKR_ENCRYPTED_DATA_INVALID)
						if len(v.Out) != 256 {
							want = pkcs11.CKR_ENCRYPTED_DATA_LEN_RANGE
						}
						if valid && (err != nil || !bytes.Equal(got, v.Msg)) || !valid && rvOf(err) != want {
							wrong(err)
						}
					case "pkcs1-decryption":
						got, err := a.decrypt(mechanism(pkcs11.CKM_RSA_PKCS), keys["decrypt"], v.Out)
						again, _ := a.decrypt(mechanism(pkcs11.CKM_RSA_PKCS), keys["decrypt"], v.Out)
						switch {
						case len(v.Out) != 256:
							if rvOf(err) != pkcs11.CKR_ENCRYPTED_DATA_LEN_RANGE {
								wrong(err)
							}
						case bytes.Compare(v.Out, modulus) >= 0: // which anybody can see
							if rvOf(err) != pkcs11.CKR_ENCRYPTED_DATA_INVALID {
								wrong(err)
							}
						case err != nil || !bytes.Equal(got, again) || valid != bytes.Equal(got, v.Msg):
							wrong(err)
						}
					case "pkcs1-signature":
						if got, err := a.sign(a.session, mechanism(h.pkcs1), keys["sign"], v.Msg); err != nil || !bytes.Equal(got, v.Out) {
							wrong(err)
						}
					case "pkcs1-verification", "pss-verification":
						m := mechanism(h.pkcs1)
						if g.Kind == "pss-verification" {
							m = pkcs11.NewMechanism(h.pss, pkcs11.NewPSSParams(h.hash, h.mgf, h.size))
						}
						err := a.verify(a.session, m, keys["verify"], v.Msg, v.Out)
						rv := rvOf(err)
						refused := rv == pkcs11.CKR_SIGNATURE_INVALID || rv == pkcs11.CKR_SIGNATURE_LEN_RANGE && len(v.Out) != 256
						if v.Result == "valid" && err != nil || v.Result == "invalid" && !refused || v.Result == "acceptable" && err != nil && !refused {
							wrong(err)
						}
					default:
						a.t.Fatalf("a group of kind %q", g.Kind)
					}
				}
			}
			if decided < 700 {
				a.t.Errorf("only %d vectors", decided)
			}
		},
	}.tell(t)
}
