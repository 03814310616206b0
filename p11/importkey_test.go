package p11

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"math/big"
	"slices"
	"strings"
	"testing"
)

// rsaParts are the attributes of an RSA private key. They belong to the call that they are given to, which wipes the secret ones.
func rsaParts(key *rsa.PrivateKey) []Attribute {
	key.Precompute()
	return []Attribute{
		class(CKO_PRIVATE_KEY), {CKA_KEY_TYPE, ulong(CKK_RSA)}, onToken, {CKA_MODULUS, key.N.Bytes()}, {CKA_PUBLIC_EXPONENT, []byte{1, 0, 1}},
		{CKA_PRIVATE_EXPONENT, key.D.Bytes()}, {CKA_PRIME_1, key.Primes[0].Bytes()}, {CKA_PRIME_2, key.Primes[1].Bytes()},
		{CKA_EXPONENT_1, key.Precomputed.Dp.Bytes()}, {CKA_EXPONENT_2, key.Precomputed.Dq.Bytes()}, {CKA_COEFFICIENT, key.Precomputed.Qinv.Bytes()},
	}
}

func ecParts(t *testing.T, key *ecdsa.PrivateKey) []Attribute {
	t.Helper()
	scalar, err := key.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return []Attribute{class(CKO_PRIVATE_KEY), {CKA_KEY_TYPE, ulong(CKK_EC)}, onToken, p256, {CKA_VALUE, bytes.Clone(scalar)}}
}

// with puts other attributes in the place of those of their type, or adds them.
func with(parts []Attribute, others ...Attribute) []Attribute {
	for _, o := range others {
		parts = append(less(parts, o.Type), o)
	}
	return parts
}

func less(parts []Attribute, a AttributeType) []Attribute {
	return slices.DeleteFunc(slices.Clone(parts), func(p Attribute) bool { return p.Type == a })
}

func newRSA(t *testing.T) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newEC(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// What an application brings along signs in the TPM, and does not claim to have been born there.
func TestImportedKeysSignAndSayWhereTheyAreFrom(t *testing.T) {
	t.Parallel()
	w := open(t)
	s := w.session(true)
	rsaKey, ecKey := newRSA(t), newEC(t)
	parts := with(rsaParts(rsaKey), label("old web"), Attribute{CKA_ID, []byte{7}}, yesTo(CKA_PRIVATE), yesTo(CKA_SENSITIVE), noTo(CKA_EXTRACTABLE), yesTo(CKA_SIGN))
	first, err := w.CreateObject(s, parts)
	w.must(err)
	for _, p := range parts {
		if slices.Contains(secrets, p.Type) && !bytes.Equal(p.Value, make([]byte, len(p.Value))) {
			t.Errorf("attribute 0x%x is not wiped", uint64(p.Type))
		}
	}
	second, err := w.CreateObject(s, with(ecParts(t, ecKey), label("old mail")))
	w.must(err)
	for _, key := range []ObjectHandle{first, second} {
		for a, want := range map[AttributeType]byte{
			CKA_LOCAL: 0, CKA_ALWAYS_SENSITIVE: 0, CKA_NEVER_EXTRACTABLE: 0, CKA_SENSITIVE: 1, CKA_EXTRACTABLE: 0, CKA_SIGN: 1, CKA_DECRYPT: 0,
		} {
			if got := w.attribute(s, key, a)[0]; got != want {
				t.Errorf("attribute 0x%x is %d, want %d", uint64(a), got, want)
			}
		}
	}
	w.one(s, CKO_PUBLIC_KEY, label("old web"), Attribute{CKA_ID, []byte{7}})
	if got := w.one(s, CKO_PRIVATE_KEY, label("old mail")); got != second {
		t.Errorf("found %x, made %x", got, second)
	}
	digest := sha256.Sum256([]byte("hello"))
	signature, err := w.sign(s, mechanismOf(CKM_SHA256_RSA_PKCS), first, []byte("hello"))
	w.must(err)
	if err := rsa.VerifyPKCS1v15(&rsaKey.PublicKey, crypto.SHA256, digest[:], signature); err != nil {
		t.Error(err)
	}
	signature, err = w.sign(s, mechanismOf(CKM_ECDSA), second, digest[:])
	w.must(err)
	if !ecdsa.Verify(&ecKey.PublicKey, digest[:], new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:])) {
		t.Error("the EC signature does not verify")
	}
}

// In a token with a PIN an imported key asks for it, and in one with a policy for the PCRs.
func TestImportedKeysAreGuarded(t *testing.T) {
	t.Parallel()
	w := guarded(t)
	s := w.session(true)
	key := newEC(t)
	_, err := w.CreateObject(s, ecParts(t, key))
	w.refused(err, CKR_USER_NOT_LOGGED_IN)
	w.must(w.Login(s, CKU_USER, []byte(userPIN)))
	_, err = w.CreateObject(s, with(ecParts(t, key), noTo(CKA_PRIVATE)))
	w.refused(err, CKR_TEMPLATE_INCONSISTENT)
	made, err := w.CreateObject(s, with(ecParts(t, key), yesTo(CKA_PRIVATE), Attribute{CKA_TPM2_POLICY, []byte("sha256:8")}))
	w.must(err)
	if got := string(w.attribute(s, made, CKA_TPM2_POLICY)); !strings.Contains(got, "sha256:8=") {
		t.Errorf("CKA_TPM2_POLICY %q", got)
	}
	_, err = w.sign(s, mechanismOf(CKM_ECDSA), made, make([]byte, 32))
	w.must(err)
	// The TPM duplicates nothing whose policy is not for that by name.
	if w.attribute(s, made, CKA_EXTRACTABLE)[0] != 0 || w.attribute(s, made, CKA_NEVER_EXTRACTABLE)[0] != 0 {
		t.Error("the imported key says that it can be extracted, or was born here")
	}
	w.token.TPM().Release()
	w.machine.Extend(t, "sha256", 8, []byte("another image"))
	_, err = w.sign(s, mechanismOf(CKM_ECDSA), made, make([]byte, 32))
	w.refused(err, CKR_FUNCTION_REJECTED)
	w.must(w.Logout(s))
	w.refused(w.SignInit(s, mechanismOf(CKM_ECDSA), made), CKR_USER_NOT_LOGGED_IN)
}

func TestPrivateKeysThatAreNotTakenIn(t *testing.T) {
	t.Parallel()
	w := open(t)
	rw, ro := w.session(true), w.session(false)
	rsaKey, ecKey, another := newRSA(t), newEC(t), newEC(t)
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	w.must(err)
	large, err := rsa.GenerateKey(rand.Reader, 4096) // which swtpm lacks
	w.must(err)
	point, err := another.PublicKey.Bytes()
	w.must(err)
	ofAnother, err := keyMaterial(&another.PublicKey)
	w.must(err)
	smallParts, largeParts := rsaParts(small), rsaParts(large)
	rsaParts := func(others ...Attribute) []Attribute { return with(rsaParts(rsaKey), others...) }
	ecParts := func(others ...Attribute) []Attribute { return with(ecParts(t, ecKey), others...) }
	for name, c := range map[string]struct {
		session  SessionHandle
		template []Attribute
		want     RV
	}{
		"session key":          {rw, ecParts(noTo(CKA_TOKEN)), CKR_TEMPLATE_INCONSISTENT},
		"read-only session":    {ro, ecParts(), CKR_SESSION_READ_ONLY},
		"no key type":          {rw, less(ecParts(), CKA_KEY_TYPE), CKR_TEMPLATE_INCOMPLETE},
		"unknown key type":     {rw, ecParts(Attribute{CKA_KEY_TYPE, ulong(1)}), CKR_TEMPLATE_INCONSISTENT},
		"no scalar":            {rw, less(ecParts(), CKA_VALUE), CKR_TEMPLATE_INCOMPLETE},
		"scalar 0":             {rw, ecParts(Attribute{CKA_VALUE, make([]byte, 32)}), CKR_ATTRIBUTE_VALUE_INVALID},
		"scalar too long":      {rw, ecParts(Attribute{CKA_VALUE, bytes.Repeat([]byte{1}, 33)}), CKR_ATTRIBUTE_VALUE_INVALID},
		"another point":        {rw, ecParts(Attribute{CKA_EC_POINT, point}), CKR_TEMPLATE_INCONSISTENT},
		"no point":             {rw, ecParts(Attribute{CKA_EC_POINT, []byte{4, 1}}), CKR_ATTRIBUTE_VALUE_INVALID},
		"another key's info":   {rw, ecParts(Attribute{CKA_PUBLIC_KEY_INFO, ofAnother[CKA_PUBLIC_KEY_INFO]}), CKR_TEMPLATE_INCONSISTENT},
		"unknown curve":        {rw, ecParts(Attribute{CKA_EC_PARAMS, []byte{6, 1, 42}}), CKR_CURVE_NOT_SUPPORTED},
		"EC that decrypts":     {rw, ecParts(yesTo(CKA_DECRYPT)), CKR_TEMPLATE_INCONSISTENT},
		"extractable":          {rw, ecParts(yesTo(CKA_EXTRACTABLE)), CKR_TEMPLATE_INCONSISTENT},
		"not sensitive":        {rw, ecParts(noTo(CKA_SENSITIVE)), CKR_TEMPLATE_INCONSISTENT},
		"born in the TPM":      {rw, ecParts(yesTo(CKA_LOCAL)), CKR_ATTRIBUTE_READ_ONLY},
		"chosen mechanisms":    {rw, ecParts(Attribute{CKA_ALLOWED_MECHANISMS, ulong(uint64(CKM_ECDSA))}), CKR_TEMPLATE_INCONSISTENT},
		"parts of two kinds":   {rw, ecParts(Attribute{CKA_MODULUS, []byte{1}}), CKR_ATTRIBUTE_TYPE_INVALID},
		"a label that hides":   {rw, ecParts(label("web\u202egpj")), CKR_ATTRIBUTE_VALUE_INVALID},
		"no primes":            {rw, less(rsaParts(), CKA_PRIME_2), CKR_TEMPLATE_INCOMPLETE},
		"a wrong prime":        {rw, rsaParts(Attribute{CKA_PRIME_2, rsaKey.Primes[0].Bytes()}), CKR_ATTRIBUTE_VALUE_INVALID},
		"prime 0":              {rw, rsaParts(Attribute{CKA_PRIME_1, nil}), CKR_ATTRIBUTE_VALUE_INVALID},
		"a wrong exponent":     {rw, rsaParts(Attribute{CKA_PRIVATE_EXPONENT, []byte{3}}), CKR_ATTRIBUTE_VALUE_INVALID},
		"an endless exponent":  {rw, rsaParts(Attribute{CKA_PRIVATE_EXPONENT, bytes.Repeat([]byte{1}, 1<<16)}), CKR_ATTRIBUTE_VALUE_INVALID},
		"an endless modulus":   {rw, rsaParts(Attribute{CKA_MODULUS, bytes.Repeat([]byte{1}, 1<<16)}), CKR_ATTRIBUTE_VALUE_INVALID},
		"a wrong coefficient":  {rw, rsaParts(Attribute{CKA_COEFFICIENT, []byte{3}}), CKR_ATTRIBUTE_VALUE_INVALID},
		"a key of 1024 bits":   {rw, smallParts, CKR_ATTRIBUTE_VALUE_INVALID},
		"more than the TPM's":  {rw, largeParts, CKR_ATTRIBUTE_VALUE_INVALID},
		"a key with a subject": {rw, ecParts(Attribute{CKA_SUBJECT, []byte{0x30, 0}}), CKR_TEMPLATE_INCONSISTENT},
	} {
		_, err := w.CreateObject(c.session, c.template)
		if RVOf(err) != c.want {
			t.Errorf("%s: %v (%v), want %v", name, RVOf(err), err, c.want)
		}
	}
	w.token.TPM().Release()
	if keys, err := w.token.Keys(); err != nil || len(keys) != 0 {
		t.Errorf("%d keys were made: %v", len(keys), err)
	}
	if count := w.machine.Count(t); count.Sessions != 0 || count.Transient != 0 {
		t.Errorf("the TPM holds %+v", count)
	}
}
