package serve

import (
	"context"
	"sync"
	"time"
)

// burst is for how long somebody who was idle may be faster than the pace.
const burst = 2 * time.Second

// pace lets so many calls a second be. Whoever is faster waits: nobody is refused, and nobody else is delayed. nil lets all be.
type pace struct {
	every time.Duration

	mu   sync.Mutex
	next time.Time // of the call after those that were let be
}

// newPace is nil for 0.
func newPace(perSecond int) *pace {
	if perSecond == 0 {
		return nil
	}
	return &pace{every: time.Second / time.Duration(perSecond)}
}

// wait waits for one call's turn; false when ctx ended.
func (p *pace) wait(ctx context.Context) bool {
	if p == nil {
		return ctx.Err() == nil
	}
	now := time.Now()
	turn, _ := p.turn(now, true)
	if !turn.After(now) {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(turn.Sub(now))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// allow tells whether a call may be at once, and if so counts it.
func (p *pace) allow() bool {
	_, now := p.turn(time.Now(), false)
	return now
}

// turn is when the next call may be, and whether that is now. It is counted if it is now, or waits.
func (p *pace) turn(now time.Time, waits bool) (turn time.Time, isNow bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if earliest := now.Add(-burst); p.next.Before(earliest) {
		p.next = earliest
	}
	turn = p.next
	isNow = !turn.After(now)
	if isNow || waits {
		p.next = p.next.Add(p.every)
	}
	return turn, isNow
}
