package provider

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/policy"
)

// maxPolicyRuns is how often a policy is executed when PCRs change under it. Any extended PCR counts, the policy's or not.
const maxPolicyRuns = 16

// withPolicy executes the policy in a session of its own and calls use, over again as long as PCRs change, and with the next
// approved policy where the TPM does not take the approval of one. The session's hash is the object's nameAlg: a TPM
// compares policy digests of one hash only (Part 1, section 19.7).
func (c *connection) withPolicy(ctx context.Context, u policyUse, use func([]authorization) error) (err error) {
	if u.hash, err = u.nameAlg.Hash(); err != nil {
		return fmt.Errorf("%w: %w: name algorithm: %w", ErrPolicy, ErrUnsupported, err)
	}
	for range maxPolicyRuns {
		err = c.policyOnce(ctx, &u, use)
		for err != nil && errors.As(err, new(brokenApproval)) {
			err = c.policyOnce(ctx, &u, use)
		}
		outdated := u.kept && isCode(err, tpm2.TPMRCPolicyFail) // a step without a digest takes any PCRs
		if !outdated && !errors.Is(err, errPCRMoved) && !isCode(err, tpm2.TPMRCPCRChanged) {
			return err
		}
	}
	return fmt.Errorf("%w: PCRs do not come to rest: %w", ErrPolicy, err)
}

// policyOnce executes the policy, unless that was done ahead, and uses it; what succeeded leaves its session to the next one.
//
// With a PIN in the policy the session is salted, as its HMAC is made with the authValue, and encrypts itself. Otherwise the HMAC
// session encrypts: whoever meets the policy need not know the authValue, which would be part of the policy session's encryption key.
// With a hierarchy's consent in it the session is salted too, lest the consent serve somebody else who sees the session's handle;
// a policy that asks for neither anybody meets, and its session needs no key.
func (c *connection) policyOnce(ctx context.Context, u *policyUse, use func([]authorization) error) (err error) {
	ahead, err := c.planPolicy(ctx, u)
	if err != nil {
		return u.refused(err)
	}
	steps := u.plan.steps
	pin, consent := slices.Contains(steps, policy.Step(policy.AuthValueStep{})), slices.ContainsFunc(steps, isSecret)
	hidden := u.hide != (crypt{}) && !pin // by the HMAC session
	var p *policySession
	start := func(salt *loadedKey) (err error) {
		ahead = ahead && c.policy != nil // the HMAC session may have taken its place
		p, err = c.takePolicy(ctx, u.hash, salt)
		return err
	}
	switch {
	case pin || consent:
		err = c.withSRK(ctx, start)
	case hidden:
		_, err = c.hmacSession(ctx)
	}
	if err == nil && p == nil {
		err = start(nil)
	}
	if err != nil {
		return err
	}
	defer func() {
		switch {
		case err == nil:
			c.keepPolicy(ctx, p, u.plan)
		case isCode(err, tpm2.TPMRCPCRChanged):
			if ahead {
				c.resting = restingUses
			}
			c.restartPolicy(ctx, p)
		default:
			c.end(ctx, p.session)
		}
	}()
	auths := []authorization{{session: p.session}}
	if pin {
		auths[0].value, auths[0].decrypt, auths[0].encrypt = authValue(u.auth.Value), u.hide.decrypt, u.hide.encrypt
	}
	if hidden {
		s, err := c.hmacSession(ctx)
		if err != nil {
			return err
		}
		auths = append(auths, authorization{session: s, decrypt: u.hide.decrypt, encrypt: u.hide.encrypt})
	}
	if consent {
		if err := c.prove(ctx, p.session); err != nil {
			return err
		}
	}
	if !ahead {
		for _, step := range steps {
			if err := c.policyStep(ctx, p.session, step); err != nil {
				return c.explainRefusal(ctx, u, step, err)
			}
		}
	}
	if err = use(auths); isCode(err, tpm2.TPMRCPolicyFail) && !u.kept {
		if why := c.unmet(ctx, u); why != nil {
			return u.refused(why)
		}
	}
	return err
}

// unmet says what keeps the policy from being met now, nil for nothing.
func (c *connection) unmet(ctx context.Context, u *policyUse) error {
	u.plan = plan{pcrs: make(pcrValues)}
	return u.auth.Policy.Check(c.policyState(ctx, u))
}

// refusal is an ErrPolicy whose cause is known, and says all there is to say.
type refusal struct{ cause *policy.UnsatisfiedError }

func (r refusal) Error() string   { return r.cause.Error() }
func (r refusal) Unwrap() []error { return []error{ErrPolicy, r.cause} }

// refused makes an ErrPolicy of what package policy says, naming the object. What came from the TPM itself stays what it is.
func (u *policyUse) refused(err error) error {
	var unsatisfied *policy.UnsatisfiedError
	switch {
	case errors.As(err, &unsatisfied):
		named := *unsatisfied
		named.Label = u.auth.Label
		var cause error = refusal{&named}
		for _, broken := range u.broken {
			cause = fmt.Errorf("%w; besides, the TPM did not take an approval: %w", cause, broken)
		}
		return cause
	case errors.Is(err, ErrUnavailable), errors.Is(err, ErrBusy), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	}
	return fmt.Errorf("%w: %w", ErrPolicy, err)
}

// errPCRMoved: the TPM refused PCR values that are right when they are read.
var errPCRMoved = errors.New("the PCRs changed")

// policyStep sends one policy command.
func (c *connection) policyStep(ctx context.Context, s *session, step policy.Step) error {
	switch step := step.(type) {
	case policy.NVStep:
		return c.policyNV(ctx, s, step)
	case policy.AuthorizeNVStep:
		return c.policyAuthorizeNV(ctx, s, step)
	case policy.SecretStep:
		return c.policySecret(ctx, s, step)
	case policy.AuthorizeStep:
		return c.policyAuthorize(ctx, s, step)
	case policy.AuthValueStep:
		s.authValue = true
	}
	cmd, err := stepCommand(s, step)
	if err == nil {
		_, err = c.run(ctx, cmd)
	}
	return err
}

// stepCommand is the command of a step that asks for nothing but its session.
func stepCommand(s *session, step policy.Step) (command, error) {
	cmd := command{in: []entity{permanent(s.handle)}}
	switch step := step.(type) {
	case policy.PCRStep:
		cmd.code = tpm2.TPMCCPolicyPCR
		cmd.params = step.AppendSelection(put2B(make([]byte, 0, 128), step.Digest))
	case policy.AuthValueStep:
		cmd.code = tpm2.TPMCCPolicyAuthValue
	case policy.ClockStep:
		cmd.code = tpm2.TPMCCPolicyCounterTimer
		cmd.params = put16(put16(put2B(nil, step.Operand), step.Offset), uint16(step.Operation))
	case policy.CommandStep:
		cmd.code = tpm2.TPMCCPolicyCommandCode
		cmd.params = put32(nil, uint32(step.Code))
	case policy.OrStep:
		cmd.code = tpm2.TPMCCPolicyOR
		cmd.params = put32(nil, uint32(len(step.Digests)))
		for _, d := range step.Digests {
			cmd.params = put2B(cmd.params, d)
		}
	default:
		return cmd, fmt.Errorf("%w: %w: policy step %T", ErrPolicy, ErrUnsupported, step)
	}
	return cmd, nil
}

// explainRefusal says which node keeps a policy from being met, where the TPM refused a command for that. If none does, a PCR
// moved since, or the TPM does not take an approval.
func (c *connection) explainRefusal(ctx context.Context, u *policyUse, step policy.Step, said error) error {
	authorize, approval := step.(policy.AuthorizeStep)
	var hierarchy *HierarchyError
	if _, secret := step.(policy.SecretStep); secret && errors.As(said, &hierarchy) {
		return c.explainSecret(ctx, u, step, hierarchy)
	}
	refused := isCode(said, tpm2.TPMRCValue) || isCode(said, tpm2.TPMRCPolicyFail) || isCode(said, tpm2.TPMRCPolicy) ||
		errors.Is(said, errOtherIndex) || approval && codeOf(said) != 0
	if !refused || isStale(said) || errors.Is(said, ErrNoMemory) {
		return said
	}
	if err := c.unmet(ctx, u); err != nil {
		return u.refused(err)
	}
	switch step := step.(type) {
	case policy.PCRStep:
		return fmt.Errorf("%w: %s are not as approved", errPCRMoved, selectionText(step.Selection))
	case policy.OrStep: // the session came to the digest of no branch
		return fmt.Errorf("%w: the PCRs are those of another branch", errPCRMoved)
	}
	switch {
	case approval && isParameter(codeOf(said), tpm2.TPMRCValue, 1): // the session came to another digest than the approved one
		return fmt.Errorf("%w: the PCRs are not as approved", errPCRMoved)
	case approval:
		if u.broken == nil {
			u.broken = make(map[string]error)
		}
		u.broken[string(authorize.Signature)] = said
		return brokenApproval{said}
	}
	return fmt.Errorf("%w: %w", ErrPolicy, said)
}

// explainSecret says of a hierarchy that did not take an auth value whether none was given, or another one.
func (c *connection) explainSecret(ctx context.Context, u *policyUse, step policy.Step, said *HierarchyError) error {
	node := policy.Secret(step.(policy.SecretStep))
	err := policy.Policy{Root: node}.Check(c.policyState(ctx, u))
	if err == nil {
		err = node.Wrong()
	}
	return secretRefusal{u.refused(err), said}
}

// secretRefusal is a refusal that is an ErrHierarchyAuth too.
type secretRefusal struct {
	error
	said *HierarchyError
}

func (r secretRefusal) Unwrap() []error { return []error{r.error, r.said} }

// brokenApproval: the TPM did not take an approved policy.
type brokenApproval struct{ error }

func (e brokenApproval) Unwrap() []error { return []error{ErrPolicy, e.error} }
