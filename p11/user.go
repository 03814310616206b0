package p11

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/tpm2-p11/tpm2-p11/keystore"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// Users are those of a service. None of their wrong PINs brings a TPM to its lockout, which would take everybody's: the last one that the
// TPM takes is left to who asks the TPM itself. They give PINs to a TPM one after the other. Safe for concurrent use.
type Users struct {
	mu    sync.Mutex
	turns map[string]turn // by the TPM's address
	shown map[string]bool // Names of keys that a use has shown to be as the store says
}

// turn is of whoever gives a PIN: of two at once, one could be one too many.
type turn chan struct{}

// NewUsers are the users of a service that begins.
func NewUsers() *Users { return &Users{turns: map[string]turn{}, shown: map[string]bool{}} }

func (all *Users) turn(t *provider.TPM) turn {
	all.mu.Lock()
	defer all.mu.Unlock()
	its := all.turns[t.String()]
	if its == nil {
		its = make(turn, 1)
		all.turns[t.String()] = its
	}
	return its
}

// User is one user of a service, with all its connections. Of the wrong PINs that lead a TPM to its lockout one user has half (one at
// least); beyond, that user's are refused until the TPM has forgiven some. Users take turns at the TPM. Safe for concurrent use.
type User struct {
	all   *Users
	turn  turn              // among the user's connections, so that only one of them waits for the turn among all users
	wrong map[string]uint32 // PINs at most, of those that the TPM at an address counts; its reader has the turn
}

// New is a user who gave no wrong PIN.
func (all *Users) New() *User {
	return &User{all: all, turn: make(turn, 1), wrong: map[string]uint32{}}
}

// mayTry refuses a PIN where a wrong one would be more than users of a service have, or this one; the turns are the caller's. The TPM is
// asked each time, since others give it PINs too, and what this process knows ends with it.
func (u *User) mayTry(ctx context.Context, t *provider.TPM) error {
	p, err := t.Lockout(ctx)
	if err != nil {
		return err
	}
	mine := min(u.wrong[t.String()], p.LockoutCounter)
	u.wrong[t.String()] = mine
	switch {
	case p.MaxAuthFail < 2:
		return refuse(CKR_PIN_LOCKED, "the first wrong PIN locks this TPM for everybody: a service takes none for it, until its lockout authorisation "+
			"lets it take more (tpm2_dictionarylockout --setup-parameters)")
	case triesOfUsers(p) == 0:
		return refuse(CKR_PIN_LOCKED, "the TPM counts %d wrong PINs, %d lock it for everybody, and users of a service do not get the last one: "+
			"their PINs are taken when it has forgiven one, each %d s, or after `tpm2-p11 lockout reset`", p.LockoutCounter, p.MaxAuthFail, p.LockoutInterval)
	case mine >= max(p.MaxAuthFail/2, 1):
		return refuse(CKR_PIN_LOCKED, "of the wrong PINs that the TPM takes until it locks everybody out, half are of this user: it takes another one "+
			"when the TPM has forgiven one, each %d s, or after `tpm2-p11 lockout reset`", p.LockoutInterval)
	}
	return nil
}

// triesOfUsers are how many more wrong PINs a TPM gets from users of a service.
func triesOfUsers(p provider.Lockout) uint32 {
	most := max(p.MaxAuthFail, 1) - 1
	return most - min(p.LockoutCounter, most)
}

// tryPIN does what gives a TPM a PIN. A wrong one counts for the application's user too.
func (l *library) tryPIN(t *provider.TPM, try func() error) error {
	u := l.user
	if u == nil {
		return l.countTries(t, try())
	}
	for _, its := range []turn{u.turn, u.all.turn(t)} {
		select {
		case its <- struct{}{}:
			defer func() { <-its }()
		case <-l.ctx.Done():
			return l.ctx.Err()
		}
	}
	if err := u.mayTry(l.ctx, t); err != nil {
		return err
	}
	err := try()
	if errors.Is(err, provider.ErrAuth) || err != nil && l.ctx.Err() != nil { // who leaves meanwhile may have guessed wrong
		u.wrong[t.String()]++
	}
	return l.countTries(t, err)
}

// use does what uses a key of the TPM's. That is a try where the key has a PIN of its own. It may be one where wrong PINs count, until a
// use shows that the key takes what the store says: none, say, of a key that another tool made. That tool may change it, under the same Name: uses that are under way by then are
// each a try.
func (l *library) use(t *provider.TPM, e keystore.Entry, use func() error) error {
	switch {
	case e.AsksOwnPIN():
		return l.tryPIN(t, use)
	case l.user == nil || !e.CountsPINs():
		return l.countTries(t, use())
	case l.user.all.saw(e):
		err := use()
		if err != nil { // whatever it says: who leaves before the answer may have guessed wrong
			l.user.all.forget(e)
		}
		return l.countTries(t, err)
	}
	err := l.tryPIN(t, use)
	switch {
	case err == nil:
		l.user.all.see(e)
	case RVOf(err) == CKR_PIN_LOCKED:
		err = fmt.Errorf("wrong PINs of key %q count, and no use has shown yet that it takes none: %w", e.Label, err)
	}
	return err
}

func (all *Users) saw(e keystore.Entry) bool {
	all.mu.Lock()
	defer all.mu.Unlock()
	return all.shown[string(e.Object.Public.Name())]
}

func (all *Users) see(e keystore.Entry) {
	all.mu.Lock()
	defer all.mu.Unlock()
	all.shown[string(e.Object.Public.Name())] = true
}

func (all *Users) forget(e keystore.Entry) {
	all.mu.Lock()
	defer all.mu.Unlock()
	delete(all.shown, string(e.Object.Public.Name()))
}

// mayGivePIN refuses a token's PIN from an application that a login would be of no use to: a wrong one costs all who use the TPM.
func (l *library) mayGivePIN(s *slot, role keystore.Role) error {
	if role == keystore.SO && l.restrains(s) {
		return refuse(CKR_TOKEN_WRITE_PROTECTED, "%s", restraint)
	}
	label := s.token.Label()
	if l.guard.sees(label, "", anyWay) {
		return nil
	}
	seen := false
	_, err := s.token.Search(func(g *keystore.Glance) bool {
		seen = seen || l.guard.sees(label, g.Label, anyWay)
		return seen
	})
	if err == nil && !seen {
		return refuse(CKR_FUNCTION_REJECTED, "nothing of token %q is for this client: an [[access]] table would say it", label)
	}
	return err
}
