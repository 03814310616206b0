package policy

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/google/go-tpm/tpm2"
)

// NV compares bytes of an NV index (TPM2_PolicyNV). Numbers are big-endian and without sign.
type NV struct {
	Index tpm2.TPMHandle // 0x01…
	// Name is the index's, once it was written; nil asks Resolve for it. It follows from its number, attributes and size, and
	// not from its content.
	Name   []byte
	Offset uint16
	Op     tpm2.TPMEO
	Value  []byte // 1 to MaxNVValue bytes, which end within the first MaxNVIndex of the index
}

// MaxNVIndex is as much of an index, in bytes, as policies look at: every TPM reads that much in one command.
const MaxNVIndex = 64

// MaxNVValue is the most bytes that are compared: the smallest digest's (TPM 2.0 Part 2, TPM2B_OPERAND).
const MaxNVValue = 32

// operators are those that have a name.
var operators = []struct {
	name, sign string
	op         tpm2.TPMEO
}{
	{"eq", "=", tpm2.TPMEOEq},
	{"ne", "≠", tpm2.TPMEONeq},
	{"gt", ">", tpm2.TPMEOUnsignedGT},
	{"lt", "<", tpm2.TPMEOUnsignedLT},
	{"ge", "≥", tpm2.TPMEOUnsignedGE},
	{"le", "≤", tpm2.TPMEOUnsignedLE},
	{"bits_set", "has all bits of", tpm2.TPMEOBitSet},
	{"bits_clear", "has no bit of", tpm2.TPMEOBitClear},
}

func (n NV) walk(p *planner) error {
	if err := n.validate(); err != nil {
		return err
	}
	if n.Name == nil {
		return fmt.Errorf("NV index 0x%08x: its Name: %w", uint32(n.Index), ErrUnresolved)
	}
	p.add(NVStep(n))
	return nil
}

func (n NV) resolve(now State, _ bool) (Node, error) {
	if err := n.validate(); err != nil || n.Name != nil {
		return n, err
	}
	x, err := now.unnamed(n.Index)
	if err != nil {
		return nil, err
	}
	if int(n.Offset)+len(n.Value) > len(x.Data) {
		return nil, fmt.Errorf("%w: NV index 0x%08x has %d bytes, and byte %d is compared",
			ErrInvalid, uint32(n.Index), len(x.Data), int(n.Offset)+len(n.Value))
	}
	n.Name = bytes.Clone(x.Name)
	return n, nil
}

func (n NV) check(now State) error {
	if err := n.validate(); err != nil {
		return err
	}
	x, err := now.namedIndex(n, n.Index, n.Name)
	if err != nil {
		return err
	}
	end := int(n.Offset) + len(n.Value)
	if end > len(x.Data) {
		return &UnsatisfiedError{Node: n, Wants: fmt.Sprintf("%d or more", end), Has: fmt.Sprintf("NV index 0x%08x has %d bytes", uint32(n.Index), len(x.Data))}
	}
	if have := x.Data[n.Offset:end]; !n.holds(have) {
		return &UnsatisfiedError{Node: n, Wants: n.sign() + " " + number(n.Value), Has: fmt.Sprintf("NV index 0x%08x is %s", uint32(n.Index), number(have))}
	}
	return nil
}

// NamelessError says that a policy names an NV index by its number alone, and that there is no TPM to ask for its Name, which is
// part of the policy's digest. It wraps ErrUnknown.
type NamelessError struct{ Index tpm2.TPMHandle }

func (e *NamelessError) Error() string {
	return fmt.Sprintf("NV index 0x%08x: the policy does not give its name, and %v", uint32(e.Index), ErrUnknown)
}

func (e *NamelessError) Unwrap() error { return ErrUnknown }

// unnamed reads the index whose Name Resolve is asked for.
func (s State) unnamed(index tpm2.TPMHandle) (NVIndex, error) {
	if s.NV == nil {
		return NVIndex{}, &NamelessError{index}
	}
	return s.nv(index)
}

// namedIndex reads the index that a node means; one that is gone, or of another kind, does not meet it.
func (s State) namedIndex(n Node, index tpm2.TPMHandle, name []byte) (NVIndex, error) {
	x, err := s.nv(index)
	wants := "the one with the Name " + hex.EncodeToString(name)
	switch {
	case errors.Is(err, ErrNoIndex):
		return x, &UnsatisfiedError{Node: n, Wants: wants, Has: fmt.Sprintf("there is no NV index 0x%08x, or nothing was written to it", uint32(index))}
	case err == nil && !bytes.Equal(x.Name, name):
		return x, &UnsatisfiedError{Node: n, Wants: wants, Has: fmt.Sprintf("NV index 0x%08x is another one, with the Name %x", uint32(index), x.Name)}
	}
	return x, err
}

// holds compares as the TPM does.
func (n NV) holds(have []byte) bool {
	order := bytes.Compare(have, n.Value)
	switch n.Op {
	case tpm2.TPMEOEq:
		return order == 0
	case tpm2.TPMEONeq:
		return order != 0
	case tpm2.TPMEOUnsignedGT:
		return order > 0
	case tpm2.TPMEOUnsignedLT:
		return order < 0
	case tpm2.TPMEOUnsignedGE:
		return order >= 0
	case tpm2.TPMEOUnsignedLE:
		return order <= 0
	}
	for i, b := range n.Value {
		if n.Op == tpm2.TPMEOBitSet && have[i]&b != b || n.Op == tpm2.TPMEOBitClear && have[i]&b != 0 {
			return false
		}
	}
	return true
}

func (n NV) validate() error {
	if err := checkIndex(n.Index); err != nil {
		return err
	}
	if len(n.Value) == 0 || len(n.Value) > MaxNVValue {
		return fmt.Errorf("%w: a value to compare with has 1 to %d bytes, not %d", ErrInvalid, MaxNVValue, len(n.Value))
	}
	if end := int(n.Offset) + len(n.Value); end > MaxNVIndex {
		return fmt.Errorf("%w: of an NV index the first %d bytes are compared, not byte %d", ErrInvalid, MaxNVIndex, end)
	}
	if n.operator() < 0 {
		return fmt.Errorf("%w: the operation %d is not known", ErrInvalid, n.Op)
	}
	return nil
}

func checkIndex(h tpm2.TPMHandle) error {
	if h>>24 != 0x01 {
		return fmt.Errorf("%w: 0x%08x is no NV index: they go from 0x01000000 to 0x01ffffff", ErrInvalid, uint32(h))
	}
	return nil
}

func (n NV) operator() int {
	for i, o := range operators {
		if o.op == n.Op {
			return i
		}
	}
	return -1
}

func (n NV) sign() string {
	if i := n.operator(); i >= 0 {
		return operators[i].sign
	}
	return fmt.Sprintf("operation %d", n.Op)
}

// number shows what is compared: the content of a counter in decimal.
func number(value []byte) string {
	if len(value) == 8 {
		return strconv.FormatUint(binary.BigEndian.Uint64(value), 10)
	}
	return hex.EncodeToString(value)
}

func (n NV) children() []Node { return nil }

func (n NV) text() string {
	return fmt.Sprintf("nv 0x%08x%s %s %s", uint32(n.Index), n.at(), n.sign(), number(n.Value))
}

func (n NV) at() string {
	if n.Offset == 0 {
		return ""
	}
	return fmt.Sprintf(" at %d", n.Offset)
}

func (n NV) explain(w *explainer) {
	w.line("the content of NV index 0x%08x%s %s %s", uint32(n.Index), n.at(), n.sign(), number(n.Value))
}

func (n NV) appendJSON(b []byte) []byte {
	b = fmt.Appendf(b, `{"nv":{"index":"0x%08x"`, uint32(n.Index))
	if n.Name != nil {
		b = appendHexMember(b, "name", n.Name)
	}
	if n.Offset != 0 {
		b = fmt.Appendf(b, `,"offset":%d`, n.Offset)
	}
	op := ""
	if i := n.operator(); i >= 0 {
		op = operators[i].name
	}
	b = fmt.Appendf(b, `,"op":%q`, op)
	return append(appendHexMember(b, "value", n.Value), "}}"...)
}

// nvFromTree reads {index="0x01800010", op="le", value=5}. A number stands for the eight bytes of a counter.
func nvFromTree(tree any, at path) (Node, error) {
	table, err := indexTable(tree, at, "op", "value", "offset")
	if err != nil {
		return nil, err
	}
	n := NV{Index: table.index, Name: table.name}
	for _, needed := range []string{"op", "value"} {
		if _, ok := table.members[needed]; !ok {
			return nil, at.errorf("has no %s", needed)
		}
	}
	op := table.members["op"]
	known := -1
	var names []string
	for i, o := range operators {
		if o.name == op {
			known = i
		}
		names = append(names, o.name)
	}
	if known < 0 {
		return nil, at.member("op").errorf("is one of %s, not %v", strings.Join(names, ", "), op)
	}
	n.Op = operators[known].op
	if value, isNumber := asInteger(table.members["value"]); isNumber && value >= 0 {
		n.Value = binary.BigEndian.AppendUint64(nil, uint64(value))
	} else if n.Value, err = hexFromTree(table.members["value"], at.member("value")); err != nil {
		return nil, err
	}
	if offset, ok := table.members["offset"]; ok {
		i, isNumber := asInteger(offset)
		if !isNumber || i < 0 || i > 0xffff {
			return nil, at.member("offset").errorf("is a number of bytes, not %s", describe(offset))
		}
		n.Offset = uint16(i)
	}
	if err := n.validate(); err != nil {
		return nil, at.wrap(err)
	}
	return n, nil
}

// nvTable is a table that names an NV index.
type nvTable struct {
	index   tpm2.TPMHandle
	name    []byte
	members map[string]any
}

func indexTable(tree any, at path, more ...string) (t nvTable, err error) {
	var ok bool
	if t.members, ok = tree.(map[string]any); !ok {
		return t, at.errorf("is a table {index=…, …}, not %s", describe(tree))
	}
	for _, name := range sorted(t.members) {
		value, at := t.members[name], at.member(name)
		switch {
		case name == "index":
			if t.index, err = indexFromTree(value, at); err != nil {
				return t, err
			}
		case name == "name":
			if t.name, err = hexFromTree(value, at); err != nil {
				return t, err
			}
		case !slices.Contains(more, name):
			return t, at.errorf("is not known (known: index, name%s)", strings.Join(append([]string{""}, more...), ", "))
		}
	}
	if t.index == 0 {
		return t, at.errorf("has no index")
	}
	return t, nil
}

// indexFromTree reads an NV index: a number, as TOML has it in hexadecimal, or text.
func indexFromTree(value any, at path) (tpm2.TPMHandle, error) {
	number, ok := asInteger(value)
	if text, isText := value.(string); isText {
		var n uint32
		n, ok = parseNumber(text)
		number = int64(n)
	}
	if !ok || number < 0 || number > 0xffffffff || checkIndex(tpm2.TPMHandle(number)) != nil {
		return 0, at.errorf("is an NV index such as 0x01800001, not %v", value)
	}
	return tpm2.TPMHandle(number), nil
}

// ParseNVIndex reads the number of an NV index, "0x01800001".
func ParseNVIndex(s string) (tpm2.TPMHandle, error) {
	n, ok := parseNumber(s)
	if !ok {
		return 0, fmt.Errorf("%w: an NV index is written as 0x01800001", ErrInvalid)
	}
	return tpm2.TPMHandle(n), checkIndex(tpm2.TPMHandle(n))
}

// parseNumber reads "0x15d".
func parseNumber(s string) (uint32, bool) {
	digits, ok := strings.CutPrefix(strings.ToLower(s), "0x")
	n, err := strconv.ParseUint(digits, 16, 32)
	return uint32(n), ok && err == nil
}
