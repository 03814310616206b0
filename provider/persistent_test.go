package provider_test

import (
	"bytes"
	"crypto"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/tpm2-p11/tpm2-p11/provider"
)

func TestPersistConverges(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	key, other := b.key(t, signKey, ""), b.key(t, signKey, "")
	for range 2 {
		if err := b.Persist(t.Context(), key, 0x81000100); err != nil {
			t.Fatal(err)
		}
	}
	err := b.Persist(t.Context(), other, 0x81000100)
	if !errors.Is(err, provider.ErrHandleTaken) || !strings.Contains(err.Error(), key.Public.Name().String()) {
		t.Errorf("another key at a taken handle: %v", err)
	}
	public, err := b.ReadPublic(t.Context(), 0x81000100)
	if err != nil || !bytes.Equal(public.Name(), key.Public.Name()) {
		t.Errorf("read back %v, %v", public.Name(), err)
	}

	var taken *provider.OtherObjectError
	if err := b.Evict(t.Context(), 0x81000100, other.Public.Name()); !errors.As(err, &taken) || !bytes.Equal(taken.Have, key.Public.Name()) {
		t.Errorf("evicting another key than the one there: %v", err)
	}
	if err := b.Evict(t.Context(), 0x81000100, key.Public.Name()); err != nil {
		t.Error(err)
	}
	if err := b.Evict(t.Context(), 0x81000100, key.Public.Name()); !errors.Is(err, provider.ErrNoObject) {
		t.Errorf("evicting twice: %v", err)
	}
	if _, err := b.ReadPublic(t.Context(), 0x81000100); !errors.Is(err, provider.ErrNoObject) {
		t.Errorf("reading what is not there: %v", err)
	}
	for _, h := range []provider.Handle{0x80000001, 0x81800000, 0x40000001} {
		if err := b.Persist(t.Context(), key, h); !errors.Is(err, provider.ErrUnsupported) {
			t.Errorf("persisting at %x: %v", h, err)
		}
		if _, err := b.FreeHandle(t.Context(), h); !errors.Is(err, provider.ErrUnsupported) {
			t.Errorf("a free handle from %x: %v", h, err)
		}
	}
}

func TestAHandleWithAnotherKeyIsNoticed(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	key, other := b.persisted(t, b.key(t, signKey, "")), b.key(t, signKey, "")
	other.Handle = key.Handle
	err := b.trySign(t.Context(), other, provider.Auth{})
	if !errors.Is(err, provider.ErrOtherObject) || !strings.Contains(err.Error(), key.Public.Name().String()) ||
		!strings.Contains(err.Error(), other.Public.Name().String()) || !strings.Contains(err.Error(), "0x81000100") {
		t.Errorf("another key at the handle: %v", err)
	}
	other.Handle, other.Private = 0x81000105, nil
	if err := b.trySign(t.Context(), other, provider.Auth{}); !errors.Is(err, provider.ErrNoObject) {
		t.Errorf("no key at the handle: %v", err)
	}
	for name, o := range map[string]provider.Object{"nothing": {}, "neither handle nor blob": {Public: key.Public}} {
		if err := b.trySign(t.Context(), o, provider.Auth{}); err == nil {
			t.Errorf("%s: signed", name)
		}
	}
}

func TestHandlesAreListedAndFilled(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	key := b.key(t, signKey, "")
	want := []provider.Handle{b.srk.Handle}
	for _, h := range []provider.Handle{0x81000100, 0x81000101, 0x81000103} {
		if err := b.Persist(t.Context(), key, h); err != nil {
			t.Fatal(err)
		}
		want = append(want, h)
	}
	if got, err := b.PersistentHandles(t.Context()); err != nil || !slices.Equal(got, want) {
		t.Errorf("handles %x, %v", got, err)
	}
	for from, want := range map[provider.Handle]provider.Handle{
		0x81000000: 0x81000000, 0x81000001: 0x81000002, 0x81000100: 0x81000102, 0x81000103: 0x81000104,
	} {
		if got, err := b.FreeHandle(t.Context(), from); err != nil || got != want {
			t.Errorf("free from %x: %x, %v", from, got, err)
		}
	}
}

func TestATPMWithoutRoomSaysSo(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	key := b.key(t, signKey, "")
	for h := provider.Handle(0x81000100); ; h++ {
		err := b.Persist(t.Context(), key, h)
		if err == nil && h < 0x81000200 {
			continue
		}
		if !errors.Is(err, provider.ErrNoSpace) {
			t.Errorf("persisting at %x: %v", h, err)
		}
		break
	}
	handles, err := b.PersistentHandles(t.Context())
	if err != nil || len(handles) < 50 || !slices.IsSorted(handles) {
		t.Errorf("%d handles, %v", len(handles), err)
	}
}

func TestAKeyThatSomebodyReplacedIsNoticed(t *testing.T) {
	t.Parallel()
	var log strings.Builder
	b := newStore(t, provider.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
	tmpl := provider.Template{Type: provider.RSA2048, Use: provider.Use{Sign: true}}
	key, other := b.persisted(t, b.key(t, tmpl, "")), b.key(t, tmpl, "")
	digest := make([]byte, 32)
	sign := func() error {
		_, err := b.Sign(t.Context(), key, provider.Auth{}, provider.RSASSA, crypto.SHA256, digest)
		return err
	}
	if err := sign(); err != nil {
		t.Fatal(err)
	}
	b.Release()
	somebody, _ := b.client(t)
	if err := somebody.Evict(t.Context(), key.Handle, key.Public.Name()); err != nil {
		t.Fatal(err)
	}
	somebody.Release()
	for range 2 {
		if err := sign(); err != nil {
			t.Errorf("somebody evicted it, and there is a wrapped form: %v", err)
		}
	}
	if n := strings.Count(log.String(), "0x81000100"); n != 1 {
		t.Errorf("the log says %d times that it is gone: %s", n, &log)
	}
	b.Release()
	linked := key
	linked.Private = nil
	if err := b.Check(t.Context(), linked); !errors.Is(err, provider.ErrNoObject) {
		t.Errorf("somebody evicted it, and there is no wrapped form: %v", err)
	}
	if err := b.Check(t.Context(), key); err != nil {
		t.Errorf("the TPM takes the wrapped form: %v", err)
	}
	b.Release()
	if err := somebody.Persist(t.Context(), other, key.Handle); err != nil {
		t.Fatal(err)
	}
	somebody.Release()
	if err := sign(); !errors.Is(err, provider.ErrOtherObject) {
		t.Errorf("somebody put another in its place: %v", err)
	}
}
