package policy

import "crypto"

// planner follows a session through a policy's commands.
type planner struct {
	digest *digest
	steps  []Step
	// guide makes the choices; nil where only the digest is wanted, which every choice makes.
	guide guide
}

// guide says how a policy is satisfied where there is a choice.
type guide interface {
	// choose is the branch that is taken, negative for none.
	choose(Any) (int, error)
	// approve is the approved policy that is taken in place of a node that stands for all of them, the zero one for none.
	approve(n approver, hash crypto.Hash) (Approved, error)
	// allow refuses what cannot be used for the command that is to be authorised.
	allow(Command) error
}

// hash is the session's.
func (p *planner) hash() crypto.Hash { return p.digest.hash }

// add notes a command.
func (p *planner) add(s Step) {
	s.extend(p.digest)
	p.steps = append(p.steps, s)
}

// begun tells whether commands ran before in the session.
func (p *planner) begun() bool { return !zeros(p.digest.value) }

// maxOr is the most branches of one TPM2_PolicyOR: TPML_DIGEST holds eight.
const maxOr = 8

// walk computes every branch's digest and takes one of them. More than eight branches become a tree of PolicyORs, each of
// eight neighbours; one that is left over goes up a level alone.
func (a Any) walk(p *planner) error {
	if err := a.validate(); err != nil {
		return err
	}
	chosen := 0
	if p.guide != nil {
		var err error
		if chosen, err = p.guide.choose(a); err != nil {
			return err
		}
	}
	level := make([][]byte, len(a))
	for i, n := range a {
		branch := planner{digest: p.digest.clone()}
		if i == chosen {
			branch.guide = p.guide
		}
		if err := n.walk(&branch); err != nil {
			return err
		}
		level[i] = branch.digest.value
		if i == chosen {
			p.steps = append(p.steps, branch.steps...)
		}
	}
	for at := chosen; len(level) > 1; at /= maxOr {
		var above [][]byte
		for first := 0; first < len(level); first += maxOr {
			group := level[first:min(first+maxOr, len(level))]
			if len(group) == 1 {
				above = append(above, group[0])
				continue
			}
			or := OrStep{Digests: group}
			or.extend(p.digest)
			above = append(above, p.digest.value)
			if taken := chosen >= 0 && at/maxOr == first/maxOr; taken || chosen < 0 && len(level) <= maxOr {
				p.steps = append(p.steps, or)
			}
		}
		level = above
	}
	p.digest.value = level[0]
	return nil
}
