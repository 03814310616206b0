package provider

import (
	"context"
	"fmt"
	"time"
)

// How long a polite user of a TPM without a resource manager keeps it: while it works, and after its last operation.
const (
	turnTime       = 100 * time.Millisecond
	politeIdleTime = 10 * time.Millisecond
)

// TakeTurns lets go of the TPM often from now on, since another process uses it too and would wait: a TPM without a resource manager
// has one user at a time.
func (l *link) TakeTurns() { l.polite.Store(true) }

// Hold waits until no operation runs, lets go of the connection, and keeps operations waiting until resume is called: between the
// two this process has no descriptor of the TPM that a fork could copy.
func (l *link) Hold(ctx context.Context) (resume func(), err error) {
	if err := l.queue.enter(ctx, nil); err != nil {
		return nil, fmt.Errorf("wait for the TPM: %w", err)
	}
	l.letGo(closeTimeout)
	return func() { l.queue.leave(nil) }, nil
}
