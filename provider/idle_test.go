package provider

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tpm2-p11/tpm2-p11/provider/transport"
)

// slow is a TPM in memory that gives four random bytes, and takes longer to send to than a connection is kept idle.
type slow struct{ opened, closed int }

func (s *slow) String() string { return "slow" }
func (s *slow) Managed() bool  { return false }
func (s *slow) Close() error   { s.closed++; return nil }
func (s *slow) Dial(context.Context) (transport.Conn, error) {
	s.opened++
	return s, nil
}
func (s *slow) Send([]byte) error                           { time.Sleep(2 * idleTime); return nil }
func (s *slow) Receive(ctx context.Context) ([]byte, error) { return s.Transmit(ctx, nil) }
func (s *slow) Transmit(context.Context, []byte) ([]byte, error) {
	return []byte{0x80, 0x01, 0, 0, 0, 16, 0, 0, 0, 0, 0, 4, 1, 2, 3, 4}, nil
}

// Somebody may take longer over handing the turn on than a connection is kept idle, and hand it to one who has given up.
func TestATPMIsLetGoHoweverLongTheTurnIsHandedOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &slow{}
		tpm := New(s)
		defer tpm.Close()
		working, work := make(chan struct{}), make(chan struct{})
		go func() {
			err := tpm.do(t.Context(), func(context.Context, *connection) error {
				close(working)
				<-work
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		}()
		<-working
		impatient, giveUp := context.WithTimeout(t.Context(), idleTime+idleTime/2)
		defer giveUp()
		go func() {
			next := func() *earlyCommand {
				return &earlyCommand{bytes: []byte{0x80, 0x01, 0, 0, 0, 12, 0, 0, 0x01, 0x7b, 0, 4}}
			}
			if err := tpm.queue.enter(impatient, next); err == nil {
				t.Error("it did not give up")
				tpm.queue.leave(nil)
			}
		}()
		synctest.Wait()
		close(work)
		time.Sleep(4 * idleTime)
		synctest.Wait()
		if s.opened != 1 || s.closed != 1 {
			t.Errorf("the connection was opened %d times and closed %d times", s.opened, s.closed)
		}
	})
}

// Nor does it matter how long somebody who has given up takes over passing the turn on.
func TestATPMIsLetGoHoweverLongATurnIsPassedOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &slow{}
		tpm := New(s)
		defer tpm.Close()
		if err := tpm.do(t.Context(), func(context.Context, *connection) error { return nil }); err != nil {
			t.Fatal(err)
		}
		if err := tpm.queue.enter(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * idleTime)
		tpm.queue.leave(nil)
		time.Sleep(2 * idleTime)
		synctest.Wait()
		if s.opened != 1 || s.closed != 1 {
			t.Errorf("the connection was opened %d times and closed %d times", s.opened, s.closed)
		}
	})
}
