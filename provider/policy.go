package provider

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/policy"
)

// maxPolicyRuns is how often a policy is executed when PCRs change under it. Any extended PCR counts, the policy's or not.
const maxPolicyRuns = 16

// withPolicy executes the policy in a session of its own and calls use, over again as long as PCRs change. The session's hash is
// the object's nameAlg: a TPM compares policy digests of one hash only (Part 1, section 19.7).
func (c *connection) withPolicy(ctx context.Context, nameAlg tpm2.TPMIAlgHash, a Auth, hide crypt, use func([]authorization) error) error {
	hash, err := nameAlg.Hash()
	if err != nil {
		return fmt.Errorf("%w: %w: name algorithm: %w", ErrPolicy, ErrUnsupported, err)
	}
	for range maxPolicyRuns {
		err = c.policyOnce(ctx, nameAlg, hash, a, hide, use)
		if !errors.Is(err, errPCRMoved) && !isCode(err, tpm2.TPMRCPCRChanged) {
			return err
		}
	}
	return fmt.Errorf("%w: PCRs do not come to rest: %w", ErrPolicy, err)
}

// policyOnce executes the policy and uses it. With a PIN in the policy the session is salted, as its HMAC is made with
// the authValue, and encrypts itself. Otherwise it needs no key, and the HMAC session encrypts: whoever meets the policy
// need not know the authValue, which would be part of the policy session's encryption key.
func (c *connection) policyOnce(ctx context.Context, nameAlg tpm2.TPMIAlgHash, hash crypto.Hash, a Auth, hide crypt, use func([]authorization) error) error {
	steps, err := a.Policy.Plan(nameAlg, c.policyState(ctx, a))
	if err != nil {
		return a.refused(err)
	}
	var auths []authorization
	start := func(salt *loadedKey) (err error) {
		s, err := c.startSession(ctx, tpm2.TPMSEPolicy, hash, salt)
		auths = []authorization{{session: s}}
		return err
	}
	if slices.Contains(steps, policy.Step(policy.AuthValueStep{})) {
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

// refused makes an ErrPolicy of what package policy says, naming the object.
func (a Auth) refused(err error) error {
	var unsatisfied *policy.UnsatisfiedError
	if errors.As(err, &unsatisfied) {
		named := *unsatisfied
		named.Label = a.Label
		return refusal{&named}
	}
	return fmt.Errorf("%w: %w", ErrPolicy, err)
}

// errPCRMoved: the TPM refused PCR values that are right when they are read.
var errPCRMoved = errors.New("the PCRs changed")

// policyStep sends one policy command.
func (c *connection) policyStep(ctx context.Context, a Auth, s *session, step policy.Step) error {
	cmd := command{in: []entity{permanent(s.handle)}}
	switch step := step.(type) {
	case policy.PCRStep:
		cmd.code = tpm2.TPMCCPolicyPCR
		cmd.params = append(put2B(nil, step.Digest), tpm2.Marshal(step.Selection)...)
	case policy.AuthValueStep:
		s.authValue = true
		cmd.code = tpm2.TPMCCPolicyAuthValue
	case policy.ClockStep:
		cmd.code = tpm2.TPMCCPolicyCounterTimer
		cmd.params = put16(put16(put2B(nil, step.Operand), step.Offset), uint16(step.Operation))
	case policy.OrStep:
		cmd.code = tpm2.TPMCCPolicyOR
		cmd.params = put32(nil, uint32(len(step.Digests)))
		for _, d := range step.Digests {
			cmd.params = put2B(cmd.params, d)
		}
	default:
		return fmt.Errorf("%w: %w: policy step %T", ErrPolicy, ErrUnsupported, step)
	}
	_, err := c.run(ctx, cmd)
	if isCode(err, tpm2.TPMRCValue) || isCode(err, tpm2.TPMRCPolicyFail) || isCode(err, tpm2.TPMRCPolicy) {
		return c.explainRefusal(ctx, a, step, err)
	}
	return err
}

// explainRefusal says which node keeps a policy from being met. If none does, a PCR moved since the TPM refused.
func (c *connection) explainRefusal(ctx context.Context, a Auth, step policy.Step, said error) error {
	if err := a.Policy.Check(c.policyState(ctx, a)); err != nil {
		return a.refused(err)
	}
	if pcr, ok := step.(policy.PCRStep); ok {
		return fmt.Errorf("%w: %s are not as approved", errPCRMoved, selectionText(pcr.Selection))
	}
	return fmt.Errorf("%w: %w", ErrPolicy, said)
}

// PolicyState is what the TPM says now, for package policy. Each function of it waits for its turn.
func (t *TPM) PolicyState(ctx context.Context) policy.State {
	return policy.State{
		PCRs: func(bank tpm2.TPMIAlgHash, indices []uint) (map[uint][]byte, error) {
			return t.ReadPCRs(ctx, bank, indices)
		},
		Clock: func() (info policy.ClockInfo, err error) {
			err = t.do(ctx, func(ctx context.Context, c *connection) (err error) {
				info, err = c.readClock(ctx)
				return err
			})
			return info, err
		},
	}
}

// policyState is PolicyState within an operation. Each bank's PCRs are read once, all that the policy names.
func (c *connection) policyState(ctx context.Context, a Auth) policy.State {
	banks := make(map[tpm2.TPMIAlgHash]map[uint][]byte)
	return policy.State{
		PCRs: func(bank tpm2.TPMIAlgHash, _ []uint) (map[uint][]byte, error) {
			values, known := banks[bank]
			if known {
				return values, nil
			}
			var indices []uint
			for _, pcr := range a.Policy.PCRs() {
				if pcr.Bank == bank {
					indices = append(indices, pcr.Indices()...)
				}
			}
			slices.Sort(indices)
			values, err := c.readPCRs(ctx, bank, slices.Compact(indices))
			banks[bank] = values
			return values, err
		},
		Clock: func() (policy.ClockInfo, error) { return c.readClock(ctx) },
		NoPIN: len(authValue(a.Value)) == 0,
	}
}

// readClock is TPM2_ReadClock (Part 3, section 29.1).
func (c *connection) readClock(ctx context.Context) (policy.ClockInfo, error) {
	r, err := c.run(ctx, command{code: tpm2.TPMCCReadClock})
	if err != nil {
		return policy.ClockInfo{}, err
	}
	r.u64() // time since the TPM was started
	info := policy.ClockInfo{Clock: r.u64(), Resets: r.u32(), Restarts: r.u32()}
	r.u8() // safe
	return info, r.end()
}
