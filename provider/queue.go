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
}

type userKey struct{}

// ForUser gives a context for what is done for one of several users of a TPM, whom == tells from others: their operations take turns,
// however many of them one has waiting. All that is done without a user is as one user's.
func ForUser(ctx context.Context, user any) context.Context {
	return context.WithValue(ctx, userKey{}, user)
}

// enter waits for a turn. Whoever got one must call leave.
func (q *queue) enter(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	q.mu.Lock()
	if !q.busy {
		q.busy = true
		q.mu.Unlock()
		return nil
	}
	turn := q.line(ctx.Value(userKey{}))
	q.mu.Unlock()

	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	}
	q.mu.Lock()
	i := slices.IndexFunc(q.waiting, func(w waiter) bool { return w.turn == turn })
	if i >= 0 {
		q.waiting = slices.Delete(q.waiting, i, i+1)
	}
	q.mu.Unlock()
	if i < 0 { // the turn came at the same moment: pass it on
		q.leave()
	}
	return ctx.Err()
}

// line puts a user's next waiter in its place; the caller holds q.mu.
func (q *queue) line(user any) (turn chan struct{}) {
	if q.last == nil {
		q.last = make(map[any]uint64)
	}
	w := waiter{make(chan struct{}), max(q.round, q.last[user]) + 1}
	q.last[user] = w.round
	behind, _ := slices.BinarySearchFunc(q.waiting, w.round+1, func(w waiter, round uint64) int { return cmp.Compare(w.round, round) })
	q.waiting = slices.Insert(q.waiting, behind, w)
	return w.turn
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

// leave hands the turn to the one who is next.
func (q *queue) leave() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting) == 0 {
		q.busy = false
		clear(q.last)
		return
	}
	q.round = q.waiting[0].round
	close(q.waiting[0].turn)
	q.waiting = slices.Delete(q.waiting, 0, 1)
}
