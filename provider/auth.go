package provider

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/internal/secret"
	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/provider/transport"
)

// Auth is what a caller brings to use an object.
type Auth struct {
	// Value is the object's authValue; nil is the empty one, and one that is not at hand where a policy has branches with a PIN and
	// others. Trailing zero bytes do not count (TPM 2.0 Part 1).
	Value *secret.Bytes
	// Policy is the policy the object was made with; zero when userWithAuth alone decides.
	Policy policy.Policy
	// Approved gives the policies that somebody approved, for a policy that asks for one; nil when there are none. It is
	// called for each use, and must be safe for concurrent use. What it gave is not changed afterwards.
	Approved func() ([]policy.Approved, error)
	// Label names the object in errors.
	Label string
}

// wrap names what was tried and on which object.
func (a Auth) wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	var refused refusal
	switch {
	case errors.As(err, &refused): // it names the object itself
		return fmt.Errorf("%s refused by %w", strings.TrimSuffix(what, " with key"), err)
	case a.Label != "":
		return fmt.Errorf("%s %q: %w", what, a.Label, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// crypt says which first parameter of a command is encrypted.
type crypt struct{ decrypt, encrypt bool }

// authorise calls use with the authorizations for one use of an object by a command:
//   - with a policy, a policy session in which the policy was executed;
//   - with an authValue, or where something secret travels, the salted HMAC session;
//   - otherwise the empty password, which costs nothing.
//
// use runs again with a new policy session when PCRs changed meanwhile.
func (c *connection) authorise(ctx context.Context, p Public, a Auth, code tpm2.TPMCC, hide crypt, use func([]authorization) error) error {
	value := authValue(a.Value)
	switch {
	case !a.Policy.IsZero():
		return c.withPolicy(ctx, policyUse{nameAlg: p.area.NameAlg, auth: a, code: code, hide: hide}, use)
	case len(value) == 0 && hide == crypt{}:
		return use([]authorization{{}})
	}
	s, err := c.hmacSession(ctx)
	if err != nil {
		return err
	}
	return use([]authorization{{session: s, value: value, decrypt: hide.decrypt, encrypt: hide.encrypt}})
}

// use readies an object and the authorizations for it, and calls f with them. A guess at an authValue that the TPM counts is
// not made again when the connection was lost in that very command, since the TPM may have counted it.
func (c *connection) use(ctx context.Context, o Object, a Auth, code tpm2.TPMCC, hide crypt, f func(entity, []authorization) error) (err error) {
	hasValue, noDA := len(authValue(a.Value)) > 0, o.Public.Attributes().NoDA
	counted := hasValue && !noDA
	if _, known := c.names[o.Handle]; !known && o.Handle != 0 && hasValue && noDA && a.Policy.IsZero() {
		// The command's HMAC is made with the Name that is meant, and checked with the one that is there.
		c.names[o.Handle] = shownName{o.Public.name, time.Now()}
		defer func() {
			var other *OtherObjectError
			if err == nil {
				return
			}
			delete(c.names, o.Handle) // which nothing has shown
			if codeOf(err) != 0 && errors.As(c.checkName(ctx, o.Handle, o.Public.name), &other) {
				err = other
			}
		}()
	}
	defer func() {
		if err == nil {
			c.sendNextStep()
		}
	}()
	return c.withKept(ctx, o, !o.Public.IsSealed(), func(object entity) error {
		return c.authorise(ctx, o.Public, a, code, hide, func(auths []authorization) error {
			err := f(object, auths)
			if counted && errors.Is(err, errLost) && !errors.Is(err, transport.ErrBroken) {
				return fmt.Errorf("%w: %w", errGuessed, err)
			}
			return err
		})
	})
}

// errGuessed marks a command whose fate is not known, and which may have been counted as a wrong guess.
var errGuessed = errors.New("not tried again, as the TPM counts wrong PINs")
