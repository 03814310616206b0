package provider_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/big"
	"sync"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/internal/faulttpm"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// signOwn has a key sign a message, and checks that the signature is that message's.
func (b *bench) signOwn(ctx context.Context, key provider.Object, message string) error {
	digest := sha256.Sum256([]byte(message))
	public, err := key.Public.Key()
	if err != nil {
		return err
	}
	scheme := provider.ECDSA
	if _, ok := public.(*rsa.PublicKey); ok {
		scheme = provider.RSASSA
	}
	signature, err := b.Sign(ctx, key, provider.Auth{}, scheme, crypto.SHA256, digest[:])
	if err != nil {
		return err
	}
	its := false
	switch k := public.(type) {
	case *rsa.PublicKey:
		its = rsa.VerifyPKCS1v15(k, crypto.SHA256, digest[:], signature) == nil
	case *ecdsa.PublicKey:
		its = ecdsa.Verify(k, digest[:], new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:]))
	}
	if !its {
		return fmt.Errorf("the signature is not %q's", message)
	}
	return nil
}

// inTurn has a key sign messages of operations that come one after another, the first of which is under way until all wait.
func (b *bench) inTurn(t *testing.T, key provider.Object, messages []string, contexts ...context.Context) []error {
	t.Helper()
	running, all := make(chan struct{}), make(chan struct{})
	b.wire.Inject(faulttpm.Once(ccSign).Do(func(_ context.Context, _ []byte, send func() ([]byte, error)) ([]byte, error) {
		close(running)
		<-all
		return send()
	}))
	defer b.wire.Inject(nil)
	errs := make([]error, len(messages))
	var group sync.WaitGroup
	for i, message := range messages {
		ctx := t.Context()
		if i < len(contexts) {
			ctx = contexts[i]
		}
		operation := &noticed{Context: ctx, waits: make(chan struct{})}
		group.Go(func() { errs[i] = b.signOwn(operation, key, message) })
		if i == 0 {
			<-running
		} else {
			<-operation.waits
		}
	}
	close(all)
	group.Wait()
	return errs
}

func TestTheNextOnesCommandIsSentWhileItWakesUp(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	key := b.persisted(t, b.key(t, signKey, ""))
	b.wire.Reset()
	for i, err := range b.inTurn(t, key, []string{"a", "b", "c", "d", "e"}) {
		if err != nil {
			t.Errorf("the operation %d: %v", i, err)
		}
	}
	if n := b.wire.Ahead(); n != 4 {
		t.Errorf("%d commands were sent ahead, not those of the 4 who waited", n)
	}
	if n := len(b.wire.Codes()); n != 6 {
		t.Errorf("the commands are %x, not one to find the key's Name and 5 signatures", b.wire.Codes())
	}
}

// Whoever is cancelled after its command was sent leaves a response behind that nobody takes for another one's.
func TestACommandThatWasSentForOneWhoGaveUp(t *testing.T) {
	t.Parallel()
	answers := 0
	b := newStore(t, provider.WithObserver(func(command string, _ uint32, _ time.Duration) {
		if command == "TPM2_Sign" {
			answers++
		}
	}))
	key := b.persisted(t, b.key(t, signKey, ""))
	b.wire.Reset()
	gaveUp := 0
	for round := range 40 { // of which some are cancelled before they see that it is their turn
		impatient, cancel := context.WithCancel(t.Context())
		b.wire.WhenSent(cancel)
		var messages []string
		for i := range 3 {
			messages = append(messages, fmt.Sprintf("message %d of round %d", i, round))
		}
		errs := b.inTurn(t, key, messages, t.Context(), impatient)
		cancel()
		if errors.Is(errs[1], context.Canceled) {
			gaveUp++
			errs[1] = nil
		}
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	b.wire.WhenSent(nil)
	if gaveUp == 0 {
		t.Error("nobody gave up")
	}
	if err := b.signOwn(t.Context(), key, "afterwards"); err != nil {
		t.Error(err)
	}
	if n := b.wire.Count(ccSign); answers != n {
		t.Errorf("an observer was told of %d of %d signatures", answers, n)
	}
}

// The connection is not closed while the TPM still works for one who gave up: a device would stay open, and a fork would copy it.
func TestWhatWasSentAheadIsReceivedBeforeTheTPMIsLetGo(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	key := b.persisted(t, b.key(t, signKey, ""))
	b.Release() // nothing stays loaded for a plain key, whose flushing would receive the response
	for gaveUp := false; !gaveUp; {
		if err := b.signOwn(t.Context(), key, "before"); err != nil {
			t.Fatal(err)
		}
		impatient, cancel := context.WithCancel(t.Context())
		b.wire.WhenSent(cancel)
		b.wire.Reset()
		errs := b.inTurn(t, key, []string{"a", "b"}, t.Context(), impatient)
		cancel()
		gaveUp = errors.Is(errs[1], context.Canceled)
		if b.Release(); b.wire.Ahead() != 1 || b.wire.Count(ccSign) != 2 {
			t.Fatalf("one of 2 commands was sent ahead, %d were answered", b.wire.Count(ccSign))
		}
	}
}

// A connection that is lost after a command was sent ahead is one that is lost with that command.
func TestAConnectionThatIsLostWithACommandSentAhead(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	key := b.persisted(t, b.key(t, signKey, ""))
	b.wire.WhenSent(func() {
		b.wire.WhenSent(nil)
		b.wire.Inject(faulttpm.Once(ccSign).Do(faulttpm.Lose))
	})
	b.wire.Reset()
	for i, err := range b.inTurn(t, key, []string{"a", "b", "c"}) {
		if err != nil {
			t.Errorf("the operation %d: %v", i, err)
		}
	}
	if b.wire.Dials() != 1 || b.wire.Ahead() == 0 {
		t.Errorf("%d new connections, %d commands sent ahead", b.wire.Dials(), b.wire.Ahead())
	}
}

// No key signs ahead before this connection showed that it is the one that is meant, nor one whose use takes more than an empty password.
func TestWhatIsNotSentAhead(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	p := b.bound(t, currentPCRs(7))
	withPIN := b.persisted(t, b.key(t, signKey, "12345678"))
	for name, use := range map[string]struct {
		key  provider.Object
		auth provider.Auth
	}{
		"a key whose Name was not read": {b.persisted(t, b.key(t, signKey, "")), provider.Auth{}},
		"a key with a PIN":              {withPIN, provider.Auth{Value: pin("12345678")}},
		"a key with a policy":           {b.persisted(t, b.boundKey(t, p, "")), provider.Auth{Policy: p}},
		"a wrapped key":                 {b.key(t, signKey, ""), provider.Auth{}},
	} {
		b.Release()
		b.wire.Reset()
		done := make(chan error, 1)
		next := &noticed{Context: t.Context(), waits: make(chan struct{})}
		b.wire.Inject(faulttpm.Once(tpm2.TPMCCPCRRead).Do(func(_ context.Context, _ []byte, send func() ([]byte, error)) ([]byte, error) {
			go func() { done <- b.trySign(next, use.key, use.auth) }()
			<-next.waits
			return send()
		}))
		_, err := b.ReadPCRs(t.Context(), tpm2.TPMAlgSHA256, []uint{7})
		if err := errors.Join(err, <-done); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		b.wire.Inject(nil)
		if n := b.wire.Ahead(); n != 0 {
			t.Errorf("%s: %d commands were sent ahead", name, n)
		}
	}
}

// When a signature does not verify, the next one's command is under way already: what it gives is the next one's all the same.
func TestACommandThatWasSentAfterASignatureThatDoesNotVerify(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	key := b.persisted(t, b.key(t, provider.Template{Type: provider.RSA2048, Use: provider.Use{Sign: true}}, ""))
	for range 10 {
		b.wire.WhenSent(func() {
			b.wire.WhenSent(nil)
			b.wire.Inject(faulttpm.Once(ccSign).Do(faulttpm.Flip(100)))
		})
		b.wire.Reset()
		errs := b.inTurn(t, key, []string{"a", "b", "c", "d"})
		if !errors.Is(errs[1], provider.ErrIntegrity) {
			t.Errorf("the signature that was changed: %v", errs[1])
		}
		errs[1] = nil
		if err := errors.Join(errs...); err != nil {
			t.Error(err)
		}
		if err := b.signOwn(t.Context(), key, "afterwards"); err != nil || b.wire.Count(ccReadPublic) == 0 {
			t.Errorf("afterwards: %v, and the key's Name was read %d times", err, b.wire.Count(ccReadPublic))
		}
	}
}
