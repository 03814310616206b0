package provider

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/internal/secret"
	"github.com/tpm2-p11/tpm2-p11/policy"
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
	if a.Label != "" {
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
func (c *connection) authorise(ctx context.Context, a Auth, hide crypt, use func([]authorization) error) error {
	value := authValue(a.Value)
	switch {
	case !a.Policy.IsZero():
		return c.withPolicy(ctx, a, hide, use)
	case len(value) == 0 && hide == crypt{}:
		return use([]authorization{{}})
	}
	s, err := c.hmacSession(ctx)
	if err != nil {
		return err
	}
	return use([]authorization{{session: s, value: value, decrypt: hide.decrypt, encrypt: hide.encrypt}})
}

// maxPolicyRuns is how often a policy is executed when PCRs change under it. Any extended PCR counts, the policy's or not.
const maxPolicyRuns = 16

// withPolicy executes the policy in a session of its own and calls use, over again as long as PCRs change.
func (c *connection) withPolicy(ctx context.Context, a Auth, hide crypt, use func([]authorization) error) error {
	steps, err := a.Policy.Steps(tpm2.TPMAlgSHA256)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrPolicy, err)
	}
	for range maxPolicyRuns {
		err = c.policyOnce(ctx, a, steps, hide, use)
		if !errors.Is(err, errPCRMoved) && !isCode(err, tpm2.TPMRCPCRChanged) {
			return err
		}
	}
	return fmt.Errorf("%w: PCRs do not come to rest: %w", ErrPolicy, err)
}

// policyOnce executes the policy and uses it. With a PIN in the policy the session is salted, as its HMAC is made with
// the authValue, and encrypts itself. Otherwise it needs no key, and the HMAC session encrypts: whoever meets the policy
// need not know the authValue, which would be part of the policy session's encryption key.
func (c *connection) policyOnce(ctx context.Context, a Auth, steps []policy.Step, hide crypt, use func([]authorization) error) error {
	var auths []authorization
	start := func(salt *loadedSRK) (err error) {
		s, err := c.startSession(ctx, tpm2.TPMSEPolicy, salt)
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
	defer c.flushIfLive(ctx, s.handle)
	for _, step := range steps {
		if err := c.policyStep(ctx, a, s, step); err != nil {
			return err
		}
	}
	return use(auths)
}

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
		return fmt.Errorf("%w: %w", ErrPolicy, &named)
	case err != nil:
		return fmt.Errorf("%w: %w", ErrPolicy, err)
	}
	return fmt.Errorf("%w: %s are not as approved", errPCRMoved, selectionText(step.Selection))
}
