package tss2

import (
	encasn1 "encoding/asn1"
	"fmt"
	"math"

	"github.com/google/go-tpm/tpm2"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// Types of a TPM key (draft-bottomley-tpm2-keys, "TPM Key ASN.1").
var (
	oidLoadable   = encasn1.ObjectIdentifier{2, 23, 133, 10, 1, 3}
	oidImportable = encasn1.ObjectIdentifier{2, 23, 133, 10, 1, 4}
	oidSealed     = encasn1.ObjectIdentifier{2, 23, 133, 10, 1, 5}
)

// Tags of a TPM key's optional fields.
var (
	tagEmptyAuth   = explicit(0)
	tagPolicy      = explicit(1)
	tagSecret      = explicit(2)
	tagAuthPolicy  = explicit(3)
	tagDescription = explicit(4)
	tagRSAParent   = explicit(5)
)

func explicit(n uint8) asn1.Tag { return asn1.Tag(n).Constructed().ContextSpecific() }

// Persistent handles (TPM 2.0 Part 2, "TPM_HC": PERSISTENT_FIRST and PERSISTENT_LAST).
const (
	persistentFirst provider.Handle = 0x81000000
	persistentLast  provider.Handle = 0x81FFFFFF
)

func (k Key) marshal() ([]byte, error) {
	parent := k.Object.Parent
	if parent == 0 {
		parent = tpm2.TPMRHOwner
	}
	if err := checkParent(parent); err != nil {
		return nil, err
	}
	if k.Object.Public.IsZero() || len(k.Object.Private) == 0 {
		return nil, fmt.Errorf("%w: the object is not a wrapped one", ErrMalformed)
	}
	if k.Sealed != k.Object.Public.IsSealed() {
		return nil, fmt.Errorf("%w: sealed data and keys are not the same", ErrMalformed)
	}
	if len(k.Object.Private) > maxPrivate {
		return nil, fmt.Errorf("%w: a private area of %d bytes", ErrMalformed, len(k.Object.Private))
	}
	statements, err := statementsOf(k.Policy, k.Object.Public)
	if err != nil {
		return nil, err
	}
	alternatives := alternativesOf(k.Policy, k.Approved, k.Object.Public)
	oid := oidLoadable
	if k.Sealed {
		oid = oidSealed
	}
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(oid)
		if k.EmptyAuth {
			b.AddASN1(tagEmptyAuth, func(b *cryptobyte.Builder) { b.AddASN1Boolean(true) })
		}
		if len(statements) > 0 {
			b.AddASN1(tagPolicy, func(b *cryptobyte.Builder) { addStatements(b, statements) })
		}
		if len(alternatives) > 0 {
			b.AddASN1(tagAuthPolicy, func(b *cryptobyte.Builder) { addAlternatives(b, alternatives) })
		}
		b.AddASN1Uint64(uint64(parent))
		b.AddASN1OctetString(EncodePublic(k.Object.Public))
		b.AddASN1OctetString(EncodePrivate(k.Object.Private))
	})
	return b.Bytes()
}

// fields are a TPM key's fields before they are understood.
type fields struct {
	kind       encasn1.ObjectIdentifier
	emptyAuth  bool
	policy     []statement
	hasSecret  bool
	authPolicy []alternative
	rsaParent  bool
	parent     int64
	public     cryptobyte.String
	private    cryptobyte.String
}

func unmarshal(der []byte) (Key, error) {
	f, err := readFields(der)
	if err != nil {
		return Key{}, err
	}
	parent := provider.Handle(f.parent) // of a negative number the bits: older tools wrote persistent handles so
	switch {
	case f.kind.Equal(oidImportable):
		return Key{}, fmt.Errorf("%w: an importable key (%s) has to be imported under its parent first (tpm2_import)",
			ErrUnsupported, oidImportable)
	case !f.kind.Equal(oidLoadable) && !f.kind.Equal(oidSealed):
		return Key{}, fmt.Errorf("%w: its type is %s", ErrUnsupported, f.kind)
	case f.hasSecret:
		return Key{}, fmt.Errorf("%w: only an importable key has a secret", ErrMalformed)
	case f.parent > int64(persistentLast) || f.parent < math.MinInt32:
		return Key{}, fmt.Errorf("%w: the parent %#x is not a handle", ErrMalformed, f.parent)
	case f.rsaParent && parent == tpm2.TPMRHOwner:
		return Key{}, fmt.Errorf("%w: its parent is an RSA primary key that is not persistent", ErrUnsupported)
	}
	if err := checkParent(parent); err != nil {
		return Key{}, err
	}
	key := Key{Sealed: f.kind.Equal(oidSealed), EmptyAuth: f.emptyAuth}
	key.Object.Parent = parent
	if key.Object.Public, err = DecodePublic(f.public); err != nil {
		return Key{}, err
	}
	if key.Object.Private, err = DecodePrivate(f.private); err != nil {
		return Key{}, err
	}
	if key.Sealed != key.Object.Public.IsSealed() {
		return Key{}, fmt.Errorf("%w: its type %s does not fit its public area (%s)", ErrMalformed, f.kind,
			key.Object.Public.Describe())
	}
	if key.Policy, err = policyOf(f.policy, key.Object.Public); err != nil {
		return key, err
	}
	if _, ok := approves(key.Policy); !ok && len(f.authPolicy) > 0 {
		key.Policy = policy.Policy{}
		return key, unusable("it has alternatives (authPolicy) that no signer approves")
	}
	key.Approved = approvedOf(f.authPolicy, key.Object.Public)
	return key, nil
}

func readFields(der []byte) (fields, error) {
	var f fields
	bad := func(what string) (fields, error) {
		return fields{}, fmt.Errorf("%w: %s", ErrMalformed, what)
	}
	in := cryptobyte.String(der)
	var seq, value cryptobyte.String
	var present bool
	if !in.ReadASN1(&seq, asn1.SEQUENCE) || !in.Empty() {
		return bad("it is not one DER sequence")
	}
	if !seq.ReadASN1ObjectIdentifier(&f.kind) {
		return bad("it does not begin with a type")
	}
	if !seq.ReadOptionalASN1(&value, &present, tagEmptyAuth) || present && !readBoolean(value, &f.emptyAuth) {
		return bad("emptyAuth")
	}
	if !seq.ReadOptionalASN1(&value, &present, tagPolicy) || present && !readStatements(value, &f.policy) {
		return bad("policy")
	}
	if !seq.ReadOptionalASN1(&value, &f.hasSecret, tagSecret) || f.hasSecret && !isOne(value, asn1.OCTET_STRING) {
		return bad("secret")
	}
	if !seq.ReadOptionalASN1(&value, &present, tagAuthPolicy) || present && !readAlternatives(value, &f.authPolicy) {
		return bad("authPolicy")
	}
	if !seq.ReadOptionalASN1(&value, &present, tagDescription) || present && !isOne(value, asn1.UTF8String) {
		return bad("description")
	}
	if !seq.ReadOptionalASN1(&value, &present, tagRSAParent) || present && !readBoolean(value, &f.rsaParent) {
		return bad("rsaParent")
	}
	if !seq.ReadASN1Integer(&f.parent) {
		return bad("parent")
	}
	if !seq.ReadASN1(&f.public, asn1.OCTET_STRING) {
		return bad("pubkey")
	}
	if !seq.ReadASN1(&f.private, asn1.OCTET_STRING) || !seq.Empty() {
		return bad("privkey, or something follows it")
	}
	return f, nil
}

// readBoolean takes every value that is not zero for true, as BER does: the engine's C library writes 1 where DER wants 255.
func readBoolean(in cryptobyte.String, out *bool) bool {
	var value cryptobyte.String
	if !in.ReadASN1(&value, asn1.BOOLEAN) || !in.Empty() || len(value) != 1 {
		return false
	}
	*out = value[0] != 0
	return true
}

func isOne(in cryptobyte.String, tag asn1.Tag) bool {
	var value cryptobyte.String
	return in.ReadASN1(&value, tag) && in.Empty()
}

func checkParent(h provider.Handle) error {
	if h == tpm2.TPMRHOwner || h >= persistentFirst && h <= persistentLast {
		return nil
	}
	return fmt.Errorf("%w: its parent is %#08x, neither the owner hierarchy nor a persistent key", ErrUnsupported, uint32(h))
}
