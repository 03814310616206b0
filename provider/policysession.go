package provider

import (
	"context"
	"crypto"
	"reflect"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/policy"
)

// policySession is a policy session that waits for its next use. A connection keeps one.
//
// A use that succeeds leaves a session as new (Part 1, section 19.3). When two uses in a row took the same steps, the next one will
// most likely take them too: they are then taken ahead, while nobody waits for the TPM, and the use itself is one command. What was
// taken ahead serves a use of the same steps only, and the TPM refuses it when a PCR was extended since.
type policySession struct {
	*session
	plan   plan // of the last use
	due    bool // its steps are to be taken ahead
	ahead  bool // and they were
	asked  bool // the only one was sent, and its response was not received yet
	spoilt bool // or it was refused
}

// restingUses is how many uses take their steps themselves after PCRs changed under steps that were taken ahead: where PCRs are
// extended all the time, as by IMA, that is lost work.
const restingUses = 16

// takePolicy takes the session that waits, if it is of the kind that is asked for, or gives a new one. Whoever takes it hands it back by
// keepPolicy, or else ends it.
func (c *connection) takePolicy(ctx context.Context, hash crypto.Hash, salt *loadedKey) (*policySession, error) {
	if p := c.policy; p != nil && p.hash == hash && p.encrypts() == (salt != nil) {
		c.policy = nil
		return p, nil
	}
	s, err := c.startSession(ctx, tpm2.TPMSEPolicy, hash, salt)
	if err != nil {
		return nil, err
	}
	s.reused = true
	return &policySession{session: s}, nil
}

// keepPolicy keeps a session that was used for its next use.
func (c *connection) keepPolicy(ctx context.Context, p *policySession, used plan) {
	c.endPolicy(ctx)
	due := c.resting == 0 && takenAhead(used.steps) && reflect.DeepEqual(used.steps, p.plan.steps)
	c.resting = max(0, c.resting-1)
	p.authValue = false
	c.policy = &policySession{session: p.session, plan: used, due: due}
}

// takenAhead tells steps that may be taken before they are needed. What others than the TPM's PCRs decide is asked at the use itself:
// an index that revokes, a clock, a hierarchy's authValue. Nor does a session notice that PCRs 16 and 21 to 23 change, which
// are not counted as changes (TPM_PT_PCR_NO_INCREMENT).
func takenAhead(steps []policy.Step) bool {
	for _, step := range steps {
		switch step := step.(type) {
		case policy.PCRStep:
			if !changesCount(step.Selection) {
				return false
			}
		case policy.AuthValueStep, policy.CommandStep, policy.OrStep, policy.AuthorizeStep:
		default:
			return false
		}
	}
	return true
}

// changesCount tells PCRs of the static root of trust, 0 to 15: extending one ends what was authorised by PolicyPCR.
func changesCount(selection tpm2.TPMLPCRSelection) bool {
	for _, bank := range selection.PCRSelections {
		for i, bits := range bank.PCRSelect {
			if i >= 2 && bits != 0 {
				return false
			}
		}
	}
	return true
}

// stepsDue tells whether the steps of the next use are to be taken ahead, and nobody would be kept waiting by it.
func (c *connection) stepsDue() bool {
	l := c.tpm
	return c.policy != nil && c.policy.due && !l.closed.Load() && !l.takesTurns() && !l.queue.awaited()
}

// getAhead takes the steps of the next use, if they are due. If the TPM refuses one, that use will find out why and say it.
func (c *connection) getAhead(ctx context.Context) {
	p := c.policy
	p.due = false
	for _, step := range p.plan.steps {
		if err := c.policyStep(ctx, p.session, step); err != nil {
			c.tpm.log.Debug("a policy was not executed ahead", "error", err)
			c.endPolicy(ctx)
			return
		}
	}
	p.ahead = true
}

// sendNextStep sends the step of the next use, if it is due and the only one, without waiting for the response: nobody has to be woken up
// for it. Whoever sends something next receives that first.
func (c *connection) sendNextStep() {
	p := c.policy
	if !c.stepsDue() || len(p.plan.steps) != 1 {
		return
	}
	cmd, err := stepCommand(p.session, p.plan.steps[0])
	if err != nil {
		return // getAhead does what there is to do
	}
	frame, err := cmd.marshal(nil)
	sent := err == nil && c.sendAhead(&earlyCommand{bytes: frame, then: func(response []byte) {
		_, err := cmd.parse(response)
		p.received(err)
	}})
	if sent {
		p.due, p.asked = false, true
	}
}

// receiveStep receives the response to the step that was sent.
func (c *connection) receiveStep(ctx context.Context) {
	p := c.policy
	if p == nil {
		return
	}
	if p.asked {
		err := c.policyStep(ctx, p.session, p.plan.steps[0]) // which finds its command sent
		if c.sent == nil {                                   // as ctx had not ended
			p.received(err)
		}
	}
	if p.spoilt {
		c.endPolicy(ctx)
	}
}

func (p *policySession) received(err error) {
	p.asked, p.ahead, p.spoilt = false, err == nil, err != nil
	if p.plan.steps[0] == (policy.AuthValueStep{}) {
		p.authValue = p.ahead
	}
}

// restartPolicy is TPM2_PolicyRestart (Part 3, section 23.2) of a session that waits: it forgets the steps that were taken in it.
func (c *connection) restartPolicy(ctx context.Context, p *policySession) {
	p.ahead, p.authValue = false, false
	c.policy = p
	if _, err := c.run(ctx, command{code: tpm2.TPMCCPolicyRestart, in: []entity{permanent(p.handle)}}); err != nil {
		c.endPolicy(ctx)
	}
}

// endPolicy ends the session that waits.
func (c *connection) endPolicy(ctx context.Context) {
	if p := c.policy; p != nil {
		c.policy = nil
		c.end(ctx, p.session)
	}
}
