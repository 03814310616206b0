package provider

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
)

// Whoever has many operations waiting delays another user's next one by one of them; of one user's, none overtakes another.
func TestUsersOfATPMTakeTurns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var q queue
		var order []string
		wait := func(ctx context.Context, name string) {
			go func() {
				if q.enter(ctx, nil) == nil {
					order = append(order, name)
				}
			}()
			synctest.Wait()
		}
		turns := func(n int) {
			for range n {
				q.leave(nil)
				synctest.Wait()
			}
		}
		greedy, modest := ForUser(t.Context(), "greedy"), ForUser(t.Context(), "modest")
		if err := q.enter(greedy, nil); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"g1", "g2", "g3", "g4", "g5"} {
			wait(greedy, name)
		}
		impatient, leave := context.WithCancel(modest)
		wait(modest, "m1")
		wait(impatient, "never")
		wait(modest, "m2")
		leave()
		synctest.Wait()
		turns(3)
		wait(modest, "m3")
		wait(t.Context(), "n1") // for nobody in particular
		turns(6)
		if want := []string{"g1", "m1", "g2", "g3", "m2", "n1", "g4", "m3", "g5"}; !slices.Equal(order, want) {
			t.Errorf("the turns are %q, want %q", order, want)
		}
		if q.leave(nil); q.busy || q.awaited() || len(q.last) != 0 {
			t.Errorf("when all is done the queue is %+v", &q)
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
		var q queue
		var order []string
		wait := func(ctx context.Context, name string) {
			go func() {
				if q.enter(ctx, nil) == nil {
					order = append(order, name)
				}
			}()
			synctest.Wait()
		}
		steady, hasty := ForUser(t.Context(), "steady"), ForUser(t.Context(), "hasty")
		if err := q.enter(steady, nil); err != nil {
			t.Fatal(err)
		}
		wait(hasty, "h1")
		for range 100 {
			impatient, leave := context.WithCancel(hasty)
			wait(impatient, "never")
			leave()
			synctest.Wait()
		}
		for _, name := range []string{"s1", "s2", "s3", "s4"} {
			wait(steady, name)
		}
		wait(hasty, "h2")
		for range 6 {
			q.leave(nil)
			synctest.Wait()
		}
		q.leave(nil)
		if want := []string{"h1", "s1", "s2", "h2", "s3", "s4"}; !slices.Equal(order, want) {
			t.Errorf("the turns are %q, want %q", order, want)
		}
	})
}
