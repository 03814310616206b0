package tests

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"
)

// A bound key stops signing when the PCR changes, and the operator finds out which one.
func TestBoundKeyRefuses(t *testing.T) {
	story{
		before: func(m *machine) {
			m.tpm2p11("init", "--no-pin")
			m.tpm2p11("key", "create", "bound", "--type", "p256", "--pcr", "sha256:0,1,2,7")
			m.tpm2p11("key", "create", "free", "--type", "p256")
		},
		events: map[string]func(m *machine) string{
			"extend another": func(m *machine) string { m.tpm.Extend(m.t, "sha256", 10, []byte("a program was run")); return "" },
			"extend":         func(m *machine) string { m.tpm.Extend(m.t, "sha256", 7, []byte("another loader")); return "" },
		},
		app: func(a *application) {
			a.works("bound")
			a.happen("extend another")
			a.works("bound")
			a.happen("extend")
			for range 3 {
				_, err := a.sign(a.session, ecdsaSHA256(), a.private("bound"), message)
				a.refused("C_Sign after the PCR changed", pkcs11.CKR_FUNCTION_REJECTED, err)
			}
			a.works("free")
		},
		after: func(m *machine, log string) {
			for _, want := range []string{"CKR_FUNCTION_REJECTED", "sha256 PCR7", `bound`} {
				if !strings.Contains(log, want) {
					m.t.Errorf("the log does not say %q:\n%s", want, log)
				}
			}
			if strings.Contains(log, "PCR0") || strings.Contains(log, "PCR1 ") {
				m.t.Errorf("the log blames a PCR that did not change:\n%s", log)
			}
		},
	}.tell(t)
}

// A thousand refusals of every kind leave nothing in the TPM.
func TestRefusalsLeaveNothing(t *testing.T) {
	story{
		before: func(m *machine) {
			m.write("own", ownPIN)
			m.maxTries(2000)
			m.tpm2p11("init", "--no-pin")
			m.tpm2p11("key", "create", "bound", "--type", "p256", "--pcr", "sha256:7")
			m.tpm2p11("key", "create", "wrapped", "--type", "p256", "--pcr", "sha256:7", "--wrapped")
			m.tpm2p11("key", "create", "own", "--type", "p256", "--own-pin-file", "own")
			m.tpm2p11("key", "create", "mail", "--use", "decrypt")
			m.tpm2p11("key", "create", "free", "--type", "p256")
			m.run("openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", "ci.pem")
			m.run("openssl", "pkey", "-in", "ci.pem", "-pubout", "-out", "ci.pub")
			m.signPolicy("today")
			m.write("store/approved.d/broken.json", `{"approved":[`)
			for name, policy := range map[string]string{
				"signed": `authorize = { signer = "file:ci.pub", ref = "tls/v1" }`,
				"either": `any = [ { pcr = { bank = "sha256", indices = [7] } }, { command = "decrypt" } ]`,
				"owner":  `secret = "owner"`,
			} {
				m.write(name+".toml", policy)
				m.tpm2p11("key", "create", name, "--type", "p256", "--policy", name+".toml")
				m.signs(name)
			}
			m.tpm.Extend(m.t, "sha256", 7, []byte("another loader"))
			m.run("tpm2_changeauth", "-c", "o", "another's")
		},
		events: map[string]func(m *machine) string{
			"count": func(m *machine) string { return fmt.Sprint(m.tpm.Count(m.t)) },
		},
		app: func(a *application) {
			before := a.happen("count")
			bound, wrapped, own, mail := a.private("bound"), a.private("wrapped"), a.private("own"), a.private("mail")
			garbage := bytes.Repeat([]byte{0x55}, 256)
			other := map[string]pkcs11.ObjectHandle{}
			for _, label := range []string{"signed", "either", "owner"} {
				other[label] = a.private(label)
			}
			for range 250 {
				for label, key := range other {
					_, err := a.sign(a.session, ecdsaSHA256(), key, message)
					a.refused("the key "+label, pkcs11.CKR_FUNCTION_REJECTED, err)
				}
				_, err := a.sign(a.session, ecdsaSHA256(), bound, message)
				a.refused("a bound key", pkcs11.CKR_FUNCTION_REJECTED, err)
				_, err = a.sign(a.session, ecdsaSHA256(), wrapped, message)
				a.refused("a bound key that is not persistent", pkcs11.CKR_FUNCTION_REJECTED, err)
				_, err = a.decrypt(oaep(pkcs11.CKM_SHA256, pkcs11.CKG_MGF1_SHA256, ""), mail, garbage)
				a.refused("garbage to decrypt", pkcs11.CKR_ENCRYPTED_DATA_INVALID, err)
				a.ok("C_SignInit", a.p11().SignInit(a.session, []*pkcs11.Mechanism{ecdsaSHA256()}, own))
				a.ok("C_Login", a.p11().Login(a.session, pkcs11.CKU_CONTEXT_SPECIFIC, "a guess"))
				_, err = a.p11().Sign(a.session, message)
				a.refused("a wrong PIN", pkcs11.CKR_PIN_INCORRECT, err)
			}
			a.works("free")
			if after := a.happen("count"); after != before {
				a.t.Errorf("the TPM holds %s after the refusals, %s before", after, before)
			}
		},
	}.tell(t)
}

// Whatever an application gets wrong has its own return value, and the keys work as before.
func TestWrongCalls(t *testing.T) {
	story{
		before: func(m *machine) {
			m.tpm2p11("init", "--no-pin")
			m.tpm2p11("key", "create", "rsa")
			m.tpm2p11("key", "create", "ec", "--type", "p256")
		},
		app: func(a *application) {
			rsa, ec := a.private("rsa"), a.private("ec")
			const nobody = 0x1234567
			sign := func(h pkcs11.SessionHandle, m *pkcs11.Mechanism, key pkcs11.ObjectHandle, data []byte) error {
				_, err := a.sign(h, m, key, data)
				return err
			}
			pss := func(hash, mgf, salt uint) *pkcs11.Mechanism {
				return pkcs11.NewMechanism(pkcs11.CKM_RSA_PKCS_PSS, pkcs11.NewPSSParams(hash, mgf, salt))
			}
			generate := func(h pkcs11.SessionHandle, how uint, parameter *pkcs11.Attribute, more ...*pkcs11.Attribute) error {
				public, private := pair("new", parameter)
				_, _, err := a.p11().GenerateKeyPair(h, []*pkcs11.Mechanism{mechanism(how)}, public, append(private, more...))
				return err
			}
			p256 := pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, curveP256)
			second := func(_ any, err error) error { return err }
			readOnly := a.open(0)
			for _, c := range []struct {
				what string
				want uint
				err  error
			}{
				{"a slot that is not there", pkcs11.CKR_SLOT_ID_INVALID, second(a.p11().OpenSession(99, pkcs11.CKF_SERIAL_SESSION))},
				{"a session that is not serial", pkcs11.CKR_SESSION_PARALLEL_NOT_SUPPORTED, second(a.p11().OpenSession(0, 0))},
				{"no session", pkcs11.CKR_SESSION_HANDLE_INVALID, sign(nobody, ecdsaSHA256(), ec, message)},
				{"no key", pkcs11.CKR_KEY_HANDLE_INVALID, sign(a.session, ecdsaSHA256(), nobody, message)},
				{"no object", pkcs11.CKR_OBJECT_HANDLE_INVALID, second(a.p11().GetObjectSize(a.session, nobody))},
				{"a public key that signs", pkcs11.CKR_KEY_FUNCTION_NOT_PERMITTED, sign(a.session, ecdsaSHA256(), a.public("ec"), message)},
				{"no mechanism", pkcs11.CKR_MECHANISM_INVALID, sign(a.session, mechanism(0x7fffffff), ec, message)},
				{"a mechanism of the other use", pkcs11.CKR_MECHANISM_INVALID, sign(a.session, mechanism(pkcs11.CKM_SHA256), ec, message)},
				{"SHA-1 in new signatures", pkcs11.CKR_MECHANISM_INVALID, sign(a.session, mechanism(pkcs11.CKM_SHA1_RSA_PKCS), rsa, message)},
				{"a mechanism of other keys", pkcs11.CKR_KEY_TYPE_INCONSISTENT, sign(a.session, ecdsaSHA256(), rsa, message)},
				{"a parameter too many", pkcs11.CKR_MECHANISM_PARAM_INVALID, sign(a.session, pkcs11.NewMechanism(pkcs11.CKM_ECDSA_SHA256, []byte("?")), ec, message)},
				{"PSS without parameter", pkcs11.CKR_MECHANISM_PARAM_INVALID, sign(a.session, mechanism(pkcs11.CKM_RSA_PKCS_PSS), rsa, message)},
				{"PSS with a parameter cut off", pkcs11.CKR_MECHANISM_PARAM_INVALID, sign(a.session, pkcs11.NewMechanism(pkcs11.CKM_RSA_PKCS_PSS, make([]byte, 23)), rsa, message)},
				{"PSS with two hashes", pkcs11.CKR_MECHANISM_PARAM_INVALID, sign(a.session, pss(pkcs11.CKM_SHA256, pkcs11.CKG_MGF1_SHA1, 32), rsa, make([]byte, 32))},
				{"a salt longer than the key", pkcs11.CKR_MECHANISM_PARAM_INVALID, sign(a.session, pss(pkcs11.CKM_SHA256, pkcs11.CKG_MGF1_SHA256, 1<<40), rsa, make([]byte, 32))},
				{"PSS of what is no digest", pkcs11.CKR_DATA_LEN_RANGE, sign(a.session, pss(pkcs11.CKM_SHA256, pkcs11.CKG_MGF1_SHA256, 32), rsa, make([]byte, 31))},
				{"too much for raw RSA", pkcs11.CKR_DATA_LEN_RANGE, sign(a.session, mechanism(pkcs11.CKM_RSA_PKCS), rsa, make([]byte, 246))},
				{"a key that may not decrypt", pkcs11.CKR_KEY_FUNCTION_NOT_PERMITTED, second(a.decrypt(oaep(pkcs11.CKM_SHA256, pkcs11.CKG_MGF1_SHA256, ""), rsa, make([]byte, 256)))},

				{"C_Sign out of order", pkcs11.CKR_OPERATION_NOT_INITIALIZED, second(a.p11().Sign(a.session, message))},
				{"C_SignUpdate out of order", pkcs11.CKR_OPERATION_NOT_INITIALIZED, a.p11().SignUpdate(a.session, message)},
				{"C_SignFinal out of order", pkcs11.CKR_OPERATION_NOT_INITIALIZED, second(a.p11().SignFinal(a.session))},
				{"C_Verify out of order", pkcs11.CKR_OPERATION_NOT_INITIALIZED, a.p11().Verify(a.session, message, make([]byte, 64))},
				{"C_Decrypt out of order", pkcs11.CKR_OPERATION_NOT_INITIALIZED, second(a.p11().Decrypt(a.session, make([]byte, 256)))},
				{"C_DigestFinal out of order", pkcs11.CKR_OPERATION_NOT_INITIALIZED, second(a.p11().DigestFinal(a.session))},
				{"C_FindObjectsFinal out of order", pkcs11.CKR_OPERATION_NOT_INITIALIZED, a.p11().FindObjectsFinal(a.session)},

				{"a key of 1024 bits", pkcs11.CKR_KEY_SIZE_RANGE, generate(a.session, pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN, pkcs11.NewAttribute(pkcs11.CKA_MODULUS_BITS, 1024))},
				{"a key without a size", pkcs11.CKR_TEMPLATE_INCOMPLETE, generate(a.session, pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN, pkcs11.NewAttribute(pkcs11.CKA_VERIFY, true))},
				{"an unknown curve", pkcs11.CKR_CURVE_NOT_SUPPORTED, generate(a.session, pkcs11.CKM_EC_KEY_PAIR_GEN, pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, curveSecp256k1))},
				{"an unknown attribute", pkcs11.CKR_ATTRIBUTE_TYPE_INVALID, generate(a.session, pkcs11.CKM_EC_KEY_PAIR_GEN, p256, pkcs11.NewAttribute(0x3ffffff0, true))},
				{"a history of its own", pkcs11.CKR_ATTRIBUTE_READ_ONLY, generate(a.session, pkcs11.CKM_EC_KEY_PAIR_GEN, p256, pkcs11.NewAttribute(pkcs11.CKA_LOCAL, true))},
				{"an extractable key", pkcs11.CKR_TEMPLATE_INCONSISTENT, generate(a.session, pkcs11.CKM_EC_KEY_PAIR_GEN, p256, pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, true))},
				{"a flag that is none", pkcs11.CKR_ATTRIBUTE_VALUE_INVALID, generate(a.session, pkcs11.CKM_EC_KEY_PAIR_GEN, p256, pkcs11.NewAttribute(pkcs11.CKA_SIGN, []byte("yes")))},
				{"a key in a read-only session", pkcs11.CKR_SESSION_READ_ONLY, generate(readOnly, pkcs11.CKM_EC_KEY_PAIR_GEN, p256)},
				{"deletion in a read-only session", pkcs11.CKR_SESSION_READ_ONLY, a.p11().DestroyObject(readOnly, ec)},
				{"a seed", pkcs11.CKR_RANDOM_SEED_NOT_SUPPORTED, a.p11().SeedRandom(a.session, []byte("seed"))},
				{"copies", pkcs11.CKR_ACTION_PROHIBITED, second(a.p11().CopyObject(a.session, ec, nil))},
				{"key wrapping", pkcs11.CKR_MECHANISM_INVALID, second(a.p11().WrapKey(a.session, []*pkcs11.Mechanism{mechanism(pkcs11.CKM_RSA_PKCS)}, rsa, ec))},
			} {
				a.refused(c.what, c.want, c.err)
			}

			// Operations that are begun twice or mixed.
			m := []*pkcs11.Mechanism{ecdsaSHA256()}
			a.ok("C_SignInit", a.p11().SignInit(a.session, m, ec))
			a.refused("C_SignInit twice", pkcs11.CKR_OPERATION_ACTIVE, a.p11().SignInit(a.session, m, ec))
			a.ok("C_SignUpdate", a.p11().SignUpdate(a.session, message))
			_, err := a.p11().Sign(a.session, message)
			a.refused("C_Sign after C_SignUpdate", pkcs11.CKR_OPERATION_ACTIVE, err)
			a.ok("C_FindObjectsInit", a.p11().FindObjectsInit(a.session, nil))
			a.refused("C_FindObjectsInit twice", pkcs11.CKR_OPERATION_ACTIVE, a.p11().FindObjectsInit(a.session, nil))
			a.ok("C_FindObjectsFinal", a.p11().FindObjectsFinal(a.session))
			a.ok("C_SignInit", a.p11().SignInit(readOnly, m, ec))
			a.ok("C_CloseSession", a.p11().CloseSession(readOnly))
			_, err = a.p11().Sign(readOnly, message)
			a.refused("C_Sign in a closed session", pkcs11.CKR_SESSION_HANDLE_INVALID, err)

			a.works("ec")
			signature, err := a.sign(a.session, mechanism(pkcs11.CKM_SHA256_RSA_PKCS), rsa, message)
			a.ok("C_Sign", err)
			a.ok("C_Verify", a.verify(a.session, mechanism(pkcs11.CKM_SHA256_RSA_PKCS), a.public("rsa"), message, signature))
		},
	}.tell(t)
}
