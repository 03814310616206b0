package p11

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/tpm2-p11/tpm2-p11/internal/faulttpm"
)

var (
	p256    = Attribute{CKA_EC_PARAMS, []byte{0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07}}
	onToken = Attribute{CKA_TOKEN, []byte{1}}
)

func yesTo(a AttributeType) Attribute { return Attribute{a, []byte{1}} }
func noTo(a AttributeType) Attribute  { return Attribute{a, []byte{0}} }

func TestGeneratedKeyIsTheTPMsOwn(t *testing.T) {
	t.Parallel()
	w := open(t)
	s := w.session(true)
	public, private, err := w.GenerateKeyPair(s, mechanismOf(CKM_EC_KEY_PAIR_GEN),
		[]Attribute{p256, yesTo(CKA_TOKEN), yesTo(CKA_VERIFY)},
		[]Attribute{onToken, yesTo(CKA_PRIVATE), yesTo(CKA_SENSITIVE), yesTo(CKA_SIGN), label("web"), {CKA_ID, []byte{7}}, noTo(CKA_EXTRACTABLE)})
	w.must(err)
	if got := w.one(s, CKO_PRIVATE_KEY, label("web"), Attribute{CKA_ID, []byte{7}}); got != private {
		t.Errorf("found %x, made %x", got, private)
	}
	if got := w.one(s, CKO_PUBLIC_KEY, label("web")); got != public {
		t.Errorf("found %x, made %x", got, public)
	}
	for a, want := range map[AttributeType]byte{
		CKA_LOCAL: 1, CKA_ALWAYS_SENSITIVE: 1, CKA_NEVER_EXTRACTABLE: 1, CKA_SENSITIVE: 1, CKA_EXTRACTABLE: 0,
		CKA_SIGN: 1, CKA_DECRYPT: 0, CKA_UNWRAP: 0, CKA_TOKEN: 1, CKA_ALWAYS_AUTHENTICATE: 0,
	} {
		if got := w.attribute(s, private, a)[0]; got != want {
			t.Errorf("attribute 0x%x is %d, want %d", uint64(a), got, want)
		}
	}
	_, err = w.GetAttributeValue(s, private, []AttributeQuery{{Type: CKA_VALUE, Query: true}})
	w.refused(err, CKR_ATTRIBUTE_SENSITIVE)
	_, err = w.sign(s, mechanismOf(CKM_ECDSA_SHA256), private, []byte("hello"))
	w.must(err)
}

// NSS asks for what it read in the list of mechanisms, and for signatures with recovery. The key says what it does of that.
func TestKeyAsNSSAsksForIt(t *testing.T) {
	t.Parallel()
	w := open(t)
	s := w.session(true)
	public, private, err := w.GenerateKeyPair(s, mechanismOf(CKM_RSA_PKCS_KEY_PAIR_GEN),
		[]Attribute{{CKA_MODULUS_BITS, ulong(2048)}, onToken, noTo(CKA_WRAP), yesTo(CKA_VERIFY), noTo(CKA_VERIFY_RECOVER), yesTo(CKA_ENCRYPT)},
		[]Attribute{onToken, yesTo(CKA_PRIVATE), yesTo(CKA_SENSITIVE), noTo(CKA_UNWRAP), yesTo(CKA_SIGN), yesTo(CKA_SIGN_RECOVER), noTo(CKA_DECRYPT)})
	w.must(err)
	for key, attributes := range map[ObjectHandle]map[AttributeType]byte{
		public:  {CKA_VERIFY: 1, CKA_ENCRYPT: 0, CKA_VERIFY_RECOVER: 1},
		private: {CKA_SIGN: 1, CKA_DECRYPT: 0, CKA_SIGN_RECOVER: 1},
	} {
		for a, want := range attributes {
			if got := w.attribute(s, key, a)[0]; got != want {
				t.Errorf("attribute 0x%x is %d, want %d", uint64(a), got, want)
			}
		}
	}
}

func TestTemplatesOfKeysThatCannotBe(t *testing.T) {
	t.Parallel()
	w := open(t)
	rw, ro := w.session(true), w.session(false)
	bits := func(n uint64) Attribute { return Attribute{CKA_MODULUS_BITS, ulong(n)} }
	ec, rsa := mechanismOf(CKM_EC_KEY_PAIR_GEN), mechanismOf(CKM_RSA_PKCS_KEY_PAIR_GEN)
	private := []Attribute{onToken}
	and := func(a ...Attribute) []Attribute { return slices.Concat(private, a) }
	for name, c := range map[string]struct {
		session         SessionHandle
		mechanism       Mechanism
		public, private []Attribute
		want            RV
	}{
		"session key":            {rw, ec, []Attribute{p256}, nil, CKR_TEMPLATE_INCONSISTENT},
		"read-only session":      {ro, ec, []Attribute{p256}, private, CKR_SESSION_READ_ONLY},
		"extractable":            {rw, ec, []Attribute{p256}, and(yesTo(CKA_EXTRACTABLE)), CKR_TEMPLATE_INCONSISTENT},
		"not sensitive":          {rw, ec, []Attribute{p256}, and(noTo(CKA_SENSITIVE)), CKR_TEMPLATE_INCONSISTENT},
		"unwrapping":             {rw, rsa, []Attribute{bits(2048)}, and(yesTo(CKA_UNWRAP)), CKR_TEMPLATE_INCONSISTENT},
		"EC that decrypts":       {rw, ec, []Attribute{p256}, and(yesTo(CKA_DECRYPT)), CKR_TEMPLATE_INCONSISTENT},
		"no use":                 {rw, ec, []Attribute{p256}, and(noTo(CKA_SIGN)), CKR_TEMPLATE_INCONSISTENT},
		"contradictory uses":     {rw, rsa, []Attribute{bits(2048), noTo(CKA_ENCRYPT)}, and(yesTo(CKA_DECRYPT)), CKR_TEMPLATE_INCONSISTENT},
		"verified, not signed":   {rw, rsa, []Attribute{bits(2048), yesTo(CKA_VERIFY)}, and(noTo(CKA_SIGN), yesTo(CKA_DECRYPT)), CKR_TEMPLATE_INCONSISTENT},
		"contradictory labels":   {rw, ec, []Attribute{p256, label("a")}, and(label("b")), CKR_TEMPLATE_INCONSISTENT},
		"a label that hides":     {rw, ec, []Attribute{p256, label("web\u202egpj")}, private, CKR_ATTRIBUTE_VALUE_INVALID},
		"a label like a handle":  {rw, ec, []Attribute{p256, label("0x81000100")}, private, CKR_ATTRIBUTE_VALUE_INVALID},
		"another key type":       {rw, ec, []Attribute{p256, {CKA_KEY_TYPE, ulong(CKK_RSA)}}, private, CKR_TEMPLATE_INCONSISTENT},
		"attribute twice":        {rw, ec, []Attribute{p256, p256}, private, CKR_TEMPLATE_INCONSISTENT},
		"own PIN":                {rw, ec, []Attribute{p256}, and(yesTo(CKA_ALWAYS_AUTHENTICATE)), CKR_TEMPLATE_INCONSISTENT},
		"history":                {rw, ec, []Attribute{p256}, and(yesTo(CKA_LOCAL)), CKR_ATTRIBUTE_READ_ONLY},
		"foreign attribute":      {rw, ec, []Attribute{p256, {CKA_VALUE, nil}}, private, CKR_ATTRIBUTE_TYPE_INVALID},
		"boolean of 4 bytes":     {rw, ec, []Attribute{p256}, []Attribute{{CKA_TOKEN, make([]byte, 4)}}, CKR_ATTRIBUTE_VALUE_INVALID},
		"no curve":               {rw, ec, nil, private, CKR_TEMPLATE_INCOMPLETE},
		"unknown curve":          {rw, ec, []Attribute{{CKA_EC_PARAMS, []byte{6, 1, 42}}}, private, CKR_CURVE_NOT_SUPPORTED},
		"no size":                {rw, rsa, nil, private, CKR_TEMPLATE_INCOMPLETE},
		"1024 bits":              {rw, rsa, []Attribute{bits(1024)}, private, CKR_KEY_SIZE_RANGE},
		"exponent 3":             {rw, rsa, []Attribute{bits(2048), {CKA_PUBLIC_EXPONENT, []byte{3}}}, private, CKR_ATTRIBUTE_VALUE_INVALID},
		"bad policy":             {rw, ec, []Attribute{p256}, and(Attribute{CKA_TPM2_POLICY, []byte("sha9:x")}), CKR_ATTRIBUTE_VALUE_INVALID},
		"mechanism that signs":   {rw, mechanismOf(CKM_ECDSA), []Attribute{p256}, private, CKR_MECHANISM_INVALID},
		"mechanism with a param": {rw, mechanismOf(CKM_EC_KEY_PAIR_GEN, 1), []Attribute{p256}, private, CKR_MECHANISM_PARAM_INVALID},
	} {
		_, _, err := w.GenerateKeyPair(c.session, c.mechanism, c.public, c.private)
		if RVOf(err) != c.want {
			t.Errorf("%s: %v (%v), want %v", name, RVOf(err), err, c.want)
		}
	}
	if keys, err := w.token.Keys(); err != nil || len(keys) != 0 {
		t.Errorf("%d keys were made: %v", len(keys), err)
	}
}

// Which curves there are is the TPM's to say: P-521 is used where it has it, and else refused, before a key is made.
func TestP521WhereTheTPMHasIt(t *testing.T) {
	t.Parallel()
	p521 := Attribute{CKA_EC_PARAMS, []byte{0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23}}
	w := open(t)
	s := w.session(true)
	most := func(want uint64) {
		t.Helper()
		for _, m := range []MechanismType{CKM_EC_KEY_PAIR_GEN, CKM_ECDSA, CKM_ECDH1_DERIVE} {
			info, err := w.GetMechanismInfo(0, m)
			w.must(err)
			if info.MinKeySize != 256 || info.MaxKeySize != want {
				t.Errorf("mechanism 0x%x: %d to %d bits, want up to %d", uint64(m), info.MinKeySize, info.MaxKeySize, want)
			}
		}
	}
	most(521)
	public, private, err := w.GenerateKeyPair(s, mechanismOf(CKM_EC_KEY_PAIR_GEN), []Attribute{p521}, []Attribute{onToken, label("born")})
	w.must(err)
	if got := w.attribute(s, public, CKA_EC_PARAMS); !bytes.Equal(got, p521.Value) {
		t.Errorf("CKA_EC_PARAMS %x", got)
	}
	outside, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	w.must(err)
	imported, err := w.CreateObject(s, with(ecParts(t, outside), p521, label("brought")))
	w.must(err)
	for name, key := range map[string]ObjectHandle{"born": private, "brought": imported} {
		public := w.one(s, CKO_PUBLIC_KEY, label(name))
		for _, n := range []int{1, 20, 32, 64} {
			data := bytes.Repeat([]byte{0xff}, n)
			signature, err := w.sign(s, mechanismOf(CKM_ECDSA), key, data)
			w.must(err)
			if len(signature) != 132 {
				t.Errorf("%s: a signature of %d bytes", name, len(signature))
			}
			w.must(w.VerifyInit(s, mechanismOf(CKM_ECDSA), public))
			w.must(w.Verify(s, data, signature))
		}
		_, err = w.sign(s, mechanismOf(CKM_ECDSA_SHA512), key, []byte("hello"))
		w.must(err)
		_, err = w.sign(s, mechanismOf(CKM_ECDSA), key, make([]byte, 65))
		w.refused(err, CKR_DATA_LEN_RANGE)
	}

	w.must(w.Finalize())
	w.wire.Inject(func(_ context.Context, command []byte, send func() ([]byte, error)) ([]byte, error) {
		if code := faulttpm.Code(command); code == tpm2.TPMCCImport || code == tpm2.TPMCCTestParms && bytes.HasSuffix(command, []byte{0, 0x10, 0, 5, 0, 0x10}) {
			return faulttpm.ResponseCode(0x1e6), nil // TPM_RC_CURVE
		}
		return send()
	})
	w.must(w.Initialize(0, false))
	s = w.session(true)
	most(384)
	_, _, err = w.GenerateKeyPair(s, mechanismOf(CKM_EC_KEY_PAIR_GEN), []Attribute{p521}, []Attribute{onToken})
	w.refused(err, CKR_CURVE_NOT_SUPPORTED)
	_, err = w.CreateObject(s, with(ecParts(t, outside), p521))
	w.refused(err, CKR_CURVE_NOT_SUPPORTED)
}

func TestPolicyRefusesAndTheLogNamesThePCR(t *testing.T) {
	t.Parallel()
	w := open(t)
	s := w.session(true)
	_, key, err := w.GenerateKeyPair(s, mechanismOf(CKM_EC_KEY_PAIR_GEN), []Attribute{p256},
		[]Attribute{onToken, label("bound"), {CKA_TPM2_POLICY, []byte("sha256:8")}})
	w.must(err)
	if got := string(w.attribute(s, key, CKA_TPM2_POLICY)); !strings.HasPrefix(got, "sha256:8=") {
		t.Errorf("CKA_TPM2_POLICY %q", got)
	}
	_, err = w.sign(s, mechanismOf(CKM_ECDSA), key, make([]byte, 32))
	w.must(err)
	w.token.TPM().Release()
	w.machine.Extend(t, "sha256", 8, []byte("another image"))
	_, err = w.sign(s, mechanismOf(CKM_ECDSA), key, make([]byte, 32))
	w.refused(err, CKR_FUNCTION_REJECTED)
	if text := w.log.String(); !strings.Contains(text, "PCR8") || !strings.Contains(text, "C_Sign failed") {
		t.Errorf("the log does not name the PCR:\n%s", text)
	}
	// openssl's engine tries the bare RSA operation then. It is not that which the operator has to hear of.
	logged := len(w.log.String())
	w.refused(w.SignInit(s, mechanismOf(CKM_RSA_X_509), key), CKR_MECHANISM_INVALID)
	if text := w.log.String()[logged:]; strings.Contains(text, "raw-rsa") || strings.Contains(text, "WARN") {
		t.Errorf("after the refusal the log goes on:\n%s", text)
	}
	// The refusal ended the operation, and the session goes on.
	w.refused(w.Sign(s, nil, &Output{Capacity: 64}), CKR_OPERATION_NOT_INITIALIZED)
}

func TestRandomComesFromTheTPM(t *testing.T) {
	t.Parallel()
	w := open(t)
	s := w.session(false)
	var a, b []byte
	n := w.commands(func() {
		var err error
		a, err = w.GenerateRandom(s, 100)
		w.must(err)
		b, err = w.GenerateRandom(s, 100)
		w.must(err)
	})
	if len(a) != 100 || slices.Equal(a, b) || n == 0 {
		t.Errorf("%d bytes, %d commands", len(a), n)
	}
	empty, err := w.GenerateRandom(s, 0)
	w.must(err)
	if len(empty) != 0 {
		t.Errorf("%d bytes", len(empty))
	}
	w.refused(w.SeedRandom(s, []byte("seed")), CKR_RANDOM_SEED_NOT_SUPPORTED)
}
