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
	user  any
	turn  chan struct{}
	round uint64
	first *earlyCommand // what may be sent for it before it wakes up; nil for nothing
}

type userKey struct{}

// ForUser gives a context for what is done for one of several users of a TPM, whom == tells from others: their operations take turns,
// however many of them one has waiting. All that is done without a user is as one user's.
func ForUser(ctx context.Context, user any) context.Context {
	return context.WithValue(ctx, userKey{}, user)
}

// enter waits for a turn. Whoever got one must call leave. Only who has to wait makes first, which may be nil.
func (q *queue) enter(ctx context.Context, first func() *earlyCommand) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if q.tryEnter() {
		return nil
	}
	w := waiter{user: ctx.Value(userKey{}), turn: make(chan struct{})}
	if first != nil {
		w.first = first()
	}
	q.mu.Lock()
	if !q.busy {
		q.busy = true
		q.mu.Unlock()
		return nil
	}
	q.line(w)
	q.mu.Unlock()

	select {
	case <-w.turn:
		return nil
	case <-ctx.Done():
	}
	if !q.giveUp(w) { // the turn comes at the same moment: pass it on
		<-w.turn
		q.leave(nil)
	}
	return ctx.Err()
}

// giveUp takes a waiter out, and tells whether it still was there. Its user's next one has no worse a place than if it had never been.
func (q *queue) giveUp(w waiter) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	i := slices.IndexFunc(q.waiting, func(other waiter) bool { return other.turn == w.turn })
	if i < 0 {
		return false
	}
	q.waiting = slices.Delete(q.waiting, i, i+1)
	delete(q.last, w.user)
	for _, other := range q.waiting {
		if other.user == w.user {
			q.last[w.user] = other.round
		}
	}
	return true
}

// line puts a user's next waiter in its place; the caller holds q.mu.
func (q *queue) line(w waiter) {
	if q.last == nil {
		q.last = make(map[any]uint64)
	}
	w.round = max(q.round, q.last[w.user]) + 1
	q.last[w.user] = w.round
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
func (q *queue) leave(send func(*earlyCommand)) {
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
