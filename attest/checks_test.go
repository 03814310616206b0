package attest_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/google/go-tpm/tpm2"

	"github.com/tpm2-p11/tpm2-p11/attest"
	"github.com/tpm2-p11/tpm2-p11/internal/nitrosim/nsm"
	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// Each check refuses by itself, before the next one sees what it lets pass: the words tell which it was.

// refusedBy demands a refusal of a kind by the check that says so.
func refusedBy(t *testing.T, name string, err, kind error, says string) {
	t.Helper()
	if !errors.Is(err, kind) || !strings.Contains(err.Error(), says) {
		t.Errorf("%s\n got: %v\nwant: %v, %q", name, err, kind, says)
	}
}

func TestEachCheckOfADocumentRefusesByItself(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	changed := func(change func(*nsm.Draft)) []byte {
		d := newDraft(t, a)
		change(d)
		return signed(t, d)
	}
	set := func(field string, value any) []byte { return changed(func(d *nsm.Draft) { d.Set(field, value) }) }
	parts := func(change func(parts []any)) []byte {
		var all []any
		if err := cbor.Unmarshal(signed(t, newDraft(t, a)), &all); err != nil {
			t.Fatal(err)
		}
		change(all)
		b, err := cbor.Marshal(all)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	bundle := a.Bundle()
	for name, c := range map[string]struct {
		document []byte
		kind     error
		says     string
	}{
		"too large":                 {append(signed(t, newDraft(t, a)), make([]byte, attest.MaxSize)...), attest.ErrMalformed, "are more than"},
		"no CBOR":                   {[]byte("{}"), attest.ErrMalformed, "COSE_Sign1: "},
		"a payload of text":         {parts(func(p []any) { p[2] = "text" }), attest.ErrMalformed, "must be byte strings"},
		"a protected header of map": {parts(func(p []any) { p[0] = map[int]int{1: -35} }), attest.ErrMalformed, "must be byte strings"},
		"a signature of text":       {parts(func(p []any) { p[3] = "text" }), attest.ErrMalformed, "must be byte strings"},
		"a header that is no CBOR":  {parts(func(p []any) { p[0] = []byte{0xff} }), attest.ErrMalformed, "protected header: "},
		"a payload that is no map":  {parts(func(p []any) { p[2] = []byte{0x01} }), attest.ErrMalformed, "payload: "},
		"no PCRs of a NitroTPM":     {changed(func(d *nsm.Draft) { d.Fields = append(d.Fields[:3:3], d.Fields[4:]...) }), attest.ErrKind, "it lacks"},
		"an enclave's module":       {set("module_id", a.Instance+"-enc0123456789abcdef"), attest.ErrKind, "module id"},
		"an empty module id":        {set("module_id", ""), attest.ErrMalformed, "module_id: must be a text of 1 to"},
		"a long module id":          {set("module_id", strings.Repeat("i", 129)+"-tpm0"), attest.ErrMalformed, "module_id: must be a text of 1 to"},
		"no time":                   {set("timestamp", uint64(0)), attest.ErrMalformed, "must be a time"},
		"a time beyond all years":   {set("timestamp", uint64(253402300800000)), attest.ErrMalformed, "must be a time"},
		"too many issuers":          {set("cabundle", append(bundle[:4:4], bundle[1], bundle[1], bundle[2], bundle[2], bundle[3])), attest.ErrMalformed, "must be a list of 2 to 8"},
		"an empty certificate":      {set("certificate", []byte{}), attest.ErrMalformed, "certificate: must be 1 to"},
		"a long certificate":        {set("certificate", make([]byte, 1025)), attest.ErrMalformed, "certificate: must be 1 to"},
		"from the future":           {set("timestamp", uint64(now.Add(2*time.Minute).UnixMilli())), attest.ErrTime, "ago"},
	} {
		_, err := attest.Verify(c.document, attest.Policy{Roots: []*x509.Certificate{a.Root()}, Now: now})
		refusedBy(t, name, err, c.kind, c.says)
	}
	_, err := attest.Verify(signed(t, newDraft(t, a)), attest.Policy{Roots: []*x509.Certificate{a.Root()}, Now: now, PCRs: map[int][]byte{-1: nil}})
	refusedBy(t, "a PCR below 0", err, attest.ErrPCR, "there is no PCR-1")

	chains := bentChains(t, a)
	for name, says := range map[string]string{"not a CA": "may not issue", "may not sign certificates": "may not issue", "unknown critical extension": "unhandled critical"} {
		for level := 1; level < len(bundle); level++ {
			name := fmt.Sprintf("level %d: %s", level, name)
			_, err := attest.Verify(chains[name], attest.Policy{Roots: []*x509.Certificate{a.Root()}, Now: now})
			refusedBy(t, name, err, attest.ErrChain, says)
		}
	}
}

// leaf is a document signed by a leaf of the caller's making. Its signature is as long as one by P-384 whatever the curve.
func leaf(t *testing.T, a *nsm.Authority, curve elliptic.Curve, until, made time.Time) []byte {
	t.Helper()
	template := nsm.Template(a.ModuleID()+"."+a.Region+".aws", now.Add(-time.Second), until)
	template.BasicConstraintsValid, template.KeyUsage = true, x509.KeyUsageDigitalSignature
	issued, err := nsm.Issue(template, &a.Chain[len(a.Chain)-1], curve)
	if err != nil {
		t.Fatal(err)
	}
	d := newDraft(t, a)
	d.Key = issued.Key
	d.Set("certificate", issued.Certificate.Raw)
	d.Set("timestamp", uint64(made.UnixMilli()))
	var parts []any
	if err := cbor.Unmarshal(signed(t, d), &parts); err != nil {
		t.Fatal(err)
	}
	signature := parts[3].([]byte)
	padding := make([]byte, 48-len(signature)/2)
	parts[3] = bytes.Join([][]byte{padding, signature[:len(signature)/2], padding, signature[len(signature)/2:]}, nil)
	b, err := cbor.Marshal(parts)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestALeafOfAnotherCurveOrTime(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	p := attest.Policy{Roots: []*x509.Certificate{a.Root()}, Now: now}
	if _, err := attest.Verify(leaf(t, a, elliptic.P384(), now.Add(time.Hour), now), p); err != nil {
		t.Fatal(err)
	}
	_, err := attest.Verify(leaf(t, a, elliptic.P256(), now.Add(time.Hour), now), p)
	refusedBy(t, "a leaf on P-256", err, attest.ErrChain, "is not ECDSA P-384")
	_, err = attest.Verify(leaf(t, a, elliptic.P384(), now.Add(30*time.Second), now.Add(45*time.Second)), p)
	refusedBy(t, "made after its certificate ends, by a clock that is ahead", err, attest.ErrTime, "outside its certificate's time")
}

func TestANonceThatIsNoChallengeIsCalledSo(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	_, err := newVerifier(a).Verify(answerTo(t, a, []byte("not a challenge")), nil)
	refusedBy(t, "any nonce", err, attest.ErrNonce, "no challenge of this verifier")
}

// liar is a TPM in software that states whatever it is told to, under keys with whatever attributes.
type liar struct {
	t       *testing.T
	signing *ecdsa.PrivateKey
	ak, key tpm2.TPMTPublic
	parent  tpm2.TPMTPublic
	nonce   []byte
	attest  func([]byte) []byte // what is signed in place of the statement
}

func softArea(t *testing.T, key *ecdsa.PrivateKey, attributes tpm2.TPMAObject) tpm2.TPMTPublic {
	t.Helper()
	point, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	parameters := &tpm2.TPMSECCParms{CurveID: tpm2.TPMECCNistP256}
	if attributes.Restricted && attributes.Decrypt {
		parameters.Symmetric = tpm2.TPMTSymDefObject{
			Algorithm: tpm2.TPMAlgAES, KeyBits: tpm2.NewTPMUSymKeyBits(tpm2.TPMAlgAES, tpm2.TPMKeyBits(128)), Mode: tpm2.NewTPMUSymMode(tpm2.TPMAlgAES, tpm2.TPMAlgCFB),
		}
	}
	return tpm2.TPMTPublic{
		Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256, ObjectAttributes: attributes, Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, parameters),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{X: tpm2.TPM2BECCParameter{Buffer: point[1:33]}, Y: tpm2.TPM2BECCParameter{Buffer: point[33:]}}),
	}
}

func newLiar(t *testing.T) *liar {
	fixed := tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true}
	ak, key, parent := fixed, fixed, fixed
	ak.Restricted, ak.SignEncrypt, key.SignEncrypt, parent.Restricted, parent.Decrypt = true, true, true, true, true
	signing := newECKey(t)
	return &liar{
		t: t, signing: signing, ak: softArea(t, signing, ak), key: softArea(t, newECKey(t), key), parent: softArea(t, newECKey(t), parent),
		nonce: freshNonce, attest: func(b []byte) []byte { return b },
	}
}

func (l *liar) public(area tpm2.TPMTPublic) provider.Public {
	l.t.Helper()
	p, err := provider.ParsePublic(tpm2.Marshal(area))
	if err != nil {
		l.t.Fatal(err)
	}
	return p
}

func (l *liar) state(kind tpm2.TPMST, attested tpm2.TPMUAttest) provider.Statement {
	l.t.Helper()
	signer, err := provider.QualifiedName(tpm2.TPMRHEndorsement, l.public(l.ak))
	if err != nil {
		l.t.Fatal(err)
	}
	b := l.attest(tpm2.Marshal(tpm2.TPMSAttest{
		Magic: tpm2.TPMGeneratedValue, Type: kind, QualifiedSigner: tpm2.TPM2BName{Buffer: signer}, ExtraData: tpm2.TPM2BData{Buffer: l.nonce}, Attested: attested,
	}))
	digest := sha256.Sum256(b)
	r, s, err := ecdsa.Sign(rand.Reader, l.signing, digest[:])
	if err != nil {
		l.t.Fatal(err)
	}
	return provider.Statement{Attest: b, Signature: tpm2.Marshal(tpm2.TPMTSignature{SigAlg: tpm2.TPMAlgECDSA, Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgECDSA, &tpm2.TPMSSignatureECC{
		Hash: tpm2.TPMAlgSHA256, SignatureR: tpm2.TPM2BECCParameter{Buffer: r.Bytes()}, SignatureS: tpm2.TPM2BECCParameter{Buffer: s.Bytes()},
	})})}
}

func (l *liar) certified() provider.Evidence {
	l.t.Helper()
	key := l.public(l.key)
	return provider.Evidence{AK: l.public(l.ak), AKHierarchy: tpm2.TPMRHEndorsement, Key: key,
		Certify: l.state(tpm2.TPMSTAttestCertify, tpm2.NewTPMUAttest(tpm2.TPMSTAttestCertify, &tpm2.TPMSCertifyInfo{Name: tpm2.TPM2BName{Buffer: key.Name()}}))}
}

func (l *liar) audited() provider.Evidence {
	l.t.Helper()
	key, parent := l.public(l.key), l.public(l.parent)
	qualified, err := provider.QualifiedName(tpm2.TPMRHOwner, parent, key)
	if err != nil {
		l.t.Fatal(err)
	}
	return provider.Evidence{AK: l.public(l.ak), AKHierarchy: tpm2.TPMRHEndorsement, Key: key, Parent: parent,
		Audit: l.state(tpm2.TPMSTAttestSessionAudit, tpm2.NewTPMUAttest(tpm2.TPMSTAttestSessionAudit, &tpm2.TPMSSessionAuditInfo{
			SessionDigest: tpm2.TPM2BDigest{Buffer: attest.AuditDigest(key, qualified)},
		}))}
}

// quoted adds a quote of values of one bank.
func (l *liar) quoted(bank tpm2.TPMIAlgHash, values map[uint][]byte) provider.Evidence {
	l.t.Helper()
	e := l.certified()
	e.PCRs = []provider.PCRValues{{Hash: bank, Values: values}}
	selected := make([]byte, 3)
	for i := range values {
		selected[i/8] |= 1 << (i % 8)
	}
	e.Quote = l.state(tpm2.TPMSTAttestQuote, tpm2.NewTPMUAttest(tpm2.TPMSTAttestQuote, &tpm2.TPMSQuoteInfo{
		PCRSelect: tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: bank, PCRSelect: selected}}},
		PCRDigest: tpm2.TPM2BDigest{Buffer: provider.PCRDigest(e.PCRs)},
	}))
	return e
}

func verify(e provider.Evidence, change func(*attest.KeyPolicy)) error {
	p := attest.KeyPolicy{AK: e.AK.Name(), Nonce: freshNonce}
	if change != nil {
		change(&p)
	}
	return attest.VerifyKey(e, p)
}

// A trusted TPM vouches for keys of every kind; only those that cannot leave it, nor were elsewhere, are proved.
func TestEachAttributeCounts(t *testing.T) {
	t.Parallel()
	for name, e := range map[string]provider.Evidence{"certified": newLiar(t).certified(), "audited": newLiar(t).audited()} {
		if err := verify(e, nil); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	type attributes = tpm2.TPMAObject
	for name, change := range map[string]func(*attributes){
		"signs what it pleases":       func(a *attributes) { a.Restricted = false },
		"does not sign":               func(a *attributes) { a.SignEncrypt = false },
		"decrypts":                    func(a *attributes) { a.Decrypt = true },
		"may go to another TPM":       func(a *attributes) { a.FixedTPM = false },
		"may go to another parent":    func(a *attributes) { a.FixedParent = false },
		"was not made by its own TPM": func(a *attributes) { a.SensitiveDataOrigin = false },
	} {
		l := newLiar(t)
		change(&l.ak.ObjectAttributes)
		refusedBy(t, "an AK that "+name, verify(l.certified(), nil), attest.ErrAK, "not a restricted signing key")
		if name == "signs what it pleases" || name == "does not sign" || name == "decrypts" {
			continue
		}
		l = newLiar(t)
		change(&l.key.ObjectAttributes)
		refusedBy(t, "a key that "+name, verify(l.certified(), nil), attest.ErrKey, "fixedTPM is")
		if name == "was not made by its own TPM" {
			continue
		}
		l = newLiar(t)
		change(&l.parent.ObjectAttributes)
		refusedBy(t, "a parent that "+name, verify(l.audited(), nil), attest.ErrKey, "its parent is not a storage key")
	}
	l := newLiar(t)
	l.parent.ObjectAttributes.Decrypt, l.parent.ObjectAttributes.SignEncrypt = false, true
	l.parent.Parameters = l.key.Parameters
	refusedBy(t, "a parent that signs", verify(l.audited(), nil), attest.ErrKey, "its parent is not a storage key")
	l = newLiar(t)
	l.parent.NameAlg = tpm2.TPMAlgSHA1
	refusedBy(t, "a parent whose Name is by SHA-1", verify(l.audited(), nil), attest.ErrKey, "its parent: its Name")

	l = newLiar(t)
	l.key.AuthPolicy.Buffer = make([]byte, 32)
	wants := func(p *attest.KeyPolicy) { p.AuthPolicy = make([]byte, 32) }
	if err := verify(l.certified(), wants); err != nil {
		t.Errorf("a key with the policy: %v", err)
	}
	l.key.ObjectAttributes.UserWithAuth = true
	refusedBy(t, "a key that works without its policy", verify(l.certified(), wants), attest.ErrAuthPolicy, "userWithAuth")
	if err := verify(l.certified(), nil); err != nil {
		t.Errorf("the same where no policy is asked for: %v", err)
	}
}

func TestEachCheckOfAStatementRefusesByItself(t *testing.T) {
	t.Parallel()
	infinity := tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{})
	for name, c := range map[string]struct {
		change func(*liar)
		kind   error
		says   string
	}{
		"a statement of 3 bytes":    {func(l *liar) { l.attest = func(b []byte) []byte { return b[:3] } }, attest.ErrStatement, "no TPM made"},
		"one that no TPM begins so": {func(l *liar) { l.attest = func(b []byte) []byte { b[0] = 0; return b } }, attest.ErrStatement, "no TPM made"},
		"one that ends early":       {func(l *liar) { l.attest = func(b []byte) []byte { return b[:len(b)-1] } }, attest.ErrMalformed, ""},
		"an AK that is no point":    {func(l *liar) { l.ak.Unique = infinity }, attest.ErrAK, provider.ErrMalformed.Error()},
		"one of another's nonce":    {func(l *liar) { l.nonce = []byte("another") }, attest.ErrNonce, ""},
	} {
		l := newLiar(t)
		c.change(l)
		refusedBy(t, name, verify(l.certified(), nil), c.kind, c.says)
	}
	l := newLiar(t)
	l.key.Unique = infinity
	refusedBy(t, "a key that is no point", verify(l.certified(), func(p *attest.KeyPolicy) { p.PublicKey = []byte{1} }), attest.ErrPublicKey, provider.ErrMalformed.Error())
	l = newLiar(t)
	l.nonce = nil
	const takes = "takes the trusted AK's Name and the nonce"
	for name, change := range map[string]func(*attest.KeyPolicy){"no nonce": func(p *attest.KeyPolicy) { p.Nonce = nil }, "no AK": func(p *attest.KeyPolicy) { p.AK = nil }} {
		if err := verify(l.certified(), change); err == nil || !strings.Contains(err.Error(), takes) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestEachCheckOfAQuoteRefusesByItself(t *testing.T) {
	t.Parallel()
	values := func(indices ...uint) map[uint][]byte {
		all := map[uint][]byte{}
		for _, i := range indices {
			all[i] = make([]byte, 32)
		}
		return all
	}
	l := newLiar(t)
	good := l.quoted(tpm2.TPMAlgSHA256, values(0, 7))
	if err := verify(good, func(p *attest.KeyPolicy) { p.PCRs = good.PCRs }); err != nil {
		t.Fatal(err)
	}
	twice, unknown := good, good
	twice.PCRs = append(twice.PCRs[:1:1], good.PCRs[0])
	refusedBy(t, "a bank twice", verify(twice, nil), attest.ErrMalformed, "twice")
	unknown.PCRs = append(unknown.PCRs[:1:1], provider.PCRValues{Hash: 0xFFF0, Values: map[uint][]byte{0: {1}}})
	refusedBy(t, "an unknown bank", verify(unknown, nil), attest.ErrMalformed, "PCR bank")
	more := good
	more.PCRs = []provider.PCRValues{{Hash: tpm2.TPMAlgSHA256, Values: values(0, 7, 8)}}
	refusedBy(t, "a value that was not quoted", verify(more, nil), attest.ErrPCR, "of 3 values in the sha256 bank 2 were quoted")
	refusedBy(t, "a PCR that was not quoted", verify(good, func(p *attest.KeyPolicy) {
		p.PCRs = []provider.PCRValues{{Hash: tpm2.TPMAlgSHA256, Values: values(0, 7, 8)}}
	}), attest.ErrPCR, "PCR8 was not quoted")
}

func TestEvidenceFilesThatAreRefused(t *testing.T) {
	t.Parallel()
	l := newLiar(t)
	e := l.quoted(tpm2.TPMAlgSHA256, map[uint][]byte{7: make([]byte, 32)})
	b, err := attest.MarshalEvidence(e)
	if err != nil {
		t.Fatal(err)
	}
	good := string(b)
	if read, err := attest.ParseEvidence(b); err != nil || verify(read, nil) != nil {
		t.Fatal(err)
	}
	for says, text := range map[string]string{
		"are more than 65536":       good + strings.Repeat(" ", attest.MaxEvidence),
		"unknown field":             strings.Replace(good, `"key"`, `"kez"`, 1),
		"something follows":         good + "{}",
		"its format is":             strings.Replace(good, "evidence 1", "evidence 2", 1),
		`ak_hierarchy "null"`:       strings.Replace(good, `"endorsement"`, `"null"`, 1),
		"ak: ":                      strings.Replace(good, `"ak": "AC`, `"ak": "//`, 1),
		policy.ErrInvalid.Error():   strings.Replace(good, `"sha256"`, `"sha257"`, 1),
		`sha256 PCR "07"`:           strings.Replace(good, `"7"`, `"07"`, 1),
		`sha256 PCR "24"`:           strings.Replace(good, `"7"`, `"24"`, 1),
		`sha256 PCR "256"`:          strings.Replace(good, `"7"`, `"256"`, 1),
		`sha256 PCR "seven"`:        strings.Replace(good, `"7"`, `"seven"`, 1),
		"sha256 PCR7: encoding/hex": strings.Replace(good, strings.Repeat("0", 64), strings.Repeat("x", 64), 1),
	} {
		e, err := attest.ParseEvidence([]byte(text))
		refusedBy(t, says, err, attest.ErrMalformed, says)
		if !e.AK.IsZero() {
			t.Errorf("%s: something was read", says)
		}
	}
}

func TestEndorsementKeysThatAreNone(t *testing.T) {
	t.Parallel()
	l, m := newLiar(t), newManufacturer(t)
	refusedBy(t, "no certificate", attest.VerifyEK(provider.EK{Public: l.public(l.parent)}, nil, now), attest.ErrEK, "there is no certificate")
	l.parent.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{})
	ek := provider.EK{Public: l.public(l.parent), Certificate: m.certify(t, newECKey(t).Public(), func(*x509.Certificate) {})}
	refusedBy(t, "no point", attest.VerifyEK(ek, []*x509.Certificate{m.root, m.issuer}, now), attest.ErrEK, provider.ErrMalformed.Error())
	// A storage key on a curve that nobody shares secrets with.
	area := l.parent
	area.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: tpm2.TPMECCBNP256, Symmetric: tpm2.TPMTSymDefObject{
		Algorithm: tpm2.TPMAlgAES, KeyBits: tpm2.NewTPMUSymKeyBits(tpm2.TPMAlgAES, tpm2.TPMKeyBits(128)), Mode: tpm2.NewTPMUSymMode(tpm2.TPMAlgAES, tpm2.TPMAlgCFB),
	}})
	_, _, err := attest.MakeCredential(l.public(area), l.public(l.ak), []byte("a secret"))
	refusedBy(t, "no curve", err, attest.ErrMalformed, "endorsement key: ")
}
