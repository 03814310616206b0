package tests

import (
	"bytes"
	"testing"

	"github.com/miekg/pkcs11"
)

// What the profiles' mandatory test cases do (PKCS #11 Profiles v3.2, AUTH-M-1-32 and CERT-M-1-32), with this token's objects: a
// certificate is found and read without a login, though it is an authority's; after one a private key signs.
func TestMandatoryCasesOfTheProfiles(t *testing.T) {
	story{
		before: func(m *machine) {
			withPIN(m)
			m.tpm2p11("key", "create", "testrsa", "--pin-file", "pin")
			m.run("openssl", "req", "-new", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-subj", "/CN=Builtin Roots", "-outform", "DER", "-out", "ca.der")
			m.pkcs11Tool("--login", "--pin", userPIN, "--write-object", "ca.der", "--type", "cert")
		},
		app: func(a *application) {
			token := pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true)
			certificates := a.find(a.session, token, pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_CERTIFICATE))
			if len(certificates) != 1 {
				a.t.Fatalf("%d certificates are found without a login", len(certificates))
			}
			if label := a.value(certificates[0], pkcs11.CKA_LABEL); string(label) != "Builtin Roots" {
				a.t.Errorf("it is called %q", label)
			}
			if !bytes.Equal(a.value(certificates[0], pkcs11.CKA_VALUE), a.read("ca.der")) {
				a.t.Error("its value is another")
			}

			a.ok("C_Login", a.p11().Login(a.session, pkcs11.CKU_USER, userPIN))
			of := func(class uint) pkcs11.ObjectHandle {
				found := a.find(a.session, token, pkcs11.NewAttribute(pkcs11.CKA_LABEL, "testrsa"), pkcs11.NewAttribute(pkcs11.CKA_CLASS, class))
				if len(found) != 1 {
					a.t.Fatalf("%d objects of class %d", len(found), class)
				}
				return found[0]
			}
			public, private := of(pkcs11.CKO_PUBLIC_KEY), of(pkcs11.CKO_PRIVATE_KEY)
			if n, e := a.value(public, pkcs11.CKA_MODULUS), a.value(public, pkcs11.CKA_PUBLIC_EXPONENT); len(n) != 256 || !bytes.Equal(e, []byte{1, 0, 1}) {
				a.t.Errorf("the public key is %x, %x", n, e)
			}
			scheme := signatureSchemes[pkcs11.CKM_RSA_PKCS]
			data := scheme.input(pkcs11.CKM_RSA_PKCS)
			signature, err := a.sign(a.session, mechanism(pkcs11.CKM_RSA_PKCS), private, data)
			a.ok("C_Sign", err)
			a.ok("C_Verify", a.verify(a.session, mechanism(pkcs11.CKM_RSA_PKCS), public, data, signature))
			a.ok("C_Logout", a.p11().Logout(a.session))
			a.ok("C_CloseSession", a.p11().CloseSession(a.session))
		},
	}.tell(t)
}
