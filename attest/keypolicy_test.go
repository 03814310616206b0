package attest_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/attest"
	"github.com/tpm2-p11/tpm2-p11/internal/secret"
	"github.com/tpm2-p11/tpm2-p11/internal/tpmtest"
	"github.com/tpm2-p11/tpm2-p11/internal/wiretap"
	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/provider"
	"github.com/tpm2-p11/tpm2-p11/provider/transport"
)

var freshNonce = []byte("a nonce of the verifier")

// host is a machine with a TPM and a key in it.
type host struct {
	*provider.TPM
	machine *tpmtest.TPM
	ak      provider.Name
}

func newHost(t testing.TB) *host {
	t.Helper()
	h := &host{machine: tpmtest.Start(t)}
	h.TPM = openTPM(t, h.machine.Address())
	ak, err := h.AttestationKey(t.Context(), provider.AttestationKey{})
	if err != nil {
		t.Fatal(err)
	}
	h.ak = ak.Name()
	return h
}

// bound makes a key that works while PCR 7 stays, and gives its policy's digest.
func (h *host) bound(t testing.TB) (provider.Object, []byte) {
	t.Helper()
	p, err := policy.Policy{Root: policy.PCR{Bank: tpm2.TPMAlgSHA256, Values: map[uint][]byte{7: nil}}}.Resolve(h.PolicyState(t.Context()), true)
	if err != nil {
		t.Fatal(err)
	}
	digest, err := p.Digest(tpm2.TPMAlgSHA256)
	if err != nil {
		t.Fatal(err)
	}
	o, err := h.CreateKey(t.Context(), provider.Template{Type: provider.P256, Use: provider.Use{Sign: true}, AuthPolicy: digest}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return o, digest
}

// free makes a key with an authValue and no policy.
func (h *host) free(t testing.TB) (provider.Object, provider.Auth) {
	t.Helper()
	a := provider.Auth{Value: secret.From([]byte("value"))}
	o, err := h.CreateKey(t.Context(), provider.Template{Type: provider.P256, Use: provider.Use{Sign: true}}, a.Value)
	if err != nil {
		t.Fatal(err)
	}
	return o, a
}

func (h *host) evidence(t testing.TB, o provider.Object, a provider.Auth, pcrs ...provider.Bank) provider.Evidence {
	t.Helper()
	e, err := h.AttestKey(t.Context(), provider.AttestationKey{}, o, a, freshNonce, pcrs)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func (h *host) policy() attest.KeyPolicy { return attest.KeyPolicy{AK: h.ak, Nonce: freshNonce} }

func subjectPublicKeyInfo(t testing.TB, o provider.Object) []byte {
	t.Helper()
	key, err := o.Public.Key()
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestAKeyIsProvedToBeInItsTPM(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	free, auth := h.free(t)
	bound, digest := h.bound(t)
	h.Release()
	h.machine.Extend(t, "sha256", 7, []byte("the policy is not met any more, and need not be"))
	for name, k := range map[string]struct {
		object     provider.Object
		auth       provider.Auth
		authPolicy []byte
	}{"with an authValue": {free, auth, []byte{}}, "with a policy": {bound, provider.Auth{}, digest}} {
		e := h.evidence(t, k.object, k.auth, provider.Bank{Hash: tpm2.TPMAlgSHA384, PCRs: []uint{0, 7, 23}}, provider.Bank{Hash: tpm2.TPMAlgSHA256, PCRs: []uint{7}})
		p := h.policy()
		p.PublicKey, p.AuthPolicy, p.PCRs = subjectPublicKeyInfo(t, k.object), k.authPolicy, e.PCRs
		if err := attest.VerifyKey(e, p); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		b, err := attest.MarshalEvidence(e)
		if err != nil {
			t.Fatal(err)
		}
		again, err := attest.ParseEvidence(b)
		if err == nil {
			err = attest.VerifyKey(again, p)
		}
		if err != nil {
			t.Errorf("%s, through its file: %v", name, err)
		}
	}
}

func TestPersistentKeysAndOtherAttestationKeys(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	o, _ := h.bound(t)
	if err := h.Persist(t.Context(), o, 0x81000100); err != nil {
		t.Fatal(err)
	}
	linked := provider.Object{Public: o.Public, Handle: 0x81000100}
	for _, k := range []provider.AttestationKey{{Type: provider.RSA2048}, {Hierarchy: tpm2.TPMRHOwner}} {
		ak, err := h.AttestationKey(t.Context(), k)
		if err != nil {
			t.Fatal(err)
		}
		e, err := h.AttestKey(t.Context(), k, linked, provider.Auth{}, freshNonce, nil)
		if err != nil {
			t.Fatal(err)
		}
		p := h.policy()
		if err := attest.VerifyKey(e, p); !errors.Is(err, attest.ErrAK) {
			t.Errorf("%+v taken for the default one: %v", k, err)
		}
		p.AK = ak.Name()
		if err := attest.VerifyKey(e, p); err != nil {
			t.Errorf("%+v: %v", k, err)
		}
	}
}

func TestEvidenceOfAKeyThatIsRefused(t *testing.T) {
	t.Parallel()
	h, other := newHost(t), newHost(t)
	free, auth := h.free(t)
	bound, digest := h.bound(t)
	second, _ := h.bound(t)
	software, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	imported, err := h.ImportKey(t.Context(), software, provider.Template{Use: provider.Use{Sign: true}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	importedBound, err := h.ImportKey(t.Context(), software, provider.Template{Use: provider.Use{Sign: true}, AuthPolicy: digest}, nil)
	if err != nil {
		t.Fatal(err)
	}
	pcrs := provider.Bank{Hash: tpm2.TPMAlgSHA256, PCRs: []uint{0, 7}}
	certified, audited := h.evidence(t, free, auth, pcrs), h.evidence(t, bound, provider.Auth{}, pcrs)
	auditedSecond := h.evidence(t, second, provider.Auth{})
	elsewhereKey, _ := other.bound(t)
	elsewhere := other.evidence(t, elsewhereKey, provider.Auth{})
	zeros := func(indices ...uint) []provider.PCRValues {
		values := map[uint][]byte{}
		for _, i := range indices {
			values[i] = make([]byte, 32)
		}
		return []provider.PCRValues{{Hash: tpm2.TPMAlgSHA256, Values: values}}
	}
	flipped := func(b []byte, fromEnd int) []byte {
		b = bytes.Clone(b)
		b[len(b)-1-fromEnd] ^= 1
		return b
	}
	type change func(*provider.Evidence, *attest.KeyPolicy)
	for name, c := range map[string]struct {
		change change
		want   error
	}{
		"another nonce": {func(e *provider.Evidence, p *attest.KeyPolicy) { p.Nonce = []byte("another") }, attest.ErrNonce},
		"another AK":    {func(e *provider.Evidence, p *attest.KeyPolicy) { p.AK = other.ak }, attest.ErrAK},
		"another TPM's": {func(e *provider.Evidence, p *attest.KeyPolicy) { *e = elsewhere }, attest.ErrAK},
		"another TPM's statement": {func(e *provider.Evidence, p *attest.KeyPolicy) {
			e.Certify, e.Audit = elsewhere.Certify, elsewhere.Audit
			e.Parent = elsewhere.Parent
		}, attest.ErrSignature},
		"another key":        {func(e *provider.Evidence, p *attest.KeyPolicy) { e.Key = second.Public }, attest.ErrKey},
		"another public key": {func(e *provider.Evidence, p *attest.KeyPolicy) { p.PublicKey = subjectPublicKeyInfo(t, second) }, attest.ErrPublicKey},
		"another policy":     {func(e *provider.Evidence, p *attest.KeyPolicy) { p.AuthPolicy = make([]byte, 32) }, attest.ErrAuthPolicy},
		"another hierarchy":  {func(e *provider.Evidence, p *attest.KeyPolicy) { e.AKHierarchy = tpm2.TPMRHOwner }, attest.ErrStatement},
		"the null hierarchy": {func(e *provider.Evidence, p *attest.KeyPolicy) { e.AKHierarchy = tpm2.TPMRHNull }, attest.ErrAK},
		"no statement": {func(e *provider.Evidence, p *attest.KeyPolicy) {
			e.Certify, e.Audit = provider.Statement{}, provider.Statement{}
		}, attest.ErrMalformed},
		"both statements":         {func(e *provider.Evidence, p *attest.KeyPolicy) { e.Certify, e.Audit = certified.Certify, audited.Audit }, attest.ErrMalformed},
		"a quote for a statement": {func(e *provider.Evidence, p *attest.KeyPolicy) { e.Certify, e.Audit = e.Quote, provider.Statement{} }, attest.ErrStatement},
		"a quote for an audit": {func(e *provider.Evidence, p *attest.KeyPolicy) {
			e.Certify, e.Audit, e.Parent = provider.Statement{}, e.Quote, audited.Parent
		}, attest.ErrStatement},
		"no quote": {func(e *provider.Evidence, p *attest.KeyPolicy) {
			e.Quote, e.PCRs = provider.Statement{}, nil
			p.PCRs = zeros(7)
		}, attest.ErrPCR},
		"values without a quote":  {func(e *provider.Evidence, p *attest.KeyPolicy) { e.Quote = provider.Statement{} }, attest.ErrMalformed},
		"a statement for a quote": {func(e *provider.Evidence, p *attest.KeyPolicy) { e.Quote = certified.Certify }, attest.ErrStatement},
		"another PCR value":       {func(e *provider.Evidence, p *attest.KeyPolicy) { p.PCRs = zeros(0, 7); p.PCRs[0].Values[7][0] = 1 }, attest.ErrPCR},
		"fewer PCRs":              {func(e *provider.Evidence, p *attest.KeyPolicy) { p.PCRs = zeros(0, 7, 8) }, attest.ErrPCR},
		"more PCRs":               {func(e *provider.Evidence, p *attest.KeyPolicy) { p.PCRs = zeros(7) }, attest.ErrPCR},
		"no PCRs wanted":          {func(e *provider.Evidence, p *attest.KeyPolicy) { p.PCRs = []provider.PCRValues{} }, attest.ErrPCR},
		"values of others":        {func(e *provider.Evidence, p *attest.KeyPolicy) { e.PCRs = zeros(0, 8) }, attest.ErrPCR},
		"values of more":          {func(e *provider.Evidence, p *attest.KeyPolicy) { e.PCRs = zeros(0, 7, 8) }, attest.ErrPCR},
		"values of another bank": {func(e *provider.Evidence, p *attest.KeyPolicy) {
			e.PCRs = []provider.PCRValues{{Hash: tpm2.TPMAlgSHA384, Values: map[uint][]byte{0: make([]byte, 48), 7: make([]byte, 48)}}}
		}, attest.ErrPCR},
		"values that were changed": {func(e *provider.Evidence, p *attest.KeyPolicy) { e.PCRs = zeros(0, 7); e.PCRs[0].Values[0][0] = 1 }, attest.ErrPCR},
		"values cut elsewhere": {func(e *provider.Evidence, p *attest.KeyPolicy) {
			e.PCRs = []provider.PCRValues{{Hash: tpm2.TPMAlgSHA256, Values: map[uint][]byte{0: make([]byte, 31), 7: make([]byte, 33)}}}
		}, attest.ErrMalformed},
		"an AK that is none": {func(e *provider.Evidence, p *attest.KeyPolicy) { e.AK = free.Public; p.AK = free.Public.Name() }, attest.ErrAK},
		"no AK":              {func(e *provider.Evidence, p *attest.KeyPolicy) { e.AK = provider.Public{} }, attest.ErrMalformed},
		"no key":             {func(e *provider.Evidence, p *attest.KeyPolicy) { e.Key = provider.Public{} }, attest.ErrMalformed},
		"flipped bits of a statement": {func(e *provider.Evidence, p *attest.KeyPolicy) {
			if len(e.Audit.Attest) > 0 {
				e.Audit.Attest = flipped(e.Audit.Attest, 3)
			} else {
				e.Certify.Attest = flipped(e.Certify.Attest, 3)
			}
		}, attest.ErrSignature},
		"flipped bits of a quote":     {func(e *provider.Evidence, p *attest.KeyPolicy) { e.Quote.Attest = flipped(e.Quote.Attest, 3) }, attest.ErrSignature},
		"flipped bits of a signature": {func(e *provider.Evidence, p *attest.KeyPolicy) { e.Quote.Signature = flipped(e.Quote.Signature, 3) }, attest.ErrSignature},
		"a signature cut short":       {func(e *provider.Evidence, p *attest.KeyPolicy) { e.Quote.Signature = e.Quote.Signature[:20] }, attest.ErrMalformed},
	} {
		for kind, good := range map[string]provider.Evidence{"certified": certified, "audited": audited} {
			e, p := good, h.policy()
			e.PCRs = zeros(0, 7)
			if err := attest.VerifyKey(e, p); err != nil {
				t.Fatalf("%s, unchanged: %v", kind, err)
			}
			c.change(&e, &p)
			if err := attest.VerifyKey(e, p); !errors.Is(err, c.want) {
				t.Errorf("%s, %s: %v", kind, name, err)
			}
		}
	}
	for name, c := range map[string]struct {
		e    provider.Evidence
		want error
	}{
		"an imported key":               {h.evidence(t, imported, provider.Auth{}), attest.ErrKey},
		"an imported key with a policy": {h.evidence(t, importedBound, provider.Auth{}), attest.ErrKey},
		"a parent that is none":         {func() provider.Evidence { e := audited; e.Parent = second.Public; return e }(), attest.ErrKey},
		"no parent":                     {func() provider.Evidence { e := audited; e.Parent = provider.Public{}; return e }(), attest.ErrMalformed},
		"another key's audit":           {func() provider.Evidence { e := audited; e.Audit = auditedSecond.Audit; return e }(), attest.ErrKey},
	} {
		if err := attest.VerifyKey(c.e, h.policy()); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, p := range []attest.KeyPolicy{{}, {AK: h.ak}, {Nonce: freshNonce}} {
		if attest.VerifyKey(certified, p) == nil {
			t.Errorf("verified without a trusted AK or a nonce: %+v", p)
		}
	}
	for _, nonce := range [][]byte{nil, make([]byte, 33)} {
		if _, err := h.AttestKey(t.Context(), provider.AttestationKey{}, bound, provider.Auth{}, nonce, nil); !errors.Is(err, provider.ErrUnsupported) {
			t.Errorf("a nonce of %d bytes: %v", len(nonce), err)
		}
	}
}

// Everybody can show a TPM the public half of a key that claims to be fixed to it, and the TPM then reads it back in an
// audit session like one of its own.
func TestAKeyThatWasOnlyShownToTheTPMIsRefused(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	resident, _ := h.bound(t)
	e := h.evidence(t, resident, provider.Auth{})
	h.Release()

	software, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point, err := software.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	area := resident.Public.Area()
	area.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
		X: tpm2.TPM2BECCParameter{Buffer: point[1:33]}, Y: tpm2.TPM2BECCParameter{Buffer: point[33:]},
	})
	d, err := transport.Parse(h.machine.Address())
	if err != nil {
		t.Fatal(err)
	}
	conn, err := d.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	tpm := sender{conn}
	flush := func(handle tpm2.TPMHandle) {
		if _, err := (tpm2.FlushContext{FlushHandle: handle}).Execute(tpm); err != nil {
			t.Error(err)
		}
	}
	shown, err := tpm2.LoadExternal{InPublic: tpm2.New2B(area), Hierarchy: tpm2.TPMRHOwner}.Execute(tpm)
	if err != nil {
		t.Fatal(err)
	}
	defer flush(shown.ObjectHandle)
	template := e.AK.Area()
	template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{})
	ak, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHEndorsement, InPublic: tpm2.New2B(template)}.Execute(tpm)
	if err != nil {
		t.Fatal(err)
	}
	defer flush(ak.ObjectHandle)
	audit, end, err := tpm2.HMACSession(tpm, tpm2.TPMAlgSHA256, 16, tpm2.Audit())
	if err != nil {
		t.Fatal(err)
	}
	defer end()
	read, err := tpm2.ReadPublic{ObjectHandle: tpm2.NamedHandle{Handle: shown.ObjectHandle, Name: shown.Name}}.Execute(tpm, audit)
	if err != nil {
		t.Fatal(err)
	}
	r, err := tpm2.GetSessionAuditDigest{
		PrivacyAdminHandle: tpm2.TPMRHEndorsement,
		SignHandle:         tpm2.NamedHandle{Handle: ak.ObjectHandle, Name: ak.Name},
		SessionHandle:      audit.Handle(),
		QualifyingData:     tpm2.TPM2BData{Buffer: freshNonce},
	}.Execute(tpm)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(ak.Name.Buffer, h.ak) {
		t.Fatal("the attestation key is another one")
	}
	forged := e
	if forged.Key, err = provider.ParsePublic(tpm2.Marshal(area)); err != nil {
		t.Fatal(err)
	}
	stated, err := r.AuditInfo.Contents()
	if err != nil {
		t.Fatal(err)
	}
	info, err := stated.Attested.SessionAudit()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(info.SessionDigest.Buffer, attest.AuditDigest(forged.Key, read.QualifiedName.Buffer)) {
		t.Fatal("the TPM did not read the forged key: this proves nothing")
	}
	forged.Audit = provider.Statement{Attest: r.AuditInfo.Bytes(), Signature: tpm2.Marshal(r.Signature)}
	if err := attest.VerifyKey(forged, h.policy()); !errors.Is(err, attest.ErrKey) {
		t.Errorf("%v", err)
	}
}

// sender lets go-tpm's own commands use a connection.
type sender struct{ transport.Conn }

func (s sender) Send(command []byte) ([]byte, error) {
	return s.Transmit(context.Background(), command)
}

func TestACredentialProvesThatAKAndEKAreInOneTPM(t *testing.T) {
	t.Parallel()
	h, other := newHost(t), newHost(t)
	ak, err := h.AttestationKey(t.Context(), provider.AttestationKey{})
	if err != nil {
		t.Fatal(err)
	}
	proof := sha256.Sum256([]byte("a secret"))
	for _, kind := range []provider.KeyType{provider.RSA2048, provider.P256} {
		ek, err := h.EndorsementKey(t.Context(), kind)
		if err != nil {
			t.Fatal(err)
		}
		credential, encrypted, err := attest.MakeCredential(ek.Public, ak, proof[:])
		if err != nil {
			t.Fatal(err)
		}
		got, err := h.ActivateCredential(t.Context(), provider.AttestationKey{}, kind, credential, encrypted)
		if err != nil || !bytes.Equal(got, proof[:]) {
			t.Errorf("%s: %x, %v", kind, got, err)
		}
		if _, err := h.ActivateCredential(t.Context(), provider.AttestationKey{Hierarchy: tpm2.TPMRHOwner}, kind, credential, encrypted); err == nil {
			t.Errorf("%s: another AK opened it", kind)
		}
		if _, err := other.ActivateCredential(t.Context(), provider.AttestationKey{}, kind, credential, encrypted); err == nil {
			t.Errorf("%s: another TPM opened it", kind)
		}
	}
	ek, err := h.EndorsementKey(t.Context(), provider.P256)
	if err != nil {
		t.Fatal(err)
	}
	free, _ := h.free(t)
	if _, _, err := attest.MakeCredential(ek.Public, free.Public, proof[:]); !errors.Is(err, attest.ErrAK) {
		t.Errorf("for a key that signs what it pleases: %v", err)
	}
	if _, _, err := attest.MakeCredential(free.Public, ak, proof[:]); !errors.Is(err, attest.ErrMalformed) {
		t.Errorf("to a key that is no EK: %v", err)
	}
	for _, n := range []int{0, 33} {
		if _, _, err := attest.MakeCredential(ek.Public, ak, make([]byte, n)); !errors.Is(err, attest.ErrTooLarge) {
			t.Errorf("a secret of %d bytes: %v", n, err)
		}
	}
}

// What a credential proves by is seen by nobody between, and the endorsement hierarchy's authorisation is given where it has one.
func TestACredentialIsOpenedUnseen(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	srk, err := h.ProvisionSRK(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	h.Release()
	d, err := transport.Parse(h.machine.Address())
	if err != nil {
		t.Fatal(err)
	}
	conn, err := d.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (tpm2.HierarchyChangeAuth{AuthHandle: tpm2.TPMRHEndorsement, NewAuth: tpm2.TPM2BAuth{Buffer: []byte("privacy's")}}).Execute(sender{conn}); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	wire := wiretap.New(d)
	tpm := provider.New(wire, provider.WithEndorsementAuth(secret.From([]byte("privacy's"))))
	t.Cleanup(func() { tpm.Close() })
	tpm.UseSRK(srk)
	ak, err := tpm.AttestationKey(t.Context(), provider.AttestationKey{})
	if err != nil {
		t.Fatal(err)
	}
	proof := sha256.Sum256([]byte("a secret"))
	for _, kind := range []provider.KeyType{provider.RSA2048, provider.P256} {
		ek, err := tpm.EndorsementKey(t.Context(), kind)
		if err != nil {
			t.Fatal(err)
		}
		credential, encrypted, err := attest.MakeCredential(ek.Public, ak, proof[:])
		if err != nil {
			t.Fatal(err)
		}
		got, err := tpm.ActivateCredential(t.Context(), provider.AttestationKey{}, kind, credential, encrypted)
		if err != nil || !bytes.Equal(got, proof[:]) {
			t.Errorf("%s: %x, %v", kind, got, err)
		}
		tpm.Release()
		if _, err := h.ActivateCredential(t.Context(), provider.AttestationKey{}, kind, credential, encrypted); !errors.Is(err, provider.ErrHierarchyAuth) {
			t.Errorf("%s, without the authorisation: %v", kind, err)
		}
		h.Release()
	}
	if wire.Saw(proof[:]) || wire.Saw([]byte("privacy's")) {
		t.Error("a secret went over the wire")
	}
}

func TestTheManufacturersCertificateIsReadFromNV(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.Release()
	certificate := newAuthority(t).Root().Raw
	d, err := transport.Parse(h.machine.Address())
	if err != nil {
		t.Fatal(err)
	}
	for index, attributes := range map[tpm2.TPMHandle]tpm2.TPMANV{
		0x01C00002: {OwnerWrite: true, AuthRead: true, NoDA: true},
		0x01C0000A: {OwnerWrite: true, OwnerRead: true, NoDA: true},
	} {
		conn, err := d.Dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		area := tpm2.TPMSNVPublic{NVIndex: index, NameAlg: tpm2.TPMAlgSHA256, Attributes: attributes, DataSize: uint16(len(certificate) + 40)}
		if _, err := (tpm2.NVDefineSpace{AuthHandle: tpm2.TPMRHOwner, PublicInfo: tpm2.New2B(area)}).Execute(sender{conn}); err != nil {
			t.Fatal(err)
		}
		public, err := tpm2.NVReadPublic{NVIndex: index}.Execute(sender{conn})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := (tpm2.NVWrite{
			AuthHandle: tpm2.TPMRHOwner,
			NVIndex:    tpm2.NamedHandle{Handle: index, Name: public.NVName},
			Data:       tpm2.TPM2BMaxNVBuffer{Buffer: append(bytes.Clone(certificate), make([]byte, 40)...)},
		}).Execute(sender{conn}); err != nil {
			t.Fatal(err)
		}
		conn.Close()
	}
	for _, kind := range []provider.KeyType{provider.RSA2048, provider.P256} {
		ek, err := h.EndorsementKey(t.Context(), kind)
		if err != nil || !bytes.Equal(ek.Certificate, certificate) {
			t.Errorf("%s: %v, %d bytes of certificate", kind, err, len(ek.Certificate))
		}
	}
}
