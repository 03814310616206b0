package provider_test

import (
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/internal/faulttpm"
	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/provider"
	"github.com/tpm2-p11/tpm2-p11/provider/transport"
)

// script is a TPM in memory that answers what it is told to.
type script struct {
	mu             sync.Mutex
	opened, closed int
	managed        bool
	dialErr        error
	answer         func(ctx context.Context, command []byte) ([]byte, error)
}

func (s *script) String() string { return "script" }
func (s *script) Managed() bool  { return s.managed }
func (s *script) Close() error   { s.mu.Lock(); defer s.mu.Unlock(); s.closed++; return nil }
func (s *script) Dial(context.Context) (transport.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dialErr != nil {
		return nil, s.dialErr
	}
	s.opened++
	return s, nil
}
func (s *script) Transmit(ctx context.Context, command []byte) ([]byte, error) {
	return s.answer(ctx, command)
}

// counts are how often a connection was opened and closed.
func (s *script) counts() (opened, closed int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.opened, s.closed
}

// random answers TPM2_GetRandom for 4 bytes.
func random(context.Context, []byte) ([]byte, error) {
	return []byte{0x80, 0x01, 0, 0, 0, 16, 0, 0, 0, 0, 0, 4, 1, 2, 3, 4}, nil
}

func TestAConnectionIsOpenedLateAndLetGoWhenIdle(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &script{answer: random}
		expect := func(when string, opened, closed int) {
			t.Helper()
			if o, c := s.counts(); o != opened || c != closed {
				t.Errorf("%s: opened %d times and closed %d times, want %d and %d", when, o, c, opened, closed)
			}
		}
		tpm := provider.New(s)
		expect("before first use", 0, 0)
		for range 5 {
			if _, err := tpm.Random(t.Context(), 4); err != nil {
				t.Fatal(err)
			}
			time.Sleep(900 * time.Millisecond)
		}
		expect("in use", 1, 0)
		time.Sleep(200 * time.Millisecond)
		synctest.Wait()
		expect("after a second of idleness", 1, 1)
		if _, err := tpm.Random(t.Context(), 4); err != nil {
			t.Fatal(err)
		}
		expect("used again", 2, 1)
		tpm.Release()
		expect("released", 2, 2)
		for range 2 {
			if err := tpm.Close(); err != nil {
				t.Error(err)
			}
		}
		if _, err := tpm.Random(t.Context(), 4); !errors.Is(err, provider.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	}) // which fails if a goroutine is left
}

func TestOperationsComeInTheirOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var order []int
		s := &script{answer: func(ctx context.Context, cmd []byte) ([]byte, error) {
			order = append(order, int(cmd[11]))
			time.Sleep(time.Second)
			return append([]byte{0x80, 0x01, 0, 0, 0, 12 + cmd[11], 0, 0, 0, 0, 0, cmd[11]}, make([]byte, cmd[11])...), nil
		}}
		tpm := provider.New(s)
		defer tpm.Close()
		for i := 1; i <= 8; i++ {
			ctx, cancel := context.WithCancel(t.Context())
			go func() {
				_, err := tpm.Random(ctx, i)
				if cancelled := i == 4; cancelled != errors.Is(err, context.Canceled) {
					t.Errorf("operation %d: %v", i, err)
				}
				cancel()
			}()
			synctest.Wait()
			if i == 5 { // while 1 works and the others wait
				tpm.Release()
			}
			if i == 4 {
				cancel()
				synctest.Wait()
			}
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if want := []int{1, 2, 3, 5, 6, 7, 8}; !slices.Equal(order, want) {
			t.Errorf("order %d, want %d", order, want)
		}
	})
}

func TestPatienceEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		sent := 0
		s := &script{answer: func(context.Context, []byte) ([]byte, error) {
			sent++
			return faulttpm.ResponseCode(0x922), nil
		}}
		tpm := provider.New(s)
		defer tpm.Close()
		began := time.Now()
		_, err := tpm.Random(t.Context(), 4)
		if took := time.Since(began); !errors.Is(err, provider.ErrBusy) || took > 5*time.Second || took < 4*time.Second {
			t.Errorf("after %v: %v", took, err)
		}
		if sent < 10 || sent > 40 {
			t.Errorf("sent %d times", sent)
		}
	})
}

func TestATPMThatNeverAnswers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &script{answer: func(ctx context.Context, command []byte) ([]byte, error) {
			if _, ok := ctx.Deadline(); !ok { // as a transport does
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, transport.CommandTimeout(command))
				defer cancel()
			}
			<-ctx.Done()
			return nil, ctx.Err()
		}}
		tpm := provider.New(s)
		defer tpm.Close()
		if _, err := tpm.Random(t.Context(), 4); !errors.Is(err, provider.ErrUnavailable) {
			t.Error(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := tpm.Random(ctx, 4); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
}

func TestATPMThatCannotBeOpened(t *testing.T) {
	t.Parallel()
	for cause, want := range map[error]error{
		os.ErrPermission:         provider.ErrUnavailable,
		os.ErrNotExist:           provider.ErrUnavailable,
		context.DeadlineExceeded: provider.ErrBusy,
	} {
		tpm := provider.New(&script{dialErr: cause})
		if _, err := tpm.Random(t.Context(), 4); !errors.Is(err, want) || !errors.Is(err, cause) {
			t.Errorf("%v: %v", cause, err)
		}
		tpm.Close()
	}
}

func TestHandlesOfABrokenConnectionAreForgottenInTheEnd(t *testing.T) {
	t.Parallel()
	for managed, want := range map[bool]int{false: 2, true: 0} {
		flushes := 0
		s := &script{managed: managed, answer: func(_ context.Context, cmd []byte) ([]byte, error) {
			switch faulttpm.Code(cmd) {
			case tpm2.TPMCCFlushContext: // as the kernel answers for a handle it never gave
				flushes++
				return nil, syscall.EINVAL
			case tpm2.TPMCCStartAuthSession:
				return append([]byte{0x80, 0x01, 0, 0, 0, 48, 0, 0, 0, 0, 2, 0, 0, 0, 0, 32}, make([]byte, 32)...), nil
			case tpm2.TPMCCGetRandom:
				return random(nil, nil)
			}
			return nil, io.ErrUnexpectedEOF
		}}
		tpm := provider.New(s)
		use := provider.Auth{Policy: policy.Policy{Root: policy.Command{Code: ccSign}}}
		if _, _, err := tpm.PolicyDigests(t.Context(), tpm2.TPMAlgSHA256, use); !errors.Is(err, provider.ErrUnavailable) {
			t.Errorf("managed %v: %v", managed, err)
		}
		for range 3 {
			if _, err := tpm.Random(t.Context(), 4); err != nil {
				t.Errorf("managed %v: %v", managed, err)
			}
		}
		tpm.Close()
		// Two sessions were lost, by the operation and its repetition; the first was flushed in vain before the second was made.
		if flushes != 2*want {
			t.Errorf("managed %v: flushed %d times, want %d", managed, flushes, 2*want)
		}
	}
}

func TestAForkedChildOpensItsOwnConnection(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	key := b.persisted(t, b.key(t, signKey, "value"))
	auth := provider.Auth{Value: pin("value")}
	if err := b.trySign(t.Context(), key, auth); err != nil {
		t.Fatal(err)
	}
	session := sessionOf(t, b.wire.Exchanges())
	b.wire.Reset()
	provider.PretendFork(b.TPM)
	if err := b.trySign(t.Context(), key, auth); err != nil {
		t.Fatal(err)
	}
	if b.wire.Dials() != 1 || b.wire.Count(tpm2.TPMCCStartAuthSession) != 1 {
		t.Errorf("%d connections, %d sessions", b.wire.Dials(), b.wire.Count(tpm2.TPMCCStartAuthSession))
	}
	for _, e := range b.wire.Exchanges() {
		if e.Code() == tpm2.TPMCCFlushContext && string(e.Command[10:]) == string(session) {
			t.Error("the parent's session was flushed")
		}
	}
	b.foreign(t, func(g goTPM) { // the parent's work
		if _, err := g.Send(append([]byte{0x80, 0x01, 0, 0, 0, 14, 0, 0, 1, 0x65}, session...)); err != nil {
			t.Error(err)
		}
	})
}

// sessionOf is the handle of the first session that was started.
func sessionOf(t *testing.T, exchanges []faulttpm.Exchange) []byte {
	for _, e := range exchanges {
		if e.Code() == tpm2.TPMCCStartAuthSession {
			return e.Response[10:14]
		}
	}
	t.Fatal("no session was started")
	return nil
}
