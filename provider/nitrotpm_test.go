package provider_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/internal/faulttpm"
	"github.com/tpm2-p11/tpm2-p11/internal/nitrosim/simtest"
	"github.com/tpm2-p11/tpm2-p11/internal/wiretap"
	"github.com/tpm2-p11/tpm2-p11/provider"
	"github.com/tpm2-p11/tpm2-p11/provider/transport"
)

const nsmRequest tpm2.TPMCC = 0x20000001

// instance is an attestable machine with a tapped wire to its TPM.
type instance struct {
	*provider.TPM
	sim  *simtest.Sim
	wire *wiretap.Dialer
}

func newInstance(t *testing.T, flags []string, opts ...provider.Option) *instance {
	t.Helper()
	i := &instance{sim: simtest.Start(t, flags...)}
	i.wire = wiretap.New(dialer(t, i.sim.Address()))
	i.TPM = provider.New(i.wire, opts...)
	t.Cleanup(func() {
		i.wire.Inject(nil)
		i.Close()
	})
	return i
}

func dialer(t *testing.T, address string) transport.Dialer {
	t.Helper()
	d, err := transport.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// nsmMessage is the CBOR of {"Attestation": {"nonce": bytes}}.
func nsmMessage(nonce []byte) []byte {
	b := []byte("\xa1\x6bAttestation\xa1\x65nonce\x58")
	return append(append(b, byte(len(nonce))), nonce...)
}

func (i *instance) request(ctx context.Context) ([]byte, error) {
	return i.NSMRequest(ctx, nsmMessage([]byte("a nonce")), func(b []byte) bool { return len(b) >= 5120 })
}

// indices lists the NV indices of the owner.
func (i *instance) indices(t *testing.T) (found []tpm2.TPMHandle) {
	t.Helper()
	conn, err := dialer(t, i.sim.Device()).Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	r, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: 0x01000000, PropertyCount: 64}.Execute(goTPM{conn})
	if err != nil {
		t.Fatal(err)
	}
	handles, err := r.CapabilityData.Data.Handles()
	if err != nil {
		t.Fatal(err)
	}
	return handles.Handle
}

// clean makes sure that a request left nothing in the TPM.
func (i *instance) clean(t *testing.T, when string) {
	t.Helper()
	if left := i.indices(t); len(left) != 0 {
		t.Errorf("%s: NV indices %x are left", when, left)
	}
	i.wire.Inject(nil)
	i.Release()
	// The emulator takes a moment to see that a client left.
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		s := i.sim.Stats(t)
		if s.Sessions == 0 && s.Objects == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %d sessions and %d objects are left", when, s.Sessions, s.Objects)
		}
	}
}

func TestTheNSMRequestsHashIsTheKnownOne(t *testing.T) {
	t.Parallel()
	name := make(provider.Name, 68)
	for i := range name {
		name[i] = byte(i)
	}
	const want = "c3869a4e945d90e6688365a59e14d2c5ab3d2b4579261a4a4377fe918d5d350933284223b6a569e384124d2bceb2173dac7a4171181efed7a5697d862174f9dc"
	if got := hex.EncodeToString(provider.CpHash(name)); got != want {
		t.Errorf("cpHash %s, want %s", got, want)
	}
}

func TestANitroTPMAnswersInFewCommandsAndNothingIsLeft(t *testing.T) {
	t.Parallel()
	i := newInstance(t, nil)
	answer, err := i.request(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(answer, []byte("Attestation")) || !bytes.Contains(answer, []byte("a nonce")) {
		t.Errorf("the answer is %.80q", answer)
	}
	reads := i.wire.Count(tpm2.TPMCCNVRead)
	if n := len(i.wire.Codes()) - reads; n > 12 || i.wire.Dials() != 1 {
		t.Errorf("%d commands besides reads, over %d connections: %x", n, i.wire.Dials(), i.wire.Codes())
	}
	if reads != 5 {
		t.Errorf("%d reads for 5120 bytes: reading must end with the answer", reads)
	}
	for _, e := range i.wire.Exchanges() {
		if e.Code() != nsmRequest {
			continue
		}
		if nv := e.Command[10:18]; !bytes.Equal(nv, []byte{1, 0, 0, 0, 1, 0, 0, 0}) {
			t.Errorf("handle area %x", nv)
		}
		// Header, two handles, the size of one authorization, and nothing after that.
		if size := int(e.Command[20])<<8 | int(e.Command[21]); len(e.Command) != 22+size {
			t.Errorf("%d bytes of command, %d of authorization", len(e.Command), size)
		}
	}
	i.clean(t, "at the end")

	long, err := i.NSMRequest(t.Context(), nsmMessage(bytes.Repeat([]byte{7}, 255)), func(b []byte) bool { return len(b) >= 5000 })
	if err != nil || !bytes.Contains(long, bytes.Repeat([]byte{7}, 255)) {
		t.Errorf("a longer one: %v", err)
	}
}

func TestARequestInSeveralPartsIsWrittenWhole(t *testing.T) {
	t.Parallel()
	i := newInstance(t, nil)
	key := bytes.Repeat([]byte{9}, 1024)
	b := []byte("\xa1\x6bAttestation\xa3\x69user_data\x59\x02\x00")
	b = append(append(b, bytes.Repeat([]byte{1}, 512)...), "\x65nonce\x59\x02\x00"...)
	b = append(append(b, bytes.Repeat([]byte{2}, 512)...), "\x6apublic_key\x59\x04\x00"...)
	b = append(b, key...)
	answer, err := i.NSMRequest(t.Context(), b, func(b []byte) bool { return len(b) >= 7168 })
	if err != nil || !bytes.Contains(answer, key) {
		t.Fatalf("%v", err)
	}
	if n := len(i.wire.Codes()) - i.wire.Count(tpm2.TPMCCNVRead); n > 12 || i.wire.Count(tpm2.TPMCCNVWrite) != 3 {
		t.Errorf("%d commands besides reads, %d writes", n, i.wire.Count(tpm2.TPMCCNVWrite))
	}
}

func TestTheIndexGoesWhateverHappens(t *testing.T) {
	t.Parallel()
	i := newInstance(t, nil)
	if _, err := i.request(t.Context()); err != nil {
		t.Fatal(err)
	}
	commands := len(i.wire.Codes())
	for name, disturb := range map[string]func(cancel func(), send func() ([]byte, error)) ([]byte, error){
		"cancelled":              func(cancel func(), send func() ([]byte, error)) ([]byte, error) { cancel(); return send() },
		"refused":                func(func(), func() ([]byte, error)) ([]byte, error) { return faulttpm.ResponseCode(0x101), nil },
		"lost before it arrives": func(func(), func() ([]byte, error)) ([]byte, error) { return nil, errors.New("lost") },
		"lost after it": func(_ func(), send func() ([]byte, error)) ([]byte, error) {
			_, err := send()
			return nil, errors.Join(errors.New("lost"), err)
		},
		"tampered with": func(_ func(), send func() ([]byte, error)) ([]byte, error) {
			r, err := send()
			if err == nil && len(r) > 10 {
				r = bytes.Clone(r)
				r[len(r)-1] ^= 1
			}
			return r, err
		},
	} {
		for at := range commands {
			ctx, cancel := context.WithCancel(t.Context())
			n := 0
			i.wire.Inject(func(_ context.Context, _ []byte, send func() ([]byte, error)) ([]byte, error) {
				if n++; n-1 != at {
					return send()
				}
				return disturb(cancel, send)
			})
			_, err := i.request(ctx)
			cancel()
			if (name == "cancelled" && at < commands-2) != errors.Is(err, context.Canceled) {
				t.Errorf("command %d %s: %v", at, name, err)
			}
			i.clean(t, name)
		}
	}
	if _, err := i.request(t.Context()); err != nil {
		t.Errorf("after all that: %v", err)
	}
}

func TestAnAnswerThatWasTamperedWithIsRefused(t *testing.T) {
	t.Parallel()
	i := newInstance(t, nil)
	for _, code := range []tpm2.TPMCC{nsmRequest, tpm2.TPMCCNVRead, tpm2.TPMCCNVWrite, tpm2.TPMCCNVReadPublic} {
		i.wire.Inject(at(code, -1, faulttpm.Flip(0)))
		if _, err := i.request(t.Context()); !errors.Is(err, provider.ErrIntegrity) {
			t.Errorf("%x: %v", code, err)
		}
		i.clean(t, "tampered with")
	}
}

func TestAHandleThatOthersTookMeanwhileIsPassedOver(t *testing.T) {
	t.Parallel()
	i := newInstance(t, nil)
	i.wire.Inject(at(tpm2.TPMCCNVDefineSpace, 3, faulttpm.Answer(0x14C)))
	if _, err := i.request(t.Context()); err != nil {
		t.Error(err)
	}
	i.clean(t, "at the end")
}

func TestTheIndexIsTheOwnersToDefine(t *testing.T) {
	t.Parallel()
	i := newInstance(t, nil)
	conn, err := dialer(t, i.sim.Device()).Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := (tpm2.HierarchyChangeAuth{AuthHandle: tpm2.TPMRHOwner, NewAuth: tpm2.TPM2BAuth{Buffer: []byte("owner's word")}}).Execute(goTPM{conn}); err != nil {
		t.Fatal(err)
	}
	if _, err := i.request(t.Context()); !errors.Is(err, provider.ErrHierarchyAuth) {
		t.Errorf("without the owner's authorisation: %v", err)
	}
	i.clean(t, "refused")
	wire := wiretap.New(dialer(t, i.sim.Address()))
	owner := provider.New(wire, provider.WithOwnerAuth(pin("owner's word")))
	defer owner.Close()
	if _, err := owner.NSMRequest(t.Context(), nsmMessage(nil), func(b []byte) bool { return true }); err != nil {
		t.Errorf("with it: %v", err)
	}
	if wire.Saw([]byte("owner's word")) {
		t.Error("the owner's authorisation went over the wire")
	}
	i.clean(t, "at the end")
}

func TestPastAResourceManagerThatRefusesTheCommand(t *testing.T) {
	t.Parallel()
	i := newInstance(t, []string{"--rm-refuses"})
	_, err := i.request(t.Context())
	if !errors.Is(err, provider.ErrUnsupported) || !strings.Contains(err.Error(), "NitroTPM") || !strings.Contains(err.Error(), "0xB0143") {
		t.Errorf("without another way: %v", err)
	}
	i.clean(t, "refused")

	direct := wiretap.New(dialer(t, i.sim.Device()))
	wire := wiretap.New(dialer(t, i.sim.Address()))
	tpm := provider.New(wire, provider.WithDirect(direct))
	defer tpm.Close()
	for n := 1; n <= 2; n++ {
		answer, err := tpm.NSMRequest(t.Context(), nsmMessage([]byte("again")), func(b []byte) bool { return len(b) >= 5120 })
		if err != nil || !bytes.Contains(answer, []byte("again")) {
			t.Fatalf("past it: %v", err)
		}
		if wire.Count(nsmRequest) != 1 || direct.Count(nsmRequest) != n {
			t.Errorf("%d tries through the resource manager, %d past it", wire.Count(nsmRequest), direct.Count(nsmRequest))
		}
	}
	tpm.Close()
	i.clean(t, "at the end")
}

func TestAnotherTPMIsNoNitroTPM(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	_, err := b.NSMRequest(t.Context(), nsmMessage(nil), func([]byte) bool { return true })
	if !errors.Is(err, provider.ErrUnsupported) || !strings.Contains(err.Error(), "it is not an AWS NitroTPM") {
		t.Errorf("%v", err)
	}
	if b.wire.Count(tpm2.TPMCCNVDefineSpace) != 0 {
		t.Error("something was changed in it")
	}
	for _, size := range []int{0, provider.MaxNSMMessage + 1} {
		b.wire.Reset()
		if _, err := b.NSMRequest(t.Context(), make([]byte, size), nil); err == nil || len(b.wire.Exchanges()) != 0 {
			t.Errorf("a request of %d bytes: %v", size, err)
		}
	}
}

func TestTheDeviceBehindAResourceManager(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]string{
		"device:/dev/tpmrm0":     "device:/dev/tpm0",
		"device:/dev/tpmrm12":    "device:/dev/tpm12",
		"device:/dev/tpm0":       "",
		"device:/tmp/tpmrm0":     "",
		"swtpm:path=/dev/tpmrm0": "",
	} {
		if got := provider.DirectAddress(provider.New(dialer(t, address))); got != want {
			t.Errorf("%s: %q, want %q", address, got, want)
		}
	}
}

func TestAnEndorsementHierarchyThatIsClosed(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	o := b.key(t, signKey, "")
	b.hierarchyAuth(t, tpm2.TPMRHEndorsement, "somebody's word")
	if _, err := b.EndorsementKey(t.Context(), provider.P256); !errors.Is(err, provider.ErrHierarchyAuth) || !strings.Contains(err.Error(), "endorsement hierarchy") {
		t.Errorf("the endorsement key: %v", err)
	}
	if _, err := b.AttestKey(t.Context(), provider.AttestationKey{}, o, provider.Auth{}, []byte("nonce"), nil); !errors.Is(err, provider.ErrHierarchyAuth) {
		t.Errorf("an attestation key under it: %v", err)
	}
	owners := provider.AttestationKey{Hierarchy: tpm2.TPMRHOwner}
	if _, err := b.AttestKey(t.Context(), owners, o, provider.Auth{}, []byte("nonce"), nil); err != nil {
		t.Errorf("an attestation key of the owner's: %v", err)
	}
}
