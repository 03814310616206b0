package signer

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/tpm2-p11/tpm2-p11/keystore"
	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

func TestPolicyNamesThePCR(t *testing.T) {
	t.Parallel()
	s := newStore(t, "")
	for _, pcr := range []uint{0, 7} {
		s.tpm.Extend(t, "sha256", pcr, []byte("measured boot"))
	}
	pcrs, err := policy.ParsePCR("sha256:0,7")
	if err != nil {
		t.Fatal(err)
	}
	s.create(keystore.KeySpec{Label: "web", Type: provider.P256, Policy: policy.Policy{Root: pcrs}})
	digest := digestOf(crypto.SHA256, "message")
	k := s.open("web")
	if _, err := k.Sign(nil, digest, crypto.SHA256); err != nil {
		t.Fatal(err)
	}
	k.Close()

	s.tpm.Extend(t, "sha256", 7, []byte("another boot loader"))
	k = s.open("web")
	_, err = k.Sign(nil, digest, crypto.SHA256)
	if !errors.Is(err, ErrPolicy) {
		t.Fatalf("after the PCR changed: %v", err)
	}
	var unsatisfied *PolicyError
	if !errors.As(err, &unsatisfied) {
		t.Fatalf("%v names no PCR", err)
	}
	if unsatisfied.PCR != 7 || len(unsatisfied.Want) != 32 || len(unsatisfied.Have) != 32 {
		t.Errorf("got %+v", unsatisfied)
	}
	if !strings.Contains(err.Error(), "PCR7") || !strings.Contains(err.Error(), `"web"`) {
		t.Errorf("%q names no PCR", err)
	}
}

func TestManyGoroutinesAndClose(t *testing.T) {
	t.Parallel()
	s := newStore(t, "")
	s.create(keystore.KeySpec{Label: "web", Type: provider.P256})
	k := s.open("web")
	digest := digestOf(crypto.SHA256, "message")

	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			for range 8 {
				signature, err := k.Sign(nil, digest, crypto.SHA256)
				if err != nil {
					t.Error(err)
				} else if !ecdsa.VerifyASN1(k.Public().(*ecdsa.PublicKey), digest, signature) {
					t.Error("a signature does not verify")
				}
			}
		})
	}
	all.Wait()

	// Whoever signs while the key is closed gets a signature or ErrClosed.
	started := make(chan struct{}, 16)
	for range 16 {
		all.Go(func() {
			for i := 0; ; i++ {
				if _, err := k.Sign(nil, digest, crypto.SHA256); errors.Is(err, ErrClosed) {
					return
				} else if err != nil {
					t.Error(err)
					return
				}
				if i == 0 {
					started <- struct{}{}
				}
			}
		})
	}
	<-started
	if err := k.Close(); err != nil {
		t.Error(err)
	}
	all.Wait()
	if err := k.Close(); err != nil {
		t.Errorf("closing twice: %v", err)
	}
	if k.Public() == nil || k.Label() != "web" {
		t.Error("a closed key forgot who it was")
	}
}

func TestContextEndsTheWait(t *testing.T) {
	t.Parallel()
	s := newStore(t, "")
	s.create(keystore.KeySpec{Label: "web", Type: provider.P256})
	k := s.open("web")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := k.SignContext(ctx, digestOf(crypto.SHA256, ""), crypto.SHA256); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled context: %v", err)
	}
	if _, err := k.Sign(nil, digestOf(crypto.SHA256, ""), crypto.SHA256); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func TestKeyOfAnotherProcess(t *testing.T) {
	t.Parallel()
	s := newStore(t, "")
	s.create(keystore.KeySpec{Label: "web", Type: provider.P256})
	k := s.open("web")
	k.pid++ // as a fork would make it look
	if _, err := k.Sign(nil, digestOf(crypto.SHA256, ""), crypto.SHA256); !errors.Is(err, ErrForked) {
		t.Errorf("after a fork: %v", err)
	}
}

func TestLogTellsWhy(t *testing.T) {
	t.Parallel()
	s := newStore(t, "")
	s.create(keystore.KeySpec{Label: "web", Type: provider.P256})
	if err := os.WriteFile(filepath.Join(s.dir, "dropped.pem"), []byte("no key"), 0o600); err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	k := s.open("web", WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
	if !strings.Contains(log.String(), "dropped.pem") {
		t.Errorf("the corrupt file is not in %q", log.String())
	}
	s.tpm.Stop(t)
	if _, err := k.Sign(nil, digestOf(crypto.SHA256, ""), crypto.SHA256); err == nil {
		t.Error("signed without a TPM")
	}
	if !strings.Contains(log.String(), "key=web") || !strings.Contains(log.String(), s.tpm.Address()) {
		t.Errorf("the failure is not in %q", log.String())
	}
}

func TestTPMThatGoesAway(t *testing.T) {
	t.Parallel()
	s := newStore(t, "")
	s.create(keystore.KeySpec{Label: "web", Type: provider.P256})
	k := s.open("web")
	digest := digestOf(crypto.SHA256, "message")
	s.tpm.Stop(t)
	if _, err := k.Sign(nil, digest, crypto.SHA256); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), s.tpm.Address()) {
		t.Errorf("without its TPM: %v", err)
	}
	s.tpm.Restart(t)
	if _, err := k.Sign(nil, digest, crypto.SHA256); err != nil {
		t.Errorf("with its TPM again: %v", err)
	}
}
