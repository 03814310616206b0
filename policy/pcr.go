package policy

import (
	"bytes"
	"crypto"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/google/go-tpm/tpm2"
)

// PCR requires PCRs of one bank to have given values.
type PCR struct {
	Bank tpm2.TPMIAlgHash
	// Values by PCR index, 0 to MaxPCR. A nil value stands for the value at creation
	// time, until Resolve puts it in.
	Values map[uint][]byte
	// Digest stands for the values where only it is known (a PEM holds no values): the hash, by
	// the policy session's algorithm, over the selected values. The keys of Values are the selection then.
	Digest []byte
	// Policy stands for the values where only the digest of the policy that this node is alone is known, as in systemd's
	// files of signatures. The keys of Values are the selection then.
	Policy []byte
}

// Indices is the selection, ascending.
func (p PCR) Indices() []uint { return slices.Sorted(maps.Keys(p.Values)) }

func (p PCR) walk(w *planner) error {
	if p.Policy != nil {
		return p.walkPolicy(w)
	}
	step, err := p.step(w.hash())
	if err != nil {
		return err
	}
	w.add(step)
	return nil
}

func (p PCR) step(h crypto.Hash) (PCRStep, error) {
	if err := p.validate(); err != nil {
		return PCRStep{}, err
	}
	indices := p.Indices()
	step := PCRStep{Selection: selection(p.Bank, indices), Digest: p.Digest}
	if p.Digest != nil {
		if len(p.Digest) != h.Size() {
			return PCRStep{}, fmt.Errorf("%w: the digest over %s is of another hash than the policy's", ErrInvalid, p.selected())
		}
		return step, nil
	}
	for _, i := range indices {
		if p.Values[i] == nil {
			return PCRStep{}, fmt.Errorf("%s PCR%d: %w", BankName(p.Bank), i, ErrUnresolved)
		}
	}
	step.Digest = pcrDigest(h, indices, p.Values)
	return step, nil
}

// walkPolicy has the TPM take the values that there are, and come to another digest with wrong ones.
func (p PCR) walkPolicy(w *planner) error {
	switch err := p.validate(); {
	case err != nil:
		return err
	case w.begun() || len(p.Policy) != w.hash().Size():
		return fmt.Errorf("%w: the policy digest of %s is of another policy", ErrInvalid, p.selected())
	}
	w.steps = append(w.steps, PCRStep{Selection: selection(p.Bank, p.Indices())})
	w.digest.value = p.Policy
	return nil
}

// pcrDigest is the hash over PCR values in ascending order.
func pcrDigest(h crypto.Hash, ascending []uint, values map[uint][]byte) []byte {
	sum := h.New()
	for _, i := range ascending {
		sum.Write(values[i])
	}
	return sum.Sum(nil)
}

func (p PCR) resolve(now State, force bool) (Node, error) {
	if err := p.validate(); err != nil {
		return nil, err
	}
	if i := slices.IndexFunc(p.Indices(), resettable); i >= 0 && !force {
		return nil, fmt.Errorf("PCR%d: %w: bind to a PCR that only a boot resets, or force it", p.Indices()[i], ErrResettable)
	}
	// Without a TPM a policy is as good as the values in it; with one the bank must answer.
	var current map[uint][]byte
	if p.open() || now.PCRs != nil {
		var err error
		if current, err = p.read(now); err != nil {
			return nil, err
		}
	}
	if p.Digest != nil || p.Policy != nil {
		return p, nil
	}
	resolved := PCR{Bank: p.Bank, Values: make(map[uint][]byte, len(p.Values))}
	for _, i := range p.Indices() {
		value := p.Values[i]
		if value == nil {
			value = bytes.Clone(current[i])
		}
		if !force && i <= 7 && unmeasured(value) {
			return nil, fmt.Errorf("%s PCR%d is all %02x: %w: bind to a bank that the firmware extends, or force it",
				BankName(p.Bank), i, value[0], ErrUnmeasured)
		}
		resolved.Values[i] = value
	}
	return resolved, nil
}

// open tells whether values are to be read yet.
func (p PCR) open() bool {
	if p.Digest != nil || p.Policy != nil {
		return false
	}
	for _, value := range p.Values {
		if value == nil {
			return true
		}
	}
	return false
}

// resettable tells the PCRs that any program may reset and extend anew: debug and application support
// (TCG PC Client Platform TPM Profile, section 4.6).
func resettable(i uint) bool { return i == 16 || i == 23 }

// unmeasured tells a PCR as it is after a reset: firmware that measures extends each of PCRs 0 to 7 at least by a separator.
func unmeasured(value []byte) bool {
	return bytes.Count(value, []byte{0x00}) == len(value) || bytes.Count(value, []byte{0xff}) == len(value)
}

func (p PCR) check(now State) error {
	if p.Digest != nil || p.Policy != nil {
		return p.checkDigest(now)
	}
	current, err := p.read(now)
	if err != nil {
		return err
	}
	for _, i := range p.Indices() {
		if p.Values[i] == nil {
			return fmt.Errorf("%s PCR%d: %w", BankName(p.Bank), i, ErrUnresolved)
		}
		if subtle.ConstantTimeCompare(p.Values[i], current[i]) != 1 {
			return &UnsatisfiedError{Node: p, Bank: p.Bank, PCR: i, Want: p.Values[i], Have: current[i]}
		}
	}
	return nil
}

func (p PCR) checkDigest(now State) error {
	current, err := p.read(now)
	if err != nil {
		return err
	}
	indices, want := p.Indices(), p.Digest
	if want == nil {
		want = p.Policy
	}
	d := &digest{hash: crypto.SHA256}
	if len(want) == crypto.SHA384.Size() {
		d.hash = crypto.SHA384
	}
	have := pcrDigest(d.hash, indices, current)
	if p.Policy != nil {
		d.reset()
		PCRStep{Selection: selection(p.Bank, indices), Digest: have}.extend(d)
		have = d.value
	}
	if !bytes.Equal(have, want) {
		return &UnsatisfiedError{Node: p, Bank: p.Bank, PCR: indices[0], PCRs: indices, Want: want, Have: have}
	}
	return nil
}

// read reads all selected values and makes sure that there are all of them.
func (p PCR) read(now State) (map[uint][]byte, error) {
	if err := p.validate(); err != nil {
		return nil, err
	}
	size, _ := policyBank(p.Bank) // which is one of a policy's, or it were not valid
	indices := p.Indices()
	current, err := now.pcrs(p.Bank, indices)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", p.selected(), err)
	}
	for _, i := range indices {
		if len(current[i]) != size {
			return nil, fmt.Errorf("%s PCR%d: %w: choose one of those that `tpm2-p11 pcr read` shows",
				BankName(p.Bank), i, ErrBankInactive)
		}
	}
	return current, nil
}

func (p PCR) validate() error {
	size, err := policyBank(p.Bank)
	if err != nil {
		return err
	}
	if len(p.Values) == 0 {
		return fmt.Errorf("%w: no PCR is named", ErrInvalid)
	}
	if p.Digest != nil && p.Policy != nil {
		return fmt.Errorf("%w: a digest over PCRs and one of a policy exclude each other", ErrInvalid)
	}
	for _, d := range [][]byte{p.Digest, p.Policy} {
		if d != nil && len(d) != crypto.SHA256.Size() && len(d) != crypto.SHA384.Size() {
			return fmt.Errorf("%w: a digest over PCRs has 32 or 48 bytes, not %d", ErrInvalid, len(d))
		}
	}
	for _, i := range p.Indices() {
		if err := validIndex(i); err != nil {
			return err
		}
		value := p.Values[i]
		if value != nil && (p.Digest != nil || p.Policy != nil) {
			return fmt.Errorf("%w: PCR %d has a value beside a digest over all of them", ErrInvalid, i)
		}
		if value != nil && len(value) != size {
			return fmt.Errorf("%w: a value of %s PCR %d has %d bytes, not %d", ErrInvalid, BankName(p.Bank), i, size, len(value))
		}
	}
	return nil
}

func (p PCR) children() []Node { return nil }

func (p PCR) explain(w *explainer) {
	if p.Digest != nil {
		w.line("%s PCRs %s have the values whose digest is %x", BankName(p.Bank), joinIndices(p.Indices()), p.Digest)
		return
	}
	if p.Policy != nil {
		w.line("%s PCRs %s have the values whose policy digest is %x", BankName(p.Bank), joinIndices(p.Indices()), p.Policy)
		return
	}
	for _, i := range p.Indices() {
		if value := p.Values[i]; value != nil {
			w.line("%s PCR %d is %x", BankName(p.Bank), i, value)
		} else {
			w.line("%s PCR %d is what it is when the object is made", BankName(p.Bank), i)
		}
	}
}

// selected is the selection alone, "sha256:0,7".
func (p PCR) selected() string {
	return BankName(p.Bank) + ":" + joinIndices(p.Indices())
}

func joinIndices(indices []uint) string {
	texts := make([]string, len(indices))
	for n, i := range indices {
		texts[n] = strconv.FormatUint(uint64(i), 10)
	}
	return strings.Join(texts, ",")
}

func (p PCR) text() string {
	if p.Digest != nil {
		return p.selected() + " digest " + hex.EncodeToString(p.Digest)
	}
	if p.Policy != nil {
		return p.selected() + " policy " + hex.EncodeToString(p.Policy)
	}
	var texts []string
	for _, i := range p.Indices() {
		t := strconv.FormatUint(uint64(i), 10)
		if value := p.Values[i]; value != nil {
			t += "=" + hex.EncodeToString(value)
		}
		texts = append(texts, t)
	}
	return BankName(p.Bank) + ":" + strings.Join(texts, ",")
}
