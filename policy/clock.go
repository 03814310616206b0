package policy

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-tpm/tpm2"
)

// Clock requires that the TPM's clock has not reached a time, that the machine has not restarted, or both
// (TPM2_PolicyCounterTimer). It has one of its four members at least.
//
// The TPM's clock is no wall clock: it counts milliseconds, may do so only while the TPM has power, and begins anew only at
// TPM2_Clear, with which everything that was wrapped under the owner hierarchy is lost. Two things stretch a term: the
// owner may slow the clock down by a third at most (TPM2_ClockRateAdjust), and after a power cut without TPM2_Shutdown it
// resumes from what was saved last, minutes before. Nobody can set it back.
type Clock struct {
	// Before is the end in milliseconds of the TPM's clock, 0 for none; at most 2^63-1.
	Before uint64
	// Within asks Resolve for an end that long after now, 0 for none. Exact to the millisecond.
	Within time.Duration
	// Boot is the machine's boot, nil for any.
	Boot *Boot
	// ThisBoot asks Resolve for the boot of now.
	ThisBoot bool
}

// Boot is one stretch of a TPM's life without reset, restart or resume: it ends when the machine boots, hibernates or
// sleeps. Both counters take part, since a TPM Restart, which leaves Resets as it is, is a boot, too.
type Boot struct{ Resets, Restarts uint32 }

// Places in TPMS_TIME_INFO (TPM 2.0 Part 2, sections 10.10.6 and 10.11.1).
const (
	offsetClock = 8
	offsetBoot  = 16 // resetCount and restartCount
)

func (c Clock) walk(p *planner) error {
	if err := c.validate(); err != nil {
		return err
	}
	if c.Within != 0 || c.ThisBoot {
		return fmt.Errorf("%s: %w", c.text(), ErrUnresolved)
	}
	if c.Before != 0 {
		p.add(ClockStep{Operand: binary.BigEndian.AppendUint64(nil, c.Before), Offset: offsetClock, Operation: tpm2.TPMEOUnsignedLT})
	}
	if c.Boot != nil {
		operand := binary.BigEndian.AppendUint32(nil, c.Boot.Resets)
		operand = binary.BigEndian.AppendUint32(operand, c.Boot.Restarts)
		p.add(ClockStep{Operand: operand, Offset: offsetBoot, Operation: tpm2.TPMEOEq})
	}
	return nil
}

// ClockOf is the requirement that a command stands for, if it is one of a Clock.
func ClockOf(s ClockStep) (Clock, bool) {
	switch {
	case len(s.Operand) != 8:
	case s.Offset == offsetClock && s.Operation == tpm2.TPMEOUnsignedLT:
		c := Clock{Before: binary.BigEndian.Uint64(s.Operand)}
		return c, c.validate() == nil
	case s.Offset == offsetBoot && s.Operation == tpm2.TPMEOEq:
		return Clock{Boot: &Boot{binary.BigEndian.Uint32(s.Operand), binary.BigEndian.Uint32(s.Operand[4:])}}, true
	}
	return Clock{}, false
}

func (c Clock) resolve(now State, _ bool) (Node, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	if c.Within == 0 && !c.ThisBoot {
		return c, nil
	}
	info, err := now.clock()
	if err != nil {
		return nil, err
	}
	if c.Within != 0 {
		c.Before, c.Within = info.Clock+uint64(c.Within.Milliseconds()), 0
	}
	if c.ThisBoot {
		c.Boot, c.ThisBoot = &Boot{info.Resets, info.Restarts}, false
	}
	return c, nil
}

func (c Clock) check(now State) error {
	if err := c.validate(); err != nil {
		return err
	}
	if c.Within != 0 || c.ThisBoot {
		return fmt.Errorf("%s: %w", c.text(), ErrUnresolved)
	}
	info, err := now.clock()
	switch {
	case err != nil:
		return err
	case c.Before != 0 && info.Clock >= c.Before:
		past := time.Duration(min(info.Clock-c.Before, maxTerm)) * time.Millisecond
		return &UnsatisfiedError{Node: c,
			Wants: fmt.Sprintf("below %d ms, which was %v of its running time ago", c.Before, past),
			Has:   fmt.Sprintf("the TPM's clock is at %d ms", info.Clock)}
	case c.Boot != nil && *c.Boot != Boot{info.Resets, info.Restarts}:
		return &UnsatisfiedError{Node: c,
			Wants: fmt.Sprintf("in boot %v alone", *c.Boot),
			Has:   fmt.Sprintf("this is boot %v of the TPM (resets.restarts)", Boot{info.Resets, info.Restarts})}
	}
	return nil
}

// maxTerm is the longest term in milliseconds: what a time.Duration holds.
const maxTerm = uint64(math.MaxInt64 / int64(time.Millisecond))

func (c Clock) validate() error {
	switch {
	case c.Before == 0 && c.Within == 0 && c.Boot == nil && !c.ThisBoot:
		return fmt.Errorf("%w: a clock without an end", ErrInvalid)
	case c.Before != 0 && c.Within != 0 || c.Boot != nil && c.ThisBoot:
		return fmt.Errorf("%w: a clock with two ends of one kind", ErrInvalid)
	case c.Before > math.MaxInt64: // which no number in a policy's text is
		return fmt.Errorf("%w: a clock's end is at %d ms at most, not at %d", ErrInvalid, uint64(math.MaxInt64), c.Before)
	case c.Within < 0 || c.Within%time.Millisecond != 0:
		return fmt.Errorf("%w: a clock's term is a positive number of milliseconds, not %v", ErrInvalid, c.Within)
	}
	return nil
}

// String is the boot as "resets.restarts".
func (b Boot) String() string { return fmt.Sprintf("%d.%d", b.Resets, b.Restarts) }

func (c Clock) children() []Node { return nil }

func (c Clock) text() string {
	var texts []string
	if c.Before != 0 {
		texts = append(texts, fmt.Sprintf("clock below %d ms", c.Before))
	}
	if c.Within != 0 {
		texts = append(texts, "within "+formatTerm(c.Within))
	}
	if c.Boot != nil {
		texts = append(texts, fmt.Sprintf("boot %v", *c.Boot))
	}
	if c.ThisBoot {
		texts = append(texts, "this boot")
	}
	return strings.Join(texts, " + ")
}

func (c Clock) explain(w *explainer) {
	if c.Before != 0 {
		w.line("the TPM's clock, which runs while it has power, has not reached %d ms", c.Before)
	}
	if c.Within != 0 {
		w.line("it is less than %s of the TPM's running time since the object was made", formatTerm(c.Within))
	}
	if c.Boot != nil {
		w.line("the machine has neither restarted nor slept since boot %v of its TPM (resets.restarts)", *c.Boot)
	}
	if c.ThisBoot {
		w.line("the machine has neither restarted nor slept since the object was made")
	}
}

func (c Clock) appendJSON(b []byte) []byte {
	var members []string
	if c.Before != 0 {
		members = append(members, fmt.Sprintf(`"before":%d`, c.Before))
	}
	if c.Within != 0 {
		members = append(members, fmt.Sprintf(`"within":%q`, formatTerm(c.Within)))
	}
	if c.Boot != nil {
		members = append(members, fmt.Sprintf(`"boot":"%v"`, *c.Boot))
	}
	if c.ThisBoot {
		members = append(members, `"boot":"current"`)
	}
	return fmt.Appendf(b, `{"clock":{%s}}`, strings.Join(members, ","))
}

// clockFromTree reads {before=123456}, {within="30d"}, {boot="current"}, {boot="17.2"}, or an end and a boot.
func clockFromTree(tree any, at path) (Node, error) {
	table, ok := tree.(map[string]any)
	if !ok {
		return nil, at.errorf(`is a table such as {within="30d"}, not %s`, describe(tree))
	}
	var c Clock
	for _, name := range sorted(table) {
		value, at := table[name], at.member(name)
		text, _ := value.(string)
		switch name {
		case "before":
			n, ok := asInteger(value)
			if !ok || n < 1 {
				return nil, at.errorf("is a number of milliseconds, not %s", describe(value))
			}
			c.Before = uint64(n)
		case "within":
			term, err := parseTerm(text)
			if err != nil {
				return nil, at.errorf(`is a time such as "30d" or "12h30m", not %s`, describe(value))
			}
			c.Within = term
		case "boot":
			if text == "current" {
				c.ThisBoot = true
				continue
			}
			boot, ok := parseBoot(text)
			if !ok {
				return nil, at.errorf(`is "current" or a TPM's counters such as "17.2", not %s`, describe(value))
			}
			c.Boot = &boot
		default:
			return nil, at.errorf("is neither before, within nor boot")
		}
	}
	if err := c.validate(); err != nil {
		return nil, at.wrap(err)
	}
	return c, nil
}

func parseBoot(s string) (Boot, bool) {
	resets, restarts, _ := strings.Cut(s, ".")
	r, _ := strconv.ParseUint(resets, 10, 32)
	n, _ := strconv.ParseUint(restarts, 10, 32)
	b := Boot{uint32(r), uint32(n)}
	return b, b.String() == s // which what is no number does not come to
}

const day = 24 * time.Hour

// parseTerm reads a time.Duration or a number of days, "30d".
func parseTerm(s string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		return time.Duration(n) * day, err
	}
	return time.ParseDuration(s)
}

func formatTerm(d time.Duration) string {
	if d%day == 0 && d/day <= math.MaxUint16 {
		return fmt.Sprintf("%dd", d/day)
	}
	return d.String()
}

// asInteger reads a whole number as TOML (int64) and JSON (json.Number, float64) decoders give it.
func asInteger(v any) (int64, bool) {
	switch v := v.(type) {
	case int64:
		return v, true
	case int:
		return int64(v), true
	case float64:
		const exact = 1 << 53
		return int64(v), v == math.Trunc(v) && math.Abs(v) < exact
	case json.Number:
		n, err := v.Int64()
		return n, err == nil
	}
	return 0, false
}
