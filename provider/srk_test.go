package provider_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// primary makes a primary storage key as another tool does, persists it at h, and gives its handle's Name.
func (b *bench) primary(t *testing.T, template tpm2.TPMTPublic, h provider.Handle) {
	t.Helper()
	b.foreign(t, func(g goTPM) {
		made, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(template)}.Execute(g)
		if err != nil {
			t.Fatal(err)
		}
		defer tpm2.FlushContext{FlushHandle: made.ObjectHandle}.Execute(g)
		_, err = tpm2.EvictControl{
			Auth:             tpm2.TPMRHOwner,
			ObjectHandle:     &tpm2.NamedHandle{Handle: made.ObjectHandle, Name: made.Name},
			PersistentHandle: h,
		}.Execute(g)
		if err != nil {
			t.Fatal(err)
		}
	})
}

func TestTheSRKIsMadeOnceAndFoundAgain(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	first, err := b.ProvisionSRK(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if first.Handle != 0x81000001 || first.Public.Describe() != "ECC P-256 storage key" || !first.Public.IsStorageKey() {
		t.Errorf("made %s at %x", first.Public.Describe(), first.Handle)
	}
	again, err := b.ProvisionSRK(t.Context())
	if err != nil || again.Handle != first.Handle || !bytes.Equal(again.Public.Name(), first.Public.Name()) {
		t.Errorf("found %v at %x, %v", again.Public.Name(), again.Handle, err)
	}
	if n := b.wire.Count(tpm2.TPMCCEvictControl); n != 1 {
		t.Errorf("%d times persisted", n)
	}
}

func TestForeignKeysMakeWayForNoSRK(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.primary(t, tpm2.RSASRKTemplate, 0x81000001)
	b.primary(t, tpm2.ECCSRKTemplate, 0x81000002) // the same parameters, another key
	srk, err := b.ProvisionSRK(t.Context())
	if err != nil || srk.Handle != 0x81000003 {
		t.Errorf("the SRK is at %x, %v", srk.Handle, err)
	}
}

// An SRK that is removed comes back where it was, which may be a handle that another tool chose, or to the first of ours that is free.
func TestAnSRKThatWasRemovedComesBack(t *testing.T) {
	t.Parallel()
	template := tpm2.ECCSRKTemplate
	template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{})
	for name, c := range map[string]struct {
		was, want provider.Handle
		taken     bool
	}{
		"ours":                    {0x81000001, 0x81000001, false},
		"another tool's":          {0x81010001, 0x81010001, false},
		"ours is taken":           {0x81000003, 0x81000001, true},
		"another tool's is taken": {0x81010001, 0x81000001, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			b.primary(t, template, c.was)
			lost, err := b.ProvisionSRK(t.Context())
			if err != nil || lost.Handle != c.was {
				t.Fatalf("the SRK is at %x, %v", lost.Handle, err)
			}
			if err := b.Evict(t.Context(), lost.Handle, lost.Public.Name()); err != nil {
				t.Fatal(err)
			}
			if c.taken {
				b.primary(t, tpm2.RSASRKTemplate, c.was)
			}
			srk, err := b.RestoreSRK(t.Context(), lost)
			if err != nil || srk.Handle != c.want || !bytes.Equal(srk.Public.Name(), lost.Public.Name()) {
				t.Errorf("it came back to %x, %v", srk.Handle, err)
			}
		})
	}
}

func TestObjectsOfUnknownKindsAreLeftAlone(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.foreign(t, func(g goTPM) {
		made, err := g.Send([]byte{ // TPM2_CreatePrimary of a Camellia key
			0x80, 0x02, 0, 0, 0, 59, 0, 0, 0x01, 0x31, 0x40, 0, 0, 0x01,
			0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 1, 0, 0,
			0, 4, 0, 0, 0, 0,
			0, 18, 0, 0x25, 0, 0x0B, 0, 6, 0, 0x72, 0, 0, 0, 0x26, 0, 128, 0, 0x43, 0, 0,
			0, 0, 0, 0, 0, 0,
		})
		if err != nil || len(made) < 14 || made[9] != 0 {
			t.Fatalf("% x, %v", made, err)
		}
		h := tpm2.TPMHandle(binary.BigEndian.Uint32(made[10:]))
		defer tpm2.FlushContext{FlushHandle: h}.Execute(g)
		if _, err := (tpm2.EvictControl{Auth: tpm2.TPMRHOwner, ObjectHandle: &tpm2.NamedHandle{Handle: h}, PersistentHandle: 0x81000001}).Execute(g); err != nil {
			t.Fatal(err)
		}
	})
	if _, err := b.ReadPublic(t.Context(), 0x81000001); !errors.Is(err, provider.ErrUnsupported) {
		t.Errorf("reading it: %v", err)
	}
	srk, err := b.ProvisionSRK(t.Context())
	if err != nil || srk.Handle != 0x81000002 {
		t.Fatalf("the SRK is at %x, %v", srk.Handle, err)
	}
	if err := b.Persist(t.Context(), b.key(t, signKey, ""), 0x81000001); !errors.Is(err, provider.ErrHandleTaken) {
		t.Errorf("a key in its place: %v", err)
	}
}

func TestWithoutAPersistentSRKATransientOneServes(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	key, err := b.CreateKey(t.Context(), signKey, pin("value"))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := b.trySign(t.Context(), key, provider.Auth{Value: pin("value")}); err != nil {
			t.Fatal(err)
		}
	}
	if handles, err := b.PersistentHandles(t.Context()); err != nil || len(handles) != 0 {
		t.Errorf("persistent handles %x, %v", handles, err)
	}
	srk, err := b.ProvisionSRK(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b.UseSRK(provider.SRK{Public: srk.Public}) // pinned, not persistent
	if err := b.trySign(t.Context(), key, provider.Auth{Value: pin("value")}); err != nil {
		t.Errorf("under a pinned transient SRK: %v", err)
	}
	b.UseSRK(srk)
	if err := b.trySign(t.Context(), key, provider.Auth{Value: pin("value")}); err != nil {
		t.Errorf("under the persistent one, which is the same key: %v", err)
	}
}

func TestAnotherSRKIsRefusedBeforeAnySecretIsSent(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	key := b.key(t, signKey, "value")
	if err := b.Evict(t.Context(), b.srk.Handle, b.srk.Public.Name()); err != nil {
		t.Fatal(err)
	}
	auth := provider.Auth{Value: pin("value")}

	client, wire := b.client(t)
	client.UseSRK(b.srk)
	b.Release()
	if _, err := client.CreateKey(t.Context(), signKey, pin("value")); !errors.Is(err, provider.ErrParentChanged) {
		t.Errorf("no SRK at its handle: %v", err)
	}
	client.Release()
	b.primary(t, tpm2.ECCSRKTemplate, b.srk.Handle)
	wire.Reset()
	_, err := client.CreateKey(t.Context(), signKey, pin("value"))
	if !errors.Is(err, provider.ErrParentChanged) || !strings.Contains(err.Error(), b.srk.Public.Name().String()) {
		t.Errorf("another key at the SRK's handle: %v", err)
	}
	if err := (&bench{TPM: client}).trySign(t.Context(), key, auth); !errors.Is(err, provider.ErrParentChanged) {
		t.Errorf("signing under another SRK: %v", err)
	}
	for _, code := range wire.Codes() {
		if code != tpm2.TPMCCReadPublic {
			t.Errorf("command %x was sent to a foreign SRK", code)
		}
	}
	client.UseSRK(provider.SRK{Public: key.Public}) // a pinned Name that no transient SRK has
	if _, err := client.CreateKey(t.Context(), signKey, nil); !errors.Is(err, provider.ErrParentChanged) {
		t.Errorf("a transient SRK with another Name: %v", err)
	}
}

func TestWhoSharesATPMPinsTheirOwnSRK(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	key := b.key(t, signKey, "value")
	auth := provider.Auth{Value: pin("value")}
	neighbour, stranger := &bench{TPM: b.Share()}, &bench{TPM: b.Share()}
	neighbour.UseSRK(b.srk)
	stranger.UseSRK(provider.SRK{Handle: b.srk.Handle, Public: key.Public}) // as a store made on another machine does
	b.wire.Reset()
	for range 2 {
		for _, user := range []*bench{b, neighbour} {
			if err := user.trySign(t.Context(), key, auth); err != nil {
				t.Error(err)
			}
		}
	}
	if n := b.wire.Count(tpm2.TPMCCStartAuthSession); n != 0 || b.wire.Dials() != 0 {
		t.Errorf("%d more sessions and %d more connections for the same SRK", n, b.wire.Dials())
	}
	for range 2 {
		if err := stranger.trySign(t.Context(), key, auth); !errors.Is(err, provider.ErrParentChanged) {
			t.Errorf("who pinned another SRK: %v", err)
		}
		if err := b.trySign(t.Context(), key, auth); err != nil {
			t.Errorf("its neighbour: %v", err)
		}
	}
	if err := neighbour.Close(); err != nil {
		t.Error(err)
	}
	if err := b.trySign(t.Context(), key, auth); !errors.Is(err, provider.ErrClosed) {
		t.Errorf("after one of them closed it: %v", err)
	}
}

func TestKeysUnderAnRSAStorageKeyOfOtherTools(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	b.primary(t, tpm2.RSASRKTemplate, 0x81000010)
	var o provider.Object
	b.foreign(t, func(g goTPM) {
		parent, err := tpm2.ReadPublic{ObjectHandle: tpm2.TPMHandle(0x81000010)}.Execute(g)
		if err != nil {
			t.Fatal(err)
		}
		area := b.srk.Public.Area()
		area.ObjectAttributes = tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, SignEncrypt: true}
		area.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: tpm2.TPMECCNistP256})
		area.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{})
		made, err := tpm2.Create{
			ParentHandle: tpm2.NamedHandle{Handle: 0x81000010, Name: parent.Name},
			InPublic:     tpm2.New2B(area),
			InSensitive: tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{
				UserAuth: tpm2.TPM2BAuth{Buffer: []byte("value")},
			}},
		}.Execute(g)
		if err != nil {
			t.Fatal(err)
		}
		public, err := provider.ParsePublic(made.OutPublic.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		o = provider.Object{Public: public, Private: made.OutPrivate.Buffer, Parent: 0x81000010}
	})
	if err := b.trySign(t.Context(), o, provider.Auth{Value: pin("value")}); err != nil {
		t.Error(err)
	}
	for want, parent := range map[error]provider.Handle{
		provider.ErrNoObject:    0x81000077,
		provider.ErrUnsupported: tpm2.TPMRHEndorsement,
		provider.ErrWrongTPM:    b.srk.Handle,
	} {
		o.Parent = parent
		if err := b.trySign(t.Context(), o, provider.Auth{Value: pin("value")}); !errors.Is(err, want) {
			t.Errorf("with the parent %x: %v", parent, err)
		}
	}
}

func TestOwnerAuthorisation(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.hierarchyAuth(t, tpm2.TPMRHOwner, "owner value")
	if _, err := b.ProvisionSRK(t.Context()); !errors.Is(err, provider.ErrHierarchyAuth) || errors.Is(err, provider.ErrAuth) {
		t.Errorf("without the owner's auth value: %v", err)
	}
	b.Release()
	wrong, _ := b.client(t, provider.WithOwnerAuth(pin("wrong value")))
	if _, err := wrong.ProvisionSRK(t.Context()); !errors.Is(err, provider.ErrHierarchyAuth) {
		t.Errorf("with a wrong one: %v", err)
	}
	wrong.Release()

	owner, wire := b.client(t, provider.WithOwnerAuth(pin("owner value")))
	srk, err := owner.ProvisionSRK(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	owner.UseSRK(srk)
	key, err := owner.CreateKey(t.Context(), signKey, nil)
	if err != nil {
		t.Fatal(err)
	}
	owner.UseSRK(provider.SRK{Handle: srk.Handle, Public: key.Public})
	if again, err := owner.ProvisionSRK(t.Context()); err != nil || again.Handle != srk.Handle {
		t.Errorf("in place of another machine's: 0x%08X, %v", uint32(again.Handle), err)
	}
	owner.UseSRK(srk)
	if err := owner.Persist(t.Context(), key, 0x81000100); err != nil {
		t.Fatal(err)
	}
	if p, err := owner.Properties(t.Context()); err != nil || !p.OwnerAuthSet || p.LockoutAuthSet {
		t.Errorf("properties: %+v, %v", p, err)
	}
	if wire.Saw([]byte("owner value")) {
		t.Error("the owner's auth value went over the wire")
	}
	for _, e := range wire.Exchanges() { // in a session without a key, what went by would tell a right guess at the value
		if e.Code() == ccStart && bytes.Equal(e.Command[10:14], []byte{0x40, 0, 0, 7}) {
			t.Errorf("a session is not salted: %x", e.Command)
		}
	}
	owner.Release()

	// Who may not make the SRK uses the one that is there, and cannot persist.
	if _, err := b.ProvisionSRK(t.Context()); err != nil {
		t.Errorf("the SRK is there: %v", err)
	}
	if err := b.Evict(t.Context(), 0x81000100, key.Public.Name()); !errors.Is(err, provider.ErrHierarchyAuth) {
		t.Errorf("evict without the owner's auth value: %v", err)
	}
	b.Release()
	if err := owner.Evict(t.Context(), 0x81000100, key.Public.Name()); err != nil {
		t.Error(err)
	}
}
