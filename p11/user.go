package p11

import (
	"context"
	"errors"

	"github.com/tpm2-p11/tpm2-p11/keystore"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// User is one user of a service, with all its connections. Before the wrong PINs of one user lead a TPM to its lockout, which takes the
// PINs of all others too, that user's are refused: at half of what the TPM takes (one at least), until the TPM has forgiven some. Two users
// can still do it together. Users take turns at the TPM. Safe for concurrent use.
type User struct {
	turn  chan struct{}     // of whoever gives a PIN: of two at once, one could be one too many
	wrong map[string]uint32 // PINs at most, of those that the TPM at an address counts; its reader has the turn
}

// NewUser is a user who gave no wrong PIN.
func NewUser() *User { return &User{turn: make(chan struct{}, 1), wrong: map[string]uint32{}} }

// mayTry refuses a PIN where another wrong one would be more than the user's share; the turn is the caller's.
func (u *User) mayTry(ctx context.Context, t *provider.TPM) error {
	mine := u.wrong[t.String()]
	if mine == 0 {
		return nil
	}
	p, err := t.Properties(ctx)
	if err != nil {
		return err
	}
	if mine = min(mine, p.LockoutCounter); mine == 0 {
		delete(u.wrong, t.String())
		return nil
	}
	u.wrong[t.String()] = mine
	if p.InLockout || mine < (p.MaxAuthFail+1)/2 {
		return nil
	}
	return refuse(CKR_PIN_LOCKED, "of the wrong PINs that the TPM takes until it locks everybody out, half are of this user: it takes another one "+
		"when the TPM has forgiven one, each %d s, or after `tpm2-p11 lockout reset`", p.LockoutInterval)
}

// tryPIN does what gives a TPM a PIN. A wrong one counts for the application's user too.
func (l *library) tryPIN(t *provider.TPM, try func() error) error {
	u := l.user
	if u == nil {
		return l.countTries(t, try())
	}
	select {
	case u.turn <- struct{}{}:
		defer func() { <-u.turn }()
	case <-l.ctx.Done():
		return l.ctx.Err()
	}
	if err := u.mayTry(l.ctx, t); err != nil {
		return err
	}
	err := try()
	if errors.Is(err, provider.ErrAuth) {
		u.wrong[t.String()]++
	}
	return l.countTries(t, err)
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
