package tests

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"
)

// oaep is a mechanism's hash for both of OAEP's uses, and the label.
func oaep(hash, mgf uint, label string) *pkcs11.Mechanism {
	return pkcs11.NewMechanism(pkcs11.CKM_RSA_PKCS_OAEP, pkcs11.NewOAEPParams(hash, mgf, pkcs11.CKZ_DATA_SPECIFIED, []byte(label)))
}

// What was encrypted to the key elsewhere opens with every hash, with and
// without a label; what is no ciphertext of the key is one and the same error.
func TestDecryption(t *testing.T) {
	story{
		before: func(m *machine) {
			m.tpm2p11("init", "--no-pin")
			m.tpm2p11("key", "create", "mail", "--use", "decrypt")
			m.tpm2p11("key", "public", "mail", "--out", "mail.pub")
		},
		app: func(a *application) {
			public, private := a.publicKey("mail.pub").(*rsa.PublicKey), a.private("mail")
			letter := []byte("a letter")
			for _, c := range []struct {
				h         crypto.Hash
				hash, mgf uint
				labels    []string
			}{
				{crypto.SHA1, pkcs11.CKM_SHA_1, pkcs11.CKG_MGF1_SHA1, []string{""}},
				{crypto.SHA256, pkcs11.CKM_SHA256, pkcs11.CKG_MGF1_SHA256, []string{"", "with its NUL\x00", "without"}},
				{crypto.SHA384, pkcs11.CKM_SHA384, pkcs11.CKG_MGF1_SHA384, []string{""}},
				{crypto.SHA512, pkcs11.CKM_SHA512, pkcs11.CKG_MGF1_SHA512, []string{"", "without"}},
			} {
				for _, label := range c.labels {
					m := oaep(c.hash, c.mgf, label)
					ciphertext, err := rsa.EncryptOAEP(c.h.New(), rand.Reader, public, letter, []byte(label))
					a.ok("rsa.EncryptOAEP", err)
					got, err := a.decrypt(m, private, ciphertext)
					if err != nil || !bytes.Equal(got, letter) {
						a.t.Errorf("OAEP with %v and label %q: %q, %v", c.h, label, got, err)
					}
					_, err = a.decrypt(oaep(c.hash, c.mgf, "another"), private, ciphertext)
					a.refused("another label", pkcs11.CKR_ENCRYPTED_DATA_INVALID, err)
				}
			}

			m := oaep(pkcs11.CKM_SHA256, pkcs11.CKG_MGF1_SHA256, "")
			a.ok("C_EncryptInit", a.p11().EncryptInit(a.session, []*pkcs11.Mechanism{m}, a.public("mail")))
			ciphertext, err := a.p11().Encrypt(a.session, letter)
			a.ok("C_Encrypt", err)
			for name, bad := range map[string][]byte{
				"a changed ciphertext":          append([]byte{ciphertext[0] &^ 0x40, ciphertext[1] ^ 1}, ciphertext[2:]...),
				"a ciphertext of zeros":         make([]byte, len(ciphertext)),
				"a ciphertext over the modulus": bytes.Repeat([]byte{0xff}, len(ciphertext)),
			} {
				_, err = a.decrypt(m, private, bad)
				a.refused(name, pkcs11.CKR_ENCRYPTED_DATA_INVALID, err)
			}
			for name, bad := range map[string][]byte{"a short ciphertext": ciphertext[1:], "a long ciphertext": append(bytes.Clone(ciphertext), 0), "no ciphertext": {}} {
				_, err = a.decrypt(m, private, bad)
				a.refused(name, pkcs11.CKR_ENCRYPTED_DATA_LEN_RANGE, err)
			}
			_, err = a.decrypt(mechanism(pkcs11.CKM_RSA_PKCS), private, ciphertext)
			a.refused("PKCS #1 v1.5, whose padding tells too much", pkcs11.CKR_MECHANISM_INVALID, err)
			got, err := a.decrypt(m, private, ciphertext)
			if err != nil || !bytes.Equal(got, letter) {
				a.t.Errorf("after the refusals: %q, %v", got, err)
			}
		},
	}.tell(t)
}

// OIDs of curves (RFC 5480, section 2.1.1.1), as CKA_EC_PARAMS.
var (
	curveP256      = []byte("\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07")
	curveP384      = []byte("\x06\x05\x2b\x81\x04\x00\x22")
	curveSecp256k1 = []byte("\x06\x05\x2b\x81\x04\x00\x0a")
)

// pair is a key pair's templates: the public one's parameter and what both have.
func pair(label string, parameter *pkcs11.Attribute) (public, private []*pkcs11.Attribute) {
	public = []*pkcs11.Attribute{parameter, pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_LABEL, label)}
	private = []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_LABEL, label),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true), pkcs11.NewAttribute(pkcs11.CKA_ID, []byte(label)),
	}
	return public, private
}

// An application makes keys in the TPM; the command sees them; the application deletes one, and it is gone from the TPM too.
func TestKeysMadeByTheApplication(t *testing.T) {
	persistent := func(m *machine) string { return fmt.Sprint(m.tpm.Count(m.t).Persistent) }
	story{
		before: func(m *machine) { m.tpm2p11("init", "--no-pin") },
		app: func(a *application) {
			before := a.happen("count")
			for _, key := range []struct {
				label     string
				how       uint
				parameter *pkcs11.Attribute
				sign      *pkcs11.Mechanism
			}{
				{"ec", pkcs11.CKM_EC_KEY_PAIR_GEN, pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, curveP256), ecdsaSHA256()},
				{"rsa", pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN, pkcs11.NewAttribute(pkcs11.CKA_MODULUS_BITS, 2048), mechanism(pkcs11.CKM_SHA256_RSA_PKCS)},
			} {
				public, private := pair(key.label, key.parameter)
				publicKey, privateKey, err := a.p11().GenerateKeyPair(a.session, []*pkcs11.Mechanism{mechanism(key.how)}, public, private)
				a.ok("C_GenerateKeyPair", err)
				signature, err := a.sign(a.session, key.sign, privateKey, message)
				a.ok("C_Sign", err)
				a.ok("C_Verify", a.verify(a.session, key.sign, publicKey, message, signature))
				if a.private(key.label) != privateKey || a.public(key.label) != publicKey {
					a.t.Errorf("%s is found by other handles than it was made with", key.label)
				}
			}
			if list := a.happen("list"); !strings.Contains(list, "ec") || !strings.Contains(list, "rsa") {
				a.t.Errorf("the command lists %q", list)
			}
			ec := a.private("ec")
			a.ok("C_DestroyObject", a.p11().DestroyObject(a.session, ec))
			_, err := a.sign(a.session, ecdsaSHA256(), ec, message)
			a.refused("a deleted key", pkcs11.CKR_KEY_HANDLE_INVALID, err)
			a.ok("C_DestroyObject", a.p11().DestroyObject(a.session, a.private("rsa")))
			if after := a.happen("count"); after != before {
				a.t.Errorf("%s persistent objects before, %s after", before, after)
			}
		},
		events: map[string]func(m *machine) string{
			"count": persistent,
			"list":  func(m *machine) string { return strings.ReplaceAll(m.tpm2p11("key", "list").stdout, "\n", " ") },
		},
	}.tell(t)
}

// What a key's attributes say is true: of a key born in the TPM and of one that came from outside.
func TestAttributesAreHonest(t *testing.T) {
	const unavailable = ^uint(0)
	flags := []uint{pkcs11.CKA_LOCAL, pkcs11.CKA_ALWAYS_SENSITIVE, pkcs11.CKA_NEVER_EXTRACTABLE, pkcs11.CKA_EXTRACTABLE, pkcs11.CKA_SENSITIVE, pkcs11.CKA_SIGN, pkcs11.CKA_DECRYPT, pkcs11.CKA_ALWAYS_AUTHENTICATE}
	story{
		before: func(m *machine) {
			m.tpm2p11("init", "--no-pin")
			m.tpm2p11("key", "create", "rsa", "--use", "sign,decrypt", "--id", "0a0b")
			m.tpm2p11("key", "create", "ec", "--type", "p384")
			m.run("openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", "outside.key")
			m.tpm2p11("key", "import", "outside.key", "--label", "outside")
			m.tpm2p11("key", "self-sign", "ec", "--subject", "CN=www.example.com")
			for _, label := range []string{"rsa", "ec", "outside"} {
				m.tpm2p11("key", "public", label, "--out", label+".pub")
			}
		},
		app: func(a *application) {
			for label, want := range map[string]struct {
				flags []bool // in the order above
				made  uint
			}{
				"rsa": {[]bool{true, true, true, false, true, true, true, false}, pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN},
				"ec":  {[]bool{true, true, true, false, true, true, false, false}, pkcs11.CKM_EC_KEY_PAIR_GEN},
				// Without a policy that lets it, TPM2_Duplicate takes no key out.
				"outside": {[]bool{false, false, false, false, true, true, false, false}, unavailable},
			} {
				private, public := a.private(label), a.public(label)
				for i, flag := range flags {
					if got := a.value(private, flag); !bytes.Equal(got, []byte{boolByte(want.flags[i])}) {
						a.t.Errorf("%s: attribute 0x%x is %x, want %v", label, flag, got, want.flags[i])
					}
				}
				if got := a.number(private, pkcs11.CKA_KEY_GEN_MECHANISM); got != want.made {
					a.t.Errorf("%s: CKA_KEY_GEN_MECHANISM is 0x%x, want 0x%x", label, got, want.made)
				}
				for _, object := range []pkcs11.ObjectHandle{private, public} {
					a.hasPublicValues(object, a.publicKey(label+".pub"))
				}
				secret := uint(pkcs11.CKA_PRIVATE_EXPONENT)
				if label != "rsa" {
					secret = pkcs11.CKA_VALUE
				}
				_, err := a.p11().GetAttributeValue(a.session, private, []*pkcs11.Attribute{pkcs11.NewAttribute(secret, nil)})
				a.refused("the private value of "+label, pkcs11.CKR_ATTRIBUTE_SENSITIVE, err)
				_, err = a.p11().GetAttributeValue(a.session, public, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_PRIME_1, nil)})
				a.refused("a prime of a public key", pkcs11.CKR_ATTRIBUTE_TYPE_INVALID, err)
			}
			if id := a.value(a.private("rsa"), pkcs11.CKA_ID); !bytes.Equal(id, []byte{0x0a, 0x0b}) {
				a.t.Errorf("CKA_ID is %x", id)
			}
			certificate := a.object(pkcs11.CKO_CERTIFICATE, "ec")
			if !bytes.Equal(a.value(certificate, pkcs11.CKA_ID), a.value(a.private("ec"), pkcs11.CKA_ID)) {
				a.t.Error("the certificate does not have its key's CKA_ID")
			}
			a.refused("lying about the past", pkcs11.CKR_ATTRIBUTE_READ_ONLY,
				a.p11().SetAttributeValue(a.session, a.private("outside"), []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_LOCAL, true)}))
		},
	}.tell(t)
}

func boolByte(v bool) byte {
	if v {
		return 1
	}
	return 0
}

func (a *application) value(object pkcs11.ObjectHandle, attribute uint) []byte {
	a.t.Helper()
	got, err := a.p11().GetAttributeValue(a.session, object, []*pkcs11.Attribute{pkcs11.NewAttribute(attribute, nil)})
	a.ok(fmt.Sprintf("C_GetAttributeValue of 0x%x", attribute), err)
	return got[0].Value
}

func (a *application) number(object pkcs11.ObjectHandle, attribute uint) uint {
	a.t.Helper()
	value := a.value(object, attribute)
	if len(value) != 8 {
		a.t.Fatalf("attribute 0x%x is no CK_ULONG: %x", attribute, value)
	}
	return uint(binary.LittleEndian.Uint64(value))
}

// hasPublicValues compares an object with a public key.
func (a *application) hasPublicValues(object pkcs11.ObjectHandle, key crypto.PublicKey) {
	a.t.Helper()
	want := map[uint][]byte{}
	switch key := key.(type) {
	case *rsa.PublicKey:
		want[pkcs11.CKA_MODULUS] = key.N.Bytes()
		want[pkcs11.CKA_PUBLIC_EXPONENT] = []byte{1, 0, 1}
		want[pkcs11.CKA_KEY_TYPE] = binary.LittleEndian.AppendUint64(nil, pkcs11.CKK_RSA)
	case *ecdsa.PublicKey:
		point, err := key.Bytes()
		a.ok("the point", err)
		want[pkcs11.CKA_EC_POINT] = append([]byte{4, byte(len(point))}, point...) // DER, short form: below 128 bytes
		want[pkcs11.CKA_EC_PARAMS] = curveP256
		if key.Curve.Params().BitSize == 384 {
			want[pkcs11.CKA_EC_PARAMS] = curveP384
		}
		want[pkcs11.CKA_KEY_TYPE] = binary.LittleEndian.AppendUint64(nil, pkcs11.CKK_EC)
	}
	for attribute, value := range want {
		if got := a.value(object, attribute); !bytes.Equal(got, value) {
			a.t.Errorf("attribute 0x%x is %x, not %x", attribute, got, value)
		}
	}
}
