package provider_test

import (
	"context"
	"crypto"
	"crypto/sha256"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/internal/secret"
	"github.com/tpm2-p11/tpm2-p11/internal/tpmtest"
	"github.com/tpm2-p11/tpm2-p11/internal/wiretap"
	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/provider"
	"github.com/tpm2-p11/tpm2-p11/provider/transport"
)

// bench is a test's own TPM with a tapped wire to it.
type bench struct {
	*provider.TPM
	machine *tpmtest.TPM
	wire    *wiretap.Dialer
	srk     provider.SRK
}

// newBench starts a TPM that was not used yet.
func newBench(t *testing.T, opts ...provider.Option) *bench {
	t.Helper()
	b := &bench{machine: tpmtest.Start(t)}
	b.TPM, b.wire = b.client(t, opts...)
	return b
}

// newStore starts a TPM and provisions and pins its SRK, as a store does.
func newStore(t *testing.T, opts ...provider.Option) *bench {
	t.Helper()
	b := newBench(t, opts...)
	srk, err := b.ProvisionSRK(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b.srk = srk
	b.UseSRK(srk)
	return b
}

// client is another user of the same TPM.
func (b *bench) client(t *testing.T, opts ...provider.Option) (*provider.TPM, *wiretap.Dialer) {
	t.Helper()
	d, err := transport.Parse(b.machine.Address())
	if err != nil {
		t.Fatal(err)
	}
	wire := wiretap.New(d)
	tpm := provider.New(wire, opts...)
	t.Cleanup(func() {
		wire.Inject(nil)
		tpm.Close()
	})
	return tpm, wire
}

// extend changes a PCR from outside.
func (b *bench) extend(t *testing.T, pcr uint) {
	t.Helper()
	b.Release()
	b.machine.Extend(t, "sha256", pcr, []byte("an event"))
}

func (b *bench) key(t *testing.T, tmpl provider.Template, authValue string) provider.Object {
	t.Helper()
	o, err := b.CreateKey(t.Context(), tmpl, pin(authValue))
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// persisted makes a key persistent at the first handle for keys.
func (b *bench) persisted(t *testing.T, o provider.Object) provider.Object {
	t.Helper()
	h, err := b.FreeHandle(t.Context(), 0x81000100)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Persist(t.Context(), o, h); err != nil {
		t.Fatal(err)
	}
	o.Handle = h
	return o
}

// bound resolves a policy to the PCRs' values of now.
func (b *bench) bound(t *testing.T, nodes ...policy.Node) policy.Policy {
	t.Helper()
	p, err := policy.Policy{Root: policy.All(nodes)}.Resolve(b.PolicyState(t.Context()), true)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func digestOf(t *testing.T, p policy.Policy) []byte {
	t.Helper()
	d, err := p.Digest(tpm2.TPMAlgSHA256)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func currentPCRs(indices ...uint) policy.PCR {
	p := policy.PCR{Bank: tpm2.TPMAlgSHA256, Values: map[uint][]byte{}}
	for _, i := range indices {
		p.Values[i] = nil
	}
	return p
}

// trySign signs something with ECDSA.
func (b *bench) trySign(ctx context.Context, o provider.Object, a provider.Auth) error {
	digest := sha256.Sum256([]byte("a message"))
	_, err := b.Sign(ctx, o, a, provider.ECDSA, crypto.SHA256, digest[:])
	return err
}

func pin(s string) *secret.Bytes {
	if s == "" {
		return nil
	}
	return secret.From([]byte(s))
}

var signKey = provider.Template{Type: provider.P256, Use: provider.Use{Sign: true}}

// foreign runs commands of other tools, without this package, over the test's TPM.
func (b *bench) foreign(t *testing.T, work func(goTPM)) {
	t.Helper()
	b.Release()
	d, err := transport.Parse(b.machine.Address())
	if err != nil {
		t.Fatal(err)
	}
	conn, err := d.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	work(goTPM{conn})
}

// goTPM lets go-tpm's own commands use a connection.
type goTPM struct{ transport.Conn }

func (g goTPM) Send(command []byte) ([]byte, error) {
	return g.Transmit(context.Background(), command)
}

// hierarchyAuth sets a hierarchy's auth value.
func (b *bench) hierarchyAuth(t *testing.T, h tpm2.TPMHandle, value string) {
	t.Helper()
	b.foreign(t, func(g goTPM) {
		_, err := tpm2.HierarchyChangeAuth{AuthHandle: h, NewAuth: tpm2.TPM2BAuth{Buffer: []byte(value)}}.Execute(g)
		if err != nil {
			t.Fatal(err)
		}
	})
}
