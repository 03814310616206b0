package attest_test

import (
	"bytes"
	"crypto/x509"
	"errors"
	"sync"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/attest"
	"github.com/tpm2-p11/tpm2-p11/internal/nitrosim/simtest"
	"github.com/tpm2-p11/tpm2-p11/internal/tpmtest"
	"github.com/tpm2-p11/tpm2-p11/provider"
	"github.com/tpm2-p11/tpm2-p11/provider/transport"
)

func openTPM(t testing.TB, address string) *provider.TPM {
	t.Helper()
	d, err := transport.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	tpm := provider.New(d)
	t.Cleanup(func() { tpm.Close() })
	return tpm
}

func TestADocumentOfThisMachineVerifies(t *testing.T) {
	t.Parallel()
	sim := simtest.Start(t)
	tpm := openTPM(t, sim.Address())
	values, err := tpm.ReadPCRs(t.Context(), tpm2.TPMAlgSHA384, []uint{4, 7, 12})
	if err != nil {
		t.Fatal(err)
	}
	p := attest.Policy{Roots: []*x509.Certificate{sim.Root(t)}, PCRs: map[int][]byte{4: values[4], 7: values[7], 12: values[12]}}
	full := attest.Request{PublicKey: bytes.Repeat([]byte{1}, 1024), UserData: bytes.Repeat([]byte{2}, 512), Nonce: bytes.Repeat([]byte{3}, 512)}
	for name, r := range map[string]attest.Request{
		"with nothing":    {},
		"with a nonce":    {Nonce: []byte("a nonce")},
		"with everything": full,
	} {
		document, err := attest.Document(t.Context(), tpm, r)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		p := p
		p.Nonce, p.UserData, p.PublicKey = r.Nonce, r.UserData, r.PublicKey
		c, err := attest.Verify(document, p)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !bytes.Equal(c.Nonce, r.Nonce) || !bytes.Equal(c.UserData, r.UserData) || !bytes.Equal(c.PublicKey, r.PublicKey) {
			t.Errorf("%s: it states %x, %x, %x", name, c.Nonce, c.UserData, c.PublicKey)
		}
	}

	sim.Extend(t, "sha384", 12, []byte("another command line"))
	document, err := attest.Document(t.Context(), tpm, attest.Request{})
	if err != nil {
		t.Fatal(err)
	}
	var refused *attest.PCRError
	if _, err := attest.Verify(document, p); !errors.As(err, &refused) || refused.PCR != 12 {
		t.Errorf("after PCR 12 changed: %v", err)
	}
}

func TestDocumentsForManyAtOnce(t *testing.T) {
	t.Parallel()
	sim := simtest.Start(t)
	root := []*x509.Certificate{sim.Root(t)}
	var all sync.WaitGroup
	for i := range 3 {
		tpm := openTPM(t, sim.Address())
		for range 2 {
			all.Go(func() {
				nonce := []byte{byte(i)}
				document, err := attest.Document(t.Context(), tpm, attest.Request{Nonce: nonce})
				if err == nil {
					_, err = attest.Verify(document, attest.Policy{Roots: root, Nonce: nonce})
				}
				if err != nil {
					t.Error(err)
				}
			})
		}
	}
	all.Wait()
}

func TestWhatIsTooLargeIsNotSent(t *testing.T) {
	t.Parallel()
	tpm := openTPM(t, "device:/dev/null/absent")
	for _, r := range []attest.Request{
		{PublicKey: make([]byte, 1025)}, {UserData: make([]byte, 513)}, {Nonce: make([]byte, 513)},
	} {
		if _, err := attest.Document(t.Context(), tpm, r); !errors.Is(err, attest.ErrTooLarge) {
			t.Errorf("%v", err)
		}
	}
}

func TestOnlyANitroTPMGivesDocuments(t *testing.T) {
	t.Parallel()
	tpm := openTPM(t, tpmtest.Start(t).Address())
	defer tpm.Close()
	if _, err := attest.Document(t.Context(), tpm, attest.Request{}); !errors.Is(err, provider.ErrUnsupported) {
		t.Errorf("%v", err)
	}
}
