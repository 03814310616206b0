package provider

import (
	"context"
	"crypto"
	"maps"
	"reflect"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/policy"
)

// policyUse is one use of an object with a policy.
type policyUse struct {
	nameAlg tpm2.TPMIAlgHash
	hash    crypto.Hash // of nameAlg
	auth    Auth
	code    tpm2.TPMCC // the command that is to be authorised
	hide    crypt
	broken  map[string]error // signatures of approved policies that the TPM did not take, and why
	plan    plan             // how this use goes about it
	kept    bool             // as the one before did
}

// plan is how a policy is satisfied, with all that was asked to find it: for a use that would get the same answers it is the plan too.
type plan struct {
	policy  policy.Policy
	nameAlg tpm2.TPMIAlgHash
	code    tpm2.TPMCC
	noPIN   bool

	pcrs     pcrValues         // those that were compared; whether they still are so is not looked at
	looked   bool              // at the approved policies,
	approved []policy.Approved // which were these
	passing  bool              // an index, the clock or a hierarchy was asked: what they say is asked each time

	steps []policy.Step
}

// serves tells whether a use would come to this plan, if the PCRs are what they were.
func (p *plan) serves(u *policyUse) bool {
	if p.passing || p.nameAlg != u.nameAlg || p.code != u.code || p.noPIN != (u.auth.Value == nil) ||
		!p.policy.Equal(u.auth.Policy) {
		return false
	}
	if !p.looked {
		return true
	}
	approved, err := u.readApproved()
	return err == nil && reflect.DeepEqual(approved, p.approved)
}

// planPolicy finds the plan of a use, and tells whether the session that waits took its steps ahead. That PCRs are what they were is for
// the TPM to find: it refuses the session, or a step, and the next attempt has a plan of its own.
func (c *connection) planPolicy(ctx context.Context, u *policyUse) (ahead bool, err error) {
	c.receiveStep(ctx)
	p := c.policy
	if u.kept = p != nil && p.plan.serves(u); u.kept {
		u.plan = p.plan
		return p.ahead, nil
	}
	if p != nil && p.ahead { // another plan may have the same steps
		err := c.makePlan(ctx, u, maps.Clone(p.plan.pcrs))
		if err == nil && p.hash == u.hash && reflect.DeepEqual(u.plan.steps, p.plan.steps) {
			return true, nil
		}
		if c.policy == p { // planning may have needed its place
			c.restartPolicy(ctx, p)
		}
	}
	return false, c.makePlan(ctx, u, make(pcrValues))
}

// makePlan plans a use, of which some PCRs' values are known already.
func (c *connection) makePlan(ctx context.Context, u *policyUse, pcrs pcrValues) (err error) {
	u.plan = plan{policy: u.auth.Policy, nameAlg: u.nameAlg, code: u.code, noPIN: u.auth.Value == nil, pcrs: pcrs}
	u.plan.steps, err = u.auth.Policy.Plan(u.nameAlg, c.policyState(ctx, u))
	return err
}
