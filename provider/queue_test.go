package provider

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
)

// noted is a queue that notes in which order those who wait have their turns. It is for a bubble of synctest.
type noted struct {
	queue
	order []string
}

// wait has somebody wait.
func (l *noted) wait(ctx context.Context, name string) {
	go func() {
		if l.enter(ctx, nil) == nil {
			l.order = append(l.order, name)
		}
	}()
	synctest.Wait()
}

// turns ends so many turns.
func (l *noted) turns(n int) {
	for range n {
		l.leave(nil)
		synctest.Wait()
	}
}

// Whoever has many operations waiting delays another user's next one by one of them; of one user's, none overtakes another.
func TestUsersOfATPMTakeTurns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var q noted
		greedy, modest := ForUser(t.Context(), "greedy"), ForUser(t.Context(), "modest")
		if err := q.enter(greedy, nil); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"g1", "g2", "g3", "g4", "g5"} {
			q.wait(greedy, name)
		}
		impatient, leave := context.WithCancel(modest)
		q.wait(modest, "m1")
		q.wait(impatient, "never")
		q.wait(modest, "m2")
		leave()
		synctest.Wait()
		q.turns(3)
		q.wait(modest, "m3")
		q.wait(t.Context(), "n1") // for nobody in particular
		q.turns(6)
		if want := []string{"g1", "m1", "g2", "g3", "m2", "n1", "g4", "m3", "g5"}; !slices.Equal(q.order, want) {
			t.Errorf("the turns are %q, want %q", q.order, want)
		}
		if q.leave(nil); q.busy || q.awaited() || len(q.last) != 0 {
			t.Errorf("when all is done the queue is %+v", &q.queue)
		}
		if !q.tryEnter() {
			t.Error("a queue without anybody in it is busy")
		}
	})
}

// Waiters that gave up cost their user no turns.
func TestWhoGaveUpManyTimesIsNotPassedOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var q noted
		steady, hasty := ForUser(t.Context(), "steady"), ForUser(t.Context(), "hasty")
		if err := q.enter(steady, nil); err != nil {
			t.Fatal(err)
		}
		q.wait(hasty, "h1")
		for range 100 {
			impatient, leave := context.WithCancel(hasty)
			q.wait(impatient, "never")
			leave()
			synctest.Wait()
		}
		for _, name := range []string{"s1", "s2", "s3", "s4"} {
			q.wait(steady, name)
		}
		q.wait(hasty, "h2")
		q.turns(6)
		q.leave(nil)
		if want := []string{"h1", "s1", "s2", "h2", "s3", "s4"}; !slices.Equal(q.order, want) {
			t.Errorf("the turns are %q, want %q", q.order, want)
		}
	})
}
