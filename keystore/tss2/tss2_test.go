package tss2_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	encasn1 "encoding/asn1"
	"encoding/pem"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/tpm2-p11/tpm2-p11/keystore/tss2"
	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// ecPublic is the public area of a P-256 signing key with a policy.
func ecPublic(t testing.TB, p policy.Policy) provider.Public {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	digest, err := p.Digest(tpm2.TPMAlgSHA256)
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, tpm2.TPMTPublic{
		Type:    tpm2.TPMAlgECC,
		NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{
			FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: len(digest) == 0, NoDA: true, SignEncrypt: true,
		},
		AuthPolicy: tpm2.TPM2BDigest{Buffer: digest},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			Symmetric: tpm2.TPMTSymDefObject{Algorithm: tpm2.TPMAlgNull},
			Scheme:    tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgNull},
			CurveID:   tpm2.TPMECCNistP256,
			KDF:       tpm2.TPMTKDFScheme{Scheme: tpm2.TPMAlgNull},
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
			X: tpm2.TPM2BECCParameter{Buffer: point[1:33]}, Y: tpm2.TPM2BECCParameter{Buffer: point[33:]},
		}),
	})
}

func sealedPublic(t testing.TB) provider.Public {
	t.Helper()
	return parse(t, tpm2.TPMTPublic{
		Type:             tpm2.TPMAlgKeyedHash,
		NameAlg:          tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, UserWithAuth: true},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgKeyedHash, &tpm2.TPMSKeyedHashParms{
			Scheme: tpm2.TPMTKeyedHashScheme{Scheme: tpm2.TPMAlgNull},
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgKeyedHash, &tpm2.TPM2BDigest{Buffer: make([]byte, 32)}),
	})
}

func parse(t testing.TB, area tpm2.TPMTPublic) provider.Public {
	t.Helper()
	p, err := provider.ParsePublic(tpm2.Marshal(area))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// digestOnly is a PCR requirement as a PEM holds it.
func digestOnly() policy.PCR {
	return policy.PCR{Bank: tpm2.TPMAlgSHA256, Values: map[uint][]byte{0: nil, 7: nil, 16: nil}, Digest: bytes.Repeat([]byte{0xAB}, 32)}
}

func TestAKeyComesBackAsItWasWritten(t *testing.T) {
	t.Parallel()
	pcr := digestOnly()
	for name, k := range map[string]tss2.Key{
		"plain":                       {EmptyAuth: true},
		"with an authValue":           {},
		"under a persistent parent":   {Object: provider.Object{Parent: 0x81000001}},
		"bound to PCRs":               {EmptyAuth: true, Policy: policy.Policy{Root: pcr}},
		"bound to a PIN":              {Policy: policy.Policy{Root: policy.PIN{}}},
		"bound to PCRs and a PIN":     {Policy: policy.Policy{Root: policy.All{pcr, policy.PIN{}}}},
		"bound to two sets and a PIN": {Policy: policy.Policy{Root: policy.All{pcr, pcr, policy.PIN{}}}},
		"bound to PCRs and a term":    {EmptyAuth: true, Policy: policy.Policy{Root: policy.All{pcr, policy.Clock{Before: 1 << 40}}}},
		"bound to a boot":             {EmptyAuth: true, Policy: policy.Policy{Root: policy.Clock{Boot: &policy.Boot{Resets: 17, Restarts: 2}}}},
		"sealed data":                 {Sealed: true, EmptyAuth: true},
	} {
		t.Run(name, func(t *testing.T) {
			k.Object.Public = ecPublic(t, k.Policy)
			if k.Sealed {
				k.Object.Public = sealedPublic(t)
			}
			k.Object.Private = []byte("what the TPM wrapped")
			if k.Object.Parent == 0 {
				k.Object.Parent = tpm2.TPMRHOwner
			}
			text, err := tss2.Encode(k)
			if err != nil {
				t.Fatal(err)
			}
			got, err := tss2.Decode(text)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got.Object.Public.Name(), k.Object.Public.Name()) || !bytes.Equal(got.Object.Private, k.Object.Private) ||
				got.Object.Parent != k.Object.Parent || got.Sealed != k.Sealed || got.EmptyAuth != k.EmptyAuth ||
				!got.Policy.Equal(k.Policy) {
				t.Errorf("wrote %+v, read %+v", k, got)
			}
		})
	}
}

func TestPCRValuesAreWrittenAsTheirDigest(t *testing.T) {
	t.Parallel()
	p := policy.Policy{Root: policy.PCR{Bank: tpm2.TPMAlgSHA256, Values: map[uint][]byte{7: bytes.Repeat([]byte{7}, 32)}}}
	public := ecPublic(t, p)
	text, err := tss2.Encode(tss2.Key{Object: provider.Object{Public: public, Private: []byte("wrapped")}, Policy: p})
	if err != nil {
		t.Fatal(err)
	}
	got, err := tss2.Decode(text)
	if err != nil {
		t.Fatal(err)
	}
	if pcr, ok := got.Policy.Root.(policy.PCR); !ok || len(pcr.Digest) != 32 || pcr.Values[7] != nil {
		t.Errorf("read %v", got.Policy)
	}
	digest, err := got.Policy.Digest(tpm2.TPMAlgSHA256)
	if err != nil || !bytes.Equal(digest, public.AuthPolicy()) {
		t.Errorf("its digest is %x, %v", digest, err)
	}
}

// form is a TPM key that a test writes field by field.
type form struct {
	oid        encasn1.ObjectIdentifier
	emptyAuth  []byte // a DER element
	policy     []statement
	authPolicy bool
	others     []byte // elements with tags 2, 4 and 5
	parent     int64
	public     []byte
	private    []byte
	after      []byte // in the sequence
}

type statement struct {
	code int64
	body []byte
}

func explicit(n uint8) asn1.Tag { return asn1.Tag(n).Constructed().ContextSpecific() }

func addStatements(b *cryptobyte.Builder, list []statement) {
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		for _, s := range list {
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1(explicit(0), func(b *cryptobyte.Builder) { b.AddASN1Int64(s.code) })
				b.AddASN1(explicit(1), func(b *cryptobyte.Builder) { b.AddASN1OctetString(s.body) })
			})
		}
	})
}

func (f form) pem(t testing.TB) []byte {
	t.Helper()
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(f.oid)
		if f.emptyAuth != nil {
			b.AddASN1(explicit(0), func(b *cryptobyte.Builder) { b.AddBytes(f.emptyAuth) })
		}
		if f.policy != nil {
			b.AddASN1(explicit(1), func(b *cryptobyte.Builder) { addStatements(b, f.policy) })
		}
		if f.authPolicy {
			b.AddASN1(explicit(3), func(b *cryptobyte.Builder) {
				b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
					b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
						b.AddASN1(explicit(0), func(b *cryptobyte.Builder) {
							b.AddASN1(asn1.UTF8String, func(b *cryptobyte.Builder) { b.AddBytes([]byte("image A")) })
						})
						b.AddASN1(explicit(1), func(b *cryptobyte.Builder) { addStatements(b, []statement{{code: 0x16A}}) })
					})
				})
			})
		}
		b.AddBytes(f.others)
		b.AddASN1Int64(f.parent)
		b.AddASN1OctetString(f.public)
		b.AddASN1OctetString(f.private)
		b.AddBytes(f.after)
	})
	der, err := b.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "TSS2 PRIVATE KEY", Bytes: der})
}

var (
	loadable   = encasn1.ObjectIdentifier{2, 23, 133, 10, 1, 3}
	importable = encasn1.ObjectIdentifier{2, 23, 133, 10, 1, 4}
	sealed     = encasn1.ObjectIdentifier{2, 23, 133, 10, 1, 5}
)

func goodForm(t testing.TB, p policy.Policy) form {
	return form{
		oid: loadable, parent: 0x40000001, public: tss2.EncodePublic(ecPublic(t, p)), private: tss2.EncodePrivate([]byte("wrapped")),
	}
}

func TestWhatOtherToolsWriteIsRead(t *testing.T) {
	t.Parallel()
	t.Run("true as C libraries write it", func(t *testing.T) {
		f := goodForm(t, policy.Policy{})
		f.emptyAuth = []byte{1, 1, 1}
		k, err := tss2.Decode(f.pem(t))
		if err != nil || !k.EmptyAuth {
			t.Errorf("%+v, %v", k, err)
		}
	})
	t.Run("a description and a parent's kind", func(t *testing.T) {
		f := goodForm(t, policy.Policy{})
		f.parent = 0x81000001
		f.others = append([]byte{0xA4, 6, 12, 4}, "mine"...)
		f.others = append(f.others, 0xA5, 3, 1, 1, 0xFF)
		if k, err := tss2.Decode(f.pem(t)); err != nil || k.Object.Parent != 0x81000001 {
			t.Errorf("%+v, %v", k, err)
		}
	})
	t.Run("a persistent parent as programs of 32 bits write it", func(t *testing.T) {
		f := goodForm(t, policy.Policy{})
		f.parent = -0x7EFFFFFF
		if k, err := tss2.Decode(f.pem(t)); err != nil || k.Object.Parent != 0x81000001 {
			t.Errorf("%+v, %v", k, err)
		}
	})
	term := policy.Policy{Root: policy.Clock{Before: 0x0102030405}}
	for name, body := range map[string][]byte{
		"PolicyCounterTimer as the engine writes it": {0, 0, 0, 1, 2, 3, 4, 5, 0, 8, 0, 5},
		"PolicyCounterTimer as the draft has it":     {0, 8, 0, 0, 0, 1, 2, 3, 4, 5, 0, 8, 0, 5},
	} {
		t.Run(name, func(t *testing.T) {
			f := goodForm(t, term)
			f.policy = []statement{{0x16D, body}}
			k, err := tss2.Decode(f.pem(t))
			if err != nil || !k.Policy.Equal(term) {
				t.Errorf("%v, %v", k.Policy, err)
			}
		})
	}
	owner := policy.Policy{Root: policy.Secret{Hierarchy: tpm2.TPMRHOwner}}
	for name, body := range map[string][]byte{
		"PolicySecret as the draft has it": {0x40, 0, 0, 1, 0, 4, 0x40, 0, 0, 1, 0, 0},
		"PolicySecret without the hint":    {0, 0, 0, 0, 0, 4, 0x40, 0, 0, 1, 0, 0},
		"PolicySecret as it was once":      {0x40, 0, 0, 1, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			f := goodForm(t, owner)
			f.policy = []statement{{0x151, body}}
			k, err := tss2.Decode(f.pem(t))
			if err != nil || !k.Policy.Equal(owner) {
				t.Errorf("%v, %v", k.Policy, err)
			}
		})
	}
	p := policy.Policy{Root: digestOnly()}
	selection := []byte{0, 0, 0, 1, 0, 0x0B, 3, 0x81, 0, 1}
	digest := digestOnly().Digest
	for name, body := range map[string][]byte{
		"PolicyPCR as the engine writes it": append(bytes.Clone(selection), digest...),
		"PolicyPCR as the draft has it":     append(append([]byte{0, 32}, digest...), selection...),
	} {
		t.Run(name, func(t *testing.T) {
			f := goodForm(t, p)
			f.policy = []statement{{0x17F, body}}
			k, err := tss2.Decode(f.pem(t))
			if err != nil || !k.Policy.Equal(p) {
				t.Errorf("%v, %v", k.Policy, err)
			}
		})
	}
}

func TestAKeyWithAPolicyThatIsNotUnderstoodIsShownAndNotUsed(t *testing.T) {
	t.Parallel()
	selection := []byte{0, 0, 0, 1, 0, 0x0B, 3, 0x81, 0, 1}
	for name, c := range map[string]struct {
		change func(*form)
		want   string
	}{
		"a cut PolicyNV": {func(f *form) { f.policy = []statement{{0x149, []byte{1}}} }, "PolicyNV"},
		"no signer":      {func(f *form) { f.policy = []statement{{0x16A, []byte{0, 1, 1, 0, 0, 0, 16}}} }, "PolicyAuthorize"},
		"PolicyOR":       {func(f *form) { f.policy = []statement{{0x171, []byte{0}}} }, "PolicyOR"},
		"an unknown one": {func(f *form) { f.policy = []statement{{0x1FF, nil}} }, "0x1ff"},
		"alternatives":   {func(f *form) { f.authPolicy = true }, "alternatives (authPolicy) that no signer approves"},
		"another digest": {func(f *form) { f.policy = []statement{{0x16B, nil}} }, "digest"},
		"parameters":     {func(f *form) { f.policy = []statement{{0x16B, []byte{1}}} }, "PolicyAuthValue"},
		"a short digest": {func(f *form) { f.policy = []statement{{0x17F, append(selection, 1, 2, 3)}} }, "PolicyPCR"},
		"another clock":  {func(f *form) { f.policy = []statement{{0x16D, make([]byte, 12)}} }, "PolicyCounterTimer"},
		"an endless clock": {func(f *form) {
			f.policy = []statement{{0x16D, []byte("\xff\xff\xff\xff\xff\xff\xff\xff\x00\x08\x00\x05")}}
		}, "PolicyCounterTimer"},
		"a short clock":     {func(f *form) { f.policy = []statement{{0x16D, make([]byte, 4)}} }, "PolicyCounterTimer"},
		"another's secret":  {func(f *form) { f.policy = []statement{{0x151, []byte{0x40, 0, 0, 1, 0, 4, 0x40, 0, 0, 0xB, 0, 0}}} }, "PolicySecret"},
		"the platform's":    {func(f *form) { f.policy = []statement{{0x151, []byte{0x40, 0, 0, 0xC, 0, 4, 0x40, 0, 0, 0xC, 0, 0}}} }, "not of 0x4000000c"},
		"an NV's no Name":   {func(f *form) { f.policy = []statement{{0x192, []byte{1, 0x80, 0, 1, 0, 0}}} }, "PolicyAuthorizeNV"},
		"NV without a Name": {func(f *form) { f.policy = []statement{{0x149, []byte{1, 0x80, 0, 1, 0, 0, 0, 1, 7, 0, 0, 0, 0}}} }, "PolicyNV"},
		"a secret's ref":    {func(f *form) { f.policy = []statement{{0x151, []byte{0x40, 0, 0, 1, 0, 4, 0x40, 0, 0, 1, 0, 1, 7}}} }, "PolicySecret"},
		"a cut secret":      {func(f *form) { f.policy = []statement{{0x151, []byte{0x40, 0, 0, 1}}} }, "PolicySecret"},
		"no PCRs":           {func(f *form) { f.policy = []statement{{0x17F, nil}} }, "PolicyPCR"},
		"PCRs of two banks": {func(f *form) { f.policy = []statement{{0x17F, make([]byte, 4+32)}} }, "PolicyPCR"},
	} {
		t.Run(name, func(t *testing.T) {
			f := goodForm(t, policy.Policy{Root: digestOnly()})
			c.change(&f)
			k, err := tss2.Decode(f.pem(t))
			var policyErr *tss2.PolicyError
			if !errors.As(err, &policyErr) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("the error is %v, which does not name %s", err, c.want)
			}
			if k.Object.Public.IsZero() || !k.Policy.IsZero() {
				t.Errorf("%+v", k)
			}
		})
	}
}

func TestWhatIsNotATPMKeyIsRefused(t *testing.T) {
	t.Parallel()
	good := goodForm(t, policy.Policy{}).pem(t)
	change := func(change func(*form)) []byte {
		f := goodForm(t, policy.Policy{})
		change(&f)
		return f.pem(t)
	}
	for name, c := range map[string]struct {
		text []byte
		want error
	}{
		"nothing":               {nil, tss2.ErrMalformed},
		"no PEM":                {[]byte("hello"), tss2.ErrMalformed},
		"a torn PEM":            {good[:len(good)/2], tss2.ErrMalformed},
		"another kind of PEM":   {bytes.ReplaceAll(good, []byte("TSS2 PRIVATE"), []byte("PRIVATE")), tss2.ErrMalformed},
		"text after it":         {append(bytes.Clone(good), "more"...), tss2.ErrMalformed},
		"two of them":           {append(bytes.Clone(good), good...), tss2.ErrMalformed},
		"too much":              {append(bytes.Clone(good), bytes.Repeat([]byte("\n"), tss2.MaxSize)...), tss2.ErrMalformed},
		"an importable key":     {change(func(f *form) { f.oid = importable }), tss2.ErrUnsupported},
		"another type":          {change(func(f *form) { f.oid = encasn1.ObjectIdentifier{1, 2, 3} }), tss2.ErrUnsupported},
		"a key called sealed":   {change(func(f *form) { f.oid = sealed }), tss2.ErrMalformed},
		"sealed called a key":   {change(func(f *form) { f.public = tss2.EncodePublic(sealedPublic(t)) }), tss2.ErrMalformed},
		"a secret":              {change(func(f *form) { f.others = []byte{0xA2, 3, 4, 1, 0} }), tss2.ErrMalformed},
		"another order":         {change(func(f *form) { f.others = []byte{0xA5, 3, 1, 1, 0, 0xA4, 2, 12, 0} }), tss2.ErrMalformed},
		"more in the sequence":  {change(func(f *form) { f.after = []byte{5, 0} }), tss2.ErrMalformed},
		"a negative parent":     {change(func(f *form) { f.parent = -1 }), tss2.ErrUnsupported},
		"a huge parent":         {change(func(f *form) { f.parent = 1<<40 | 0x81000001 }), tss2.ErrMalformed},
		"a huge negative one":   {change(func(f *form) { f.parent = -1<<40 | 0x81000001 }), tss2.ErrMalformed},
		"a transient parent":    {change(func(f *form) { f.parent = 0x80000000 }), tss2.ErrUnsupported},
		"a transient RSA one":   {change(func(f *form) { f.others = []byte{0xA5, 3, 1, 1, 0xFF} }), tss2.ErrUnsupported},
		"an empty private area": {change(func(f *form) { f.private = []byte{0, 0} }), tss2.ErrMalformed},
		"sizes that disagree":   {change(func(f *form) { f.private = []byte{0, 9, 1} }), tss2.ErrMalformed},
		"bytes after an area":   {change(func(f *form) { f.public = append(f.public, 0) }), tss2.ErrMalformed},
		"an absurd area":        {change(func(f *form) { f.private = tss2.EncodePrivate(make([]byte, 5000)) }), tss2.ErrMalformed},
		"no public area":        {change(func(f *form) { f.public = tss2.EncodePrivate([]byte("what is this")) }), tss2.ErrMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			k, err := tss2.Decode(c.text)
			if !errors.Is(err, c.want) {
				t.Errorf("the error is %v, not %v", err, c.want)
			}
			if !k.Object.Public.IsZero() {
				t.Error("there is a key beside the error")
			}
		})
	}
}

func TestAnImportableKeyIsRefusedWithTheWayOut(t *testing.T) {
	t.Parallel()
	f := goodForm(t, policy.Policy{})
	f.oid = importable
	if _, err := tss2.Decode(f.pem(t)); err == nil || !strings.Contains(err.Error(), "import") {
		t.Errorf("the error is %v", err)
	}
}

func TestWhatCouldNotBeReadIsNotWritten(t *testing.T) {
	t.Parallel()
	key := provider.Object{Public: ecPublic(t, policy.Policy{}), Private: []byte("wrapped")}
	long := policy.Policy{Root: policy.All(slices.Repeat([]policy.Node{digestOnly()}, 5000))}
	for name, k := range map[string]tss2.Key{
		"a policy too long":   {Object: provider.Object{Public: ecPublic(t, long), Private: key.Private}, Policy: long},
		"nothing":             {},
		"a persistent object": {Object: provider.Object{Public: key.Public, Handle: 0x81000100}},
		"another's policy":    {Object: key, Policy: policy.Policy{Root: policy.PIN{}}},
		"a key called sealed": {Object: key, Sealed: true},
		"a transient parent":  {Object: provider.Object{Public: key.Public, Private: key.Private, Parent: 0x80000000}},
		"an absurd area":      {Object: provider.Object{Public: key.Public, Private: make([]byte, 5000)}},
	} {
		t.Run(name, func(t *testing.T) {
			if text, err := tss2.Encode(k); err == nil {
				t.Errorf("wrote %s", text)
			}
		})
	}
}

func FuzzDecode(f *testing.F) {
	for _, p := range []policy.Policy{{}, {Root: digestOnly()}, {Root: policy.All{digestOnly(), policy.PIN{}}}} {
		text, err := tss2.Encode(tss2.Key{Object: provider.Object{Public: ecPublic(f, p), Private: []byte("wrapped")}, Policy: p})
		if err != nil {
			f.Fatal(err)
		}
		block, _ := pem.Decode(text)
		f.Add(block.Bytes)
	}
	alternatives := goodForm(f, policy.Policy{Root: digestOnly()})
	alternatives.authPolicy = true
	block, _ := pem.Decode(alternatives.pem(f))
	f.Add(block.Bytes)
	f.Fuzz(func(t *testing.T, der []byte) {
		k, err := tss2.Decode(pem.EncodeToMemory(&pem.Block{Type: "TSS2 PRIVATE KEY", Bytes: der}))
		if err != nil {
			return
		}
		text, err := tss2.Encode(k)
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		again, err := tss2.Decode(text)
		if err != nil || !bytes.Equal(again.Object.Public.Name(), k.Object.Public.Name()) || !again.Policy.Equal(k.Policy) {
			t.Fatalf("%+v came back as %+v, %v", k, again, err)
		}
	})
}

// FuzzFiles: the files of tpm2-tools are read whole or not at all.
func FuzzFiles(f *testing.F) {
	f.Add(tss2.EncodePublic(ecPublic(f, policy.Policy{})))
	f.Add(tss2.EncodePrivate([]byte("wrapped")))
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := tss2.DecodePublic(b); err == nil {
			if again, err := tss2.DecodePublic(tss2.EncodePublic(p)); err != nil || !bytes.Equal(again.Name(), p.Name()) {
				t.Errorf("%x came back as another: %v", b, err)
			}
		} else if !errors.Is(err, tss2.ErrMalformed) {
			t.Errorf("an untyped refusal: %v", err)
		}
		if p, err := tss2.DecodePrivate(b); err == nil && !bytes.Equal(tss2.EncodePrivate(p), b) {
			t.Errorf("%x came back as %x", b, tss2.EncodePrivate(p))
		} else if err != nil && !errors.Is(err, tss2.ErrMalformed) {
			t.Errorf("an untyped refusal: %v", err)
		}
	})
}
