package provider

import (
	"cmp"
	"context"
	"slices"
	"sync"
)

// queue lets one operation in at a time: each user's in the order they came, and those of several users in turn.
type queue struct {
	mu      sync.Mutex
	busy    bool
	waiting []waiter       // by their rounds, and in each as they came
	round   uint64         // of the waiter who got the turn last
	last    map[any]uint64 // the round of a user's last waiter
}

// waiter waits for a turn in a round, in which each user has one.
type waiter struct {
	turn  chan struct{}
	round uint64
	first *ahead // what may be sent for it before it wakes up; nil for nothing
}

type userKey struct{}

// ForUser gives a context for what is done for one of several users of a TPM, whom == tells from others: their operations take turns,
// however many of them one has waiting. All that is done without a user is as one user's.
func ForUser(ctx context.Context, user any) context.Context {
	return context.WithValue(ctx, userKey{}, user)
}

// enter waits for a turn. Whoever got one must call leave. Only who has to wait makes first, which may be nil.
func (q *queue) enter(ctx context.Context, first func() *ahead) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if q.tryEnter() {
		return nil
	}
	w := waiter{turn: make(chan struct{})}
	if first != nil {
		w.first = first()
	}
	q.mu.Lock()
	if !q.busy {
		q.busy = true
		q.mu.Unlock()
		return nil
	}
	q.line(w, ctx.Value(userKey{}))
	q.mu.Unlock()

	select {
	case <-w.turn:
		return nil
	case <-ctx.Done():
	}
	q.mu.Lock()
	i := slices.IndexFunc(q.waiting, func(other waiter) bool { return other.turn == w.turn })
	if i >= 0 {
		q.waiting = slices.Delete(q.waiting, i, i+1)
	}
	q.mu.Unlock()
	if i < 0 { // the turn comes at the same moment: pass it on
		<-w.turn
		q.leave(nil)
	}
	return ctx.Err()
}

// line puts a user's next waiter in its place; the caller holds q.mu.
func (q *queue) line(w waiter, user any) {
	if q.last == nil {
		q.last = make(map[any]uint64)
	}
	w.round = max(q.round, q.last[user]) + 1
	q.last[user] = w.round
	behind, _ := slices.BinarySearchFunc(q.waiting, w.round+1, func(w waiter, round uint64) int { return cmp.Compare(w.round, round) })
	q.waiting = slices.Insert(q.waiting, behind, w)
}

// tryEnter takes a turn only if nobody has it.
func (q *queue) tryEnter() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.busy {
		return false
	}
	q.busy = true
	return true
}

// awaited tells whether anybody waits for a turn.
func (q *queue) awaited() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.waiting) > 0
}

// leave hands the turn to the one who is next. If that one has something to send, send is called with it first, unless it is nil.
func (q *queue) leave(send func(*ahead)) {
	q.mu.Lock()
	if len(q.waiting) == 0 {
		q.busy = false
		clear(q.last)
		q.mu.Unlock()
		return
	}
	next := q.waiting[0]
	q.round = next.round
	q.waiting = slices.Delete(q.waiting, 0, 1)
	q.mu.Unlock()
	if send != nil && next.first != nil {
		send(next.first)
	}
	close(next.turn)
}
