package attest_test

import (
	"bytes"
	"crypto/elliptic"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/tpm2-p11/tpm2-p11/attest"
	"github.com/tpm2-p11/tpm2-p11/internal/fuzztest"
	"github.com/tpm2-p11/tpm2-p11/internal/nitrosim/nsm"
)

var now = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// content is what the documents of these tests state.
func content() nsm.Content {
	c := nsm.Content{PublicKey: []byte("public key"), UserData: []byte("user data"), Nonce: []byte("nonce")}
	for i := range c.PCRs {
		c.PCRs[i] = bytes.Repeat([]byte{byte(i)}, 48)
	}
	return c
}

func newAuthority(t testing.TB) *nsm.Authority {
	t.Helper()
	a, err := nsm.New("i-0123456789abcdef0", "eu-central-1", now)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func newDraft(t testing.TB, a *nsm.Authority) *nsm.Draft {
	t.Helper()
	d, err := a.Draft(now, content())
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func signed(t testing.TB, d *nsm.Draft) []byte {
	t.Helper()
	b, err := d.Sign()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// fullPolicy asks for everything that the documents of these tests state.
func fullPolicy(a *nsm.Authority) attest.Policy {
	c := content()
	return attest.Policy{
		Roots: []*x509.Certificate{a.Root()}, Now: now.Add(time.Minute), Instance: a.Instance,
		Nonce: c.Nonce, UserData: c.UserData, PublicKey: c.PublicKey,
		PCRs: map[int][]byte{4: c.PCRs[4], 7: c.PCRs[7]},
	}
}

func TestGoodDocumentVerifies(t *testing.T) {
	a := newAuthority(t)
	b := signed(t, newDraft(t, a))
	for name, document := range map[string][]byte{"untagged": b, "tagged": append([]byte{0xd2}, b...)} {
		d, err := attest.Verify(document, fullPolicy(a))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if d.Instance() != a.Instance || string(d.Nonce) != "nonce" {
			t.Errorf("%s: instance %q, nonce %q", name, d.Instance(), d.Nonce)
		}
	}
}

// What a verifier asks for and the document does not show is refused by its own error.
func TestUnmetExpectationsAreRefused(t *testing.T) {
	a, other := newAuthority(t), newAuthority(t)
	document := signed(t, newDraft(t, a))
	for name, c := range map[string]struct {
		change func(*attest.Policy)
		want   error
	}{
		"another root":       {func(p *attest.Policy) { p.Roots = []*x509.Certificate{other.Root()} }, attest.ErrChain},
		"AWS's root":         {func(p *attest.Policy) { p.Roots = nil }, attest.ErrChain},
		"no root":            {func(p *attest.Policy) { p.Roots = []*x509.Certificate{} }, attest.ErrChain},
		"too old":            {func(p *attest.Policy) { p.Now = now.Add(6 * time.Minute) }, attest.ErrTime},
		"from the future":    {func(p *attest.Policy) { p.Now = now.Add(-2 * time.Minute) }, attest.ErrTime},
		"after three hours":  {func(p *attest.Policy) { p.Now = now.Add(4 * time.Hour); p.MaxAge = 24 * time.Hour }, attest.ErrTime},
		"another instance":   {func(p *attest.Policy) { p.Instance = "i-0123456789abcdef1" }, attest.ErrModule},
		"another nonce":      {func(p *attest.Policy) { p.Nonce = []byte("nonce2") }, attest.ErrNonce},
		"an absent nonce":    {func(p *attest.Policy) { p.Nonce = []byte{} }, attest.ErrNonce},
		"another user data":  {func(p *attest.Policy) { p.UserData = []byte("x") }, attest.ErrUserData},
		"another public key": {func(p *attest.Policy) { p.PublicKey = []byte("x") }, attest.ErrPublicKey},
		"another PCR":        {func(p *attest.Policy) { p.PCRs[7] = make([]byte, 48) }, attest.ErrPCR},
		"a short PCR":        {func(p *attest.Policy) { p.PCRs[7] = p.PCRs[7][:32] }, attest.ErrPCR},
		"a PCR beyond":       {func(p *attest.Policy) { p.PCRs[24] = nil }, attest.ErrPCR},
	} {
		p := fullPolicy(a)
		c.change(&p)
		if _, err := attest.Verify(document, p); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRefusedPCRNamesWhatItIsAndShouldBe(t *testing.T) {
	a := newAuthority(t)
	p := fullPolicy(a)
	p.PCRs[7] = make([]byte, 48)
	_, err := attest.Verify(signed(t, newDraft(t, a)), p)
	var refused *attest.PCRError
	if !errors.As(err, &refused) || refused.PCR != 7 || !strings.Contains(err.Error(), "PCR7 is 0707") || !strings.Contains(err.Error(), "expected 0000") {
		t.Errorf("%v", err)
	}
}

// bent documents: each is the good one with one thing wrong, signed anew.
func bent(t testing.TB, a *nsm.Authority) map[string][]byte {
	t.Helper()
	corpus := map[string][]byte{}
	bend := func(name string, change func(*nsm.Draft)) {
		d := newDraft(t, a)
		change(d)
		corpus[name] = signed(t, d)
	}
	good := newDraft(t, a)
	wrongTypes := []any{nil, uint64(7), int64(-7), "text", []byte("bytes"), []any{}, []any{"x", []byte("y")}, map[string]int{}, map[int]string{1: "x"}, true, 1.5, cbor.Tag{Number: 1, Content: 1}}
	nullable := map[string]bool{"public_key": true, "user_data": true, "nonce": true}
	for i, f := range good.Fields {
		bend("without "+f.Name, func(d *nsm.Draft) { d.Fields = append(d.Fields[:i:i], d.Fields[i+1:]...) })
		bend("twice "+f.Name, func(d *nsm.Draft) { d.Fields = append(d.Fields, f) })
		for k, wrong := range wrongTypes {
			if _, bytesValue := wrong.([]byte); nullable[f.Name] && bytesValue || f.Name == "module_id" && wrong == "text" {
				continue
			}
			bend(fmt.Sprintf("wrong type %d of %s", k, f.Name), func(d *nsm.Draft) { d.Set(f.Name, wrong) })
		}
	}
	for _, f := range []string{"public_key", "user_data", "nonce", "certificate"} {
		bend("too long "+f, func(d *nsm.Draft) { d.Set(f, make([]byte, 1025)) })
	}
	bend("empty module id", func(d *nsm.Draft) { d.Set("module_id", "") })
	bend("module id for a terminal", func(d *nsm.Draft) { d.Set("module_id", "i-0\x1b[2J-tpm0") })
	bend("long module id", func(d *nsm.Draft) { d.Set("module_id", strings.Repeat("i", 200)+"-tpm0") })
	bend("another module id", func(d *nsm.Draft) { d.Set("module_id", "i-0123456789abcdef1-tpm0000000000000000") })
	bend("an enclave's module id", func(d *nsm.Draft) { d.Set("module_id", a.Instance+"-enc0123456789abcdef") })
	bend("an enclave's PCRs besides", func(d *nsm.Draft) { d.Set("pcrs", map[int][]byte{0: make([]byte, 48)}) })
	bend("an enclave's document", func(d *nsm.Draft) {
		for i := range d.Fields {
			if d.Fields[i].Name == "nitrotpm_pcrs" {
				d.Fields[i].Name = "pcrs"
			}
		}
	})
	bend("digest SHA512", func(d *nsm.Draft) { d.Set("digest", "SHA512") })
	bend("digest sha384", func(d *nsm.Draft) { d.Set("digest", "sha384") })
	for name, count := range map[string]int{"23 PCRs": 23, "25 PCRs": 25} {
		bend(name, func(d *nsm.Draft) {
			pcrs := map[uint64][]byte{}
			for i := range count {
				pcrs[uint64(i)] = make([]byte, 48)
			}
			d.Set("nitrotpm_pcrs", pcrs)
		})
	}
	bend("a PCR of 32 bytes", func(d *nsm.Draft) {
		pcrs := map[uint64][]byte{}
		for i := range 24 {
			pcrs[uint64(i)] = make([]byte, 48)
		}
		pcrs[3] = make([]byte, 32)
		d.Set("nitrotpm_pcrs", pcrs)
	})
	bend("timestamp zero", func(d *nsm.Draft) { d.Set("timestamp", uint64(0)) })
	bend("timestamp beyond time", func(d *nsm.Draft) { d.Set("timestamp", uint64(1)<<63) })
	bend("timestamp before its certificate", func(d *nsm.Draft) { d.Set("timestamp", uint64(now.Add(-time.Minute).UnixMilli())) })
	for name, header := range map[string][]byte{
		"ES256": {0xa1, 1, 0x26}, "ES512": {0xa1, 1, 0x38, 0x23}, "EdDSA": {0xa1, 1, 0x27}, "PS384": {0xa1, 1, 0x38, 0x25},
		"HMAC": {0xa1, 1, 5}, "algorithm of text": {0xa1, 1, 0x65, 'E', 'S', '3', '8', '4'}, "no algorithm": {0xa0}, "another header": {0xa2, 1, 0x38, 0x22, 4, 0x40},
		"empty header": {}, "header of text": {0x61, 'x'}, "algorithm twice": {0xa2, 1, 0x38, 0x22, 1, 0x38, 0x22},
	} {
		bend(name, func(d *nsm.Draft) { d.Protected = header })
	}
	bend("nested too deep", func(d *nsm.Draft) { d.Set("more", []any{[]any{[]any{[]any{[]any{1}}}}}) })
	bend("signed by another key", func(d *nsm.Draft) { d.Key = newDraft(t, a).Key })
	for name, document := range bentChains(t, a) {
		corpus[name] = document
	}
	for name, document := range bentEnvelopes(t, newDraft(t, a)) {
		corpus[name] = document
	}
	return corpus
}

// bentEnvelopes are documents with something wrong in the COSE_Sign1 around a good payload.
func bentEnvelopes(t testing.TB, d *nsm.Draft) map[string][]byte {
	t.Helper()
	var parts []any
	document := signed(t, d)
	if err := cbor.Unmarshal(document, &parts); err != nil {
		t.Fatal(err)
	}
	signature := parts[3].([]byte)
	corpus := map[string][]byte{
		"of tag 17":             append([]byte{0xd1}, document...),
		"tagged twice":          append([]byte{0xd2, 0xd2}, document...),
		"wrapped in an array":   append([]byte{0x81}, document...),
		"as a byte string":      append([]byte{0x59, byte(len(document) >> 8), byte(len(document))}, document...),
		"a null":                {0xf6},
		"an endless array":      {0x9f},
		"a huge array":          {0x9b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
		"a huge byte string":    {0x84, 0x5b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
		"nested without an end": bytes.Repeat([]byte{0x81}, attest.MaxSize),
	}
	for name, change := range map[string]func(p []any) []any{
		"with an unprotected algorithm": func(p []any) []any { p[1] = map[int]int{1: -35}; return p },
		"with an unprotected key id":    func(p []any) []any { p[1] = map[int][]byte{4: {1}}; return p },
		"with a null for a header":      func(p []any) []any { p[1] = nil; return p },
		"without a payload":             func(p []any) []any { p[2] = nil; return p },
		"with a fifth part":             func(p []any) []any { return append(p, []byte{}) },
		"without a signature":           func(p []any) []any { return p[:3] },
		"with an empty signature":       func(p []any) []any { p[3] = []byte{}; return p },
		"with a signature of zeros":     func(p []any) []any { p[3] = make([]byte, 96); return p },
		"with a longer signature":       func(p []any) []any { p[3] = append([]byte{0}, signature...); return p },
		"with a payload of more":        func(p []any) []any { p[2] = append(bytes.Clone(p[2].([]byte)), 0xf6); return p },
	} {
		b, err := cbor.Marshal(change(append([]any{}, parts...)))
		if err != nil {
			t.Fatal(err)
		}
		corpus["envelope "+name] = b
	}
	return corpus
}

// bentChains are documents with something wrong among their certificates.
func bentChains(t testing.TB, a *nsm.Authority) map[string][]byte {
	t.Helper()
	corpus := map[string][]byte{}
	other := newAuthority(t)
	bundle := func(name string, certificates ...[]byte) {
		d := newDraft(t, a)
		d.Set("cabundle", certificates)
		corpus["bundle "+name] = signed(t, d)
	}
	b, o := a.Bundle(), other.Bundle()
	bundle("empty")
	bundle("root alone", b[0])
	bundle("without zone", b[0], b[1], b[3])
	bundle("reversed", b[3], b[2], b[1], b[0])
	bundle("reordered", b[0], b[2], b[1], b[3])
	bundle("doubled", b[0], b[1], b[2], b[3], b[3])
	bundle("with a stranger", b[0], o[1], b[1], b[2], b[3])
	bundle("cut short", b[0], b[1], b[2], b[3][:200])
	bundle("too many", b[0], b[1], b[1], b[1], b[1], b[2], b[2], b[2], b[3])
	for i := range b {
		swapped := append([][]byte{}, b...)
		swapped[i] = o[i]
		bundle(fmt.Sprintf("certificate %d swapped", i), swapped...)
	}

	// reissue makes the chain anew from level on, with one certificate changed.
	reissue := func(name string, level int, curve elliptic.Curve, change func(*x509.Certificate)) {
		chain := append([]nsm.Issuer{}, a.Chain...)
		leafTemplate := nsm.Template(a.ModuleID()+"."+a.Region+".aws", now.Add(-time.Second), now.Add(nsm.LeafLifetime))
		leafTemplate.BasicConstraintsValid, leafTemplate.KeyUsage = true, x509.KeyUsageDigitalSignature
		for i := level; i < len(chain); i++ {
			old := chain[i].Certificate
			template := nsm.Template(old.Subject.CommonName, old.NotBefore, old.NotAfter)
			template.IsCA, template.BasicConstraintsValid = true, true
			template.MaxPathLen, template.MaxPathLenZero, template.KeyUsage = old.MaxPathLen, old.MaxPathLenZero, old.KeyUsage
			c := elliptic.P384()
			if i == level {
				change(template)
				c = curve
			}
			issued, err := nsm.Issue(template, &chain[i-1], c)
			if err != nil {
				t.Fatal(err)
			}
			chain[i] = issued
		}
		c := elliptic.P384()
		if level == len(chain) {
			change(leafTemplate)
			c = curve
		}
		leaf, err := nsm.Issue(leafTemplate, &chain[len(chain)-1], c)
		if err != nil {
			t.Fatal(err)
		}
		d := newDraft(t, a)
		d.Key = leaf.Key
		d.Set("certificate", leaf.Certificate.Raw)
		var bundle [][]byte
		for _, issuer := range chain {
			bundle = append(bundle, issuer.Certificate.Raw)
		}
		d.Set("cabundle", bundle)
		corpus[fmt.Sprintf("level %d: %s", level, name)] = signed(t, d)
	}
	for level := 1; level <= len(b); level++ {
		reissue("expired", level, elliptic.P384(), func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Second) })
		reissue("not yet valid", level, elliptic.P384(), func(c *x509.Certificate) { c.NotBefore = now.Add(time.Hour) })
		reissue("P-256", level, elliptic.P256(), func(*x509.Certificate) {})
		reissue("P-521", level, elliptic.P521(), func(*x509.Certificate) {})
		reissue("unknown critical extension", level, elliptic.P384(), func(c *x509.Certificate) {
			c.ExtraExtensions = append(c.ExtraExtensions, criticalExtension)
		})
		if level < len(b) {
			reissue("not a CA", level, elliptic.P384(), func(c *x509.Certificate) { c.IsCA, c.MaxPathLen = false, -1 })
			reissue("may not sign certificates", level, elliptic.P384(), func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature })
		}
		if level < len(b)-1 {
			reissue("path length zero", level, elliptic.P384(), func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = 0, true })
		}
	}
	weak := nsm.Template(a.ModuleID()+"."+a.Region+".aws", now.Add(-time.Second), now.Add(nsm.LeafLifetime))
	weak.BasicConstraintsValid, weak.KeyUsage, weak.SignatureAlgorithm = true, x509.KeyUsageDigitalSignature, x509.ECDSAWithSHA256
	leaf, err := nsm.Issue(weak, &a.Chain[len(b)-1], elliptic.P384())
	if err != nil {
		t.Fatal(err)
	}
	d := newDraft(t, a)
	d.Key = leaf.Key
	d.Set("certificate", leaf.Certificate.Raw)
	corpus["leaf signed with SHA-256"] = signed(t, d)
	reissue("leaf without digital signature", len(b), elliptic.P384(), func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageContentCommitment })
	reissue("leaf is a CA", len(b), elliptic.P384(), func(c *x509.Certificate) { c.IsCA = true; c.KeyUsage |= x509.KeyUsageCertSign })
	reissue("leaf of another name", len(b), elliptic.P384(), func(c *x509.Certificate) { c.Subject.CommonName = "i-1-tpm0.aws" })
	return corpus
}

func TestBentDocumentsAreRefused(t *testing.T) {
	a := newAuthority(t)
	// Only time and root are asked for, so that nothing but the bend can be refused.
	p := attest.Policy{Roots: []*x509.Certificate{a.Root()}, Now: now}
	if _, err := attest.Verify(signed(t, newDraft(t, a)), p); err != nil {
		t.Fatalf("the straight document: %v", err)
	}
	accepted := map[string]bool{ // absent is null
		"without public_key": true, "without user_data": true, "without nonce": true,
		"wrong type 0 of public_key": true, "wrong type 0 of user_data": true, "wrong type 0 of nonce": true,
	}
	for name, document := range bent(t, a) {
		_, err := attest.Verify(document, p)
		if accepted[name] {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if name == "module id for a terminal" && !errors.Is(err, attest.ErrKind) {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil {
			t.Errorf("%s: accepted", name)
		} else if !typed(err) {
			t.Errorf("%s: an untyped refusal: %v", name, err)
		}
	}
}

func TestFlippedAndCutDocumentsAreRefused(t *testing.T) {
	a := newAuthority(t)
	p := attest.Policy{Roots: []*x509.Certificate{a.Root()}, Now: now}
	document := signed(t, newDraft(t, a))
	for i := range document {
		if _, err := attest.Verify(document[:i], p); !typed(err) {
			t.Fatalf("cut at byte %d: %v", i, err)
		}
	}
	signature := len(document) - 96
	for i := 0; i < len(document); i++ {
		if i < signature && i%17 != 0 { // each costs five verifications
			continue
		}
		flipped := bytes.Clone(document)
		flipped[i] ^= 1 << (i % 8)
		if _, err := attest.Verify(flipped, p); !typed(err) {
			t.Fatalf("a bit of byte %d flipped: %v", i, err)
		}
	}
	for _, tail := range [][]byte{{0}, {0xf6}, document} {
		if _, err := attest.Verify(append(bytes.Clone(document), tail...), p); !errors.Is(err, attest.ErrMalformed) {
			t.Errorf("with %d bytes behind: %v", len(tail), err)
		}
	}
	if _, err := attest.Parse(make([]byte, attest.MaxSize+1)); !errors.Is(err, attest.ErrMalformed) {
		t.Errorf("too large: %v", err)
	}
}

// typed tells whether a refusal is one of the package's errors.
func typed(err error) bool {
	for _, e := range []error{
		attest.ErrMalformed, attest.ErrKind, attest.ErrChain, attest.ErrTime, attest.ErrSignature,
		attest.ErrModule, attest.ErrNonce, attest.ErrUserData, attest.ErrPublicKey, attest.ErrPCR,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// FuzzVerify: no bytes crash the verifier, and none but genuine documents are accepted. Keys differ in each process, so beside documents
// there are edits: where, what to do and with which byte, four bytes each, done to a genuine one of this process.
func FuzzVerify(f *testing.F) {
	a := newAuthority(f)
	p := attest.Policy{Roots: []*x509.Certificate{a.Root()}, Now: now}
	good := signed(f, newDraft(f, a))
	genuine, err := attest.Verify(good, p)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good, []byte(nil))
	for _, document := range bentEnvelopes(f, newDraft(f, a)) {
		f.Add(document, []byte(nil))
	}
	for _, edits := range []string{"\x00\x00\x00\x00", "\x00\x10\x01\x00", "\x01\x00\x02\xf6", "\xff\xff\x03\x00"} {
		f.Add([]byte(nil), []byte(edits))
	}
	f.Fuzz(func(t *testing.T, document, edits []byte) {
		if len(document) == 0 {
			document = fuzztest.Edited(good, edits)
		}
		d, err := attest.Verify(document, p)
		if err == nil && says(d) != says(genuine) {
			t.Errorf("accepted a document that nobody signed: %x", document)
		}
		if err != nil && !typed(err) {
			t.Errorf("an untyped refusal: %v", err)
		}
	})
}

// says is all that a document states.
func says(d *attest.Claims) string {
	return fmt.Sprintf("%x %q %v %q %x %x %x %x", d.Certificate.Raw, d.ModuleID, d.Timestamp, d.Digest, d.PCRs, d.PublicKey, d.UserData, d.Nonce)
}

// The floor of a verification is its four P-384 verifications of certificates and one of the document.
func BenchmarkVerify(b *testing.B) {
	a := newAuthority(b)
	document, p := signed(b, newDraft(b, a)), fullPolicy(a)
	for b.Loop() {
		if _, err := attest.Verify(document, p); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkFiveP384Verifications(b *testing.B) {
	a := newAuthority(b)
	for b.Loop() {
		for range 5 {
			if err := a.Chain[1].Certificate.CheckSignatureFrom(a.Root()); err != nil {
				b.Fatal(err)
			}
		}
	}
}
