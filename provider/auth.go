package provider

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"strings"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/internal/secret"
	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/provider/transport"
)

// Auth is what a caller brings to use an object.
type Auth struct {
	// Value is the object's authValue; nil is the empty one. Trailing zero bytes do not count (TPM 2.0 Part 1).
	Value *secret.Bytes
	// Policy is the policy the object was made with; zero when userWithAuth alone decides.
	Policy policy.Policy
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

// authorise calls use with the authorizations for one use of an object:
//   - with a policy, a policy session in which the policy was executed;
//   - with an authValue, or where something secret travels, the salted HMAC session;
//   - otherwise the empty password, which costs nothing.
//
// use runs again with a new policy session when PCRs changed meanwhile.
func (c *connection) authorise(ctx context.Context, p Public, a Auth, hide crypt, use func([]authorization) error) error {
	value := authValue(a.Value)
	switch {
	case !a.Policy.IsZero():
		return c.withPolicy(ctx, p.area.NameAlg, a, hide, use)
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
func (c *connection) use(ctx context.Context, o Object, a Auth, hide crypt, f func(entity, []authorization) error) error {
	counted := !o.Public.Attributes().NoDA && len(authValue(a.Value)) > 0
	return c.withObject(ctx, o, func(object entity) error {
		return c.authorise(ctx, o.Public, a, hide, func(auths []authorization) error {
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

// maxPolicyRuns is how often a policy is executed when PCRs change under it. Any extended PCR counts, the policy's or not.
const maxPolicyRuns = 16

// withPolicy executes the policy in a session of its own and calls use, over again as long as PCRs change. The session's hash is
// the object's nameAlg: a TPM compares policy digests of one hash only (Part 1, section 19.7).
func (c *connection) withPolicy(ctx context.Context, nameAlg tpm2.TPMIAlgHash, a Auth, hide crypt, use func([]authorization) error) error {
	hash, err := nameAlg.Hash()
	if err != nil {
		return fmt.Errorf("%w: %w: name algorithm: %w", ErrPolicy, ErrUnsupported, err)
	}
	steps, err := a.Policy.Steps(nameAlg)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrPolicy, err)
	}
	for range maxPolicyRuns {
		err = c.policyOnce(ctx, hash, a, steps, hide, use)
		if !errors.Is(err, errPCRMoved) && !isCode(err, tpm2.TPMRCPCRChanged) {
			return err
		}
	}
	return fmt.Errorf("%w: PCRs do not come to rest: %w", ErrPolicy, err)
}

// policyOnce executes the policy and uses it. With a PIN in the policy the session is salted, as its HMAC is made with
// the authValue, and encrypts itself. Otherwise it needs no key, and the HMAC session encrypts: whoever meets the policy
// need not know the authValue, which would be part of the policy session's encryption key.
func (c *connection) policyOnce(ctx context.Context, hash crypto.Hash, a Auth, steps []policy.Step, hide crypt, use func([]authorization) error) error {
	var auths []authorization
	start := func(salt *loadedKey) (err error) {
		s, err := c.startSession(ctx, tpm2.TPMSEPolicy, hash, salt)
		auths = []authorization{{session: s}}
		return err
	}
	if a.Policy.NeedsPIN() {
		if err := c.withSRK(ctx, start); err != nil {
			return err
		}
		auths[0].value = authValue(a.Value)
		auths[0].decrypt, auths[0].encrypt = hide.decrypt, hide.encrypt
	} else {
		if hide != (crypt{}) {
			if _, err := c.hmacSession(ctx); err != nil {
				return err
			}
		}
		if err := start(nil); err != nil {
			return err
		}
		if hide != (crypt{}) {
			auths = append(auths, authorization{session: c.session, decrypt: hide.decrypt, encrypt: hide.encrypt})
		}
	}
	s := auths[0].session
	defer c.end(ctx, s)
	for _, step := range steps {
		if err := c.policyStep(ctx, a, s, step); err != nil {
			return err
		}
	}
	return use(auths)
}

// refusal is an ErrPolicy whose cause is known, and says all there is to say.
type refusal struct{ cause *policy.UnsatisfiedError }

func (r refusal) Error() string   { return r.cause.Error() }
func (r refusal) Unwrap() []error { return []error{ErrPolicy, r.cause} }

// errPCRMoved: the TPM refused PCR values that are right when they are read.
var errPCRMoved = errors.New("the PCRs changed")

func (c *connection) policyStep(ctx context.Context, a Auth, s *session, step policy.Step) error {
	switch step := step.(type) {
	case policy.PCRStep:
		_, err := c.run(ctx, command{
			code:   tpm2.TPMCCPolicyPCR,
			in:     []entity{permanent(s.handle)},
			params: append(put2B(nil, step.Digest), tpm2.Marshal(step.Selection)...),
		})
		if isCode(err, tpm2.TPMRCValue) || isCode(err, tpm2.TPMRCPolicyFail) {
			return c.explainPCRs(ctx, a, step)
		}
		return err
	case policy.AuthValueStep:
		s.authValue = true
		_, err := c.run(ctx, command{code: tpm2.TPMCCPolicyAuthValue, in: []entity{permanent(s.handle)}})
		return err
	}
	return fmt.Errorf("%w: %w: policy step %T", ErrPolicy, ErrUnsupported, step)
}

// explainPCRs says which PCR keeps a policy from being met. If none does, a PCR moved since the TPM refused, or only
// the digest over the selection is known.
func (c *connection) explainPCRs(ctx context.Context, a Auth, step policy.PCRStep) error {
	err := a.Policy.Check(func(bank tpm2.TPMIAlgHash, indices []uint) (map[uint][]byte, error) {
		return c.readPCRs(ctx, bank, indices)
	})
	var unsatisfied *policy.UnsatisfiedError
	switch {
	case errors.As(err, &unsatisfied):
		named := *unsatisfied
		named.Label = a.Label
		return refusal{&named}
	case err != nil:
		return fmt.Errorf("%w: %w", ErrPolicy, err)
	}
	return fmt.Errorf("%w: %s are not as approved", errPCRMoved, selectionText(step.Selection))
}
