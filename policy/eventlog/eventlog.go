// Package eventlog reads what firmware and boot loaders wrote down of their
// measurements (TCG PC Client Platform Firmware Profile, section 10), and says
// which PCR values follow from it.
//
// A log proves nothing by itself: whoever can write it can write anything. What
// it says is true as far as its replay gives the PCRs that a TPM has, and then
// only the digests are: of an event's type and text nothing is, but for events
// whose digest is the hash of their data (Event.Verified).
package eventlog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2"
)

// ErrMalformed is wrapped by every error about a log that cannot be read.
var ErrMalformed = errors.New("not a TCG event log")

// MaxSize bounds a log in bytes. Firmware sets some 64 KiB aside.
const MaxSize = 16 << 20

const (
	maxAlgorithms = 16
	maxDigest     = 64
	maxPCR        = 23
	noAction      = 0x00000003
)

// Log is an event log.
type Log struct {
	Banks  []Bank  // the hashes that events have, in the log's order
	Events []Event // in their order, those that extend nothing included
}

// Bank is a hash of the log and the length of its digests in bytes.
type Bank struct {
	Hash tpm2.TPMIAlgHash
	Size int
}

// Event is one entry.
type Event struct {
	PCR     uint
	Type    Type
	Digests map[tpm2.TPMIAlgHash][]byte
	Data    []byte
}

// Extends tells whether the event changed its PCR.
func (e Event) Extends() bool { return e.Type != noAction }

// Parse reads a log as Linux gives it in /sys/kernel/security/tpm0/binary_bios_measurements: one of TPM 2.0 with several hashes,
// or the older form with SHA-1 alone. Unused space at the end, all zeros or all ones, is left out. Errors wrap ErrMalformed.
func Parse(log []byte) (*Log, error) {
	if len(log) > MaxSize {
		return nil, fmt.Errorf("%w: it has %d bytes", ErrMalformed, len(log))
	}
	r := &reader{rest: log}
	first, err := r.oldEvent()
	if err != nil {
		return nil, fmt.Errorf("%w: event 1: %w", ErrMalformed, err)
	}
	l := &Log{Banks: []Bank{{tpm2.TPMAlgSHA1, 20}}, Events: []Event{first}}
	next := r.oldEvent
	if first.Type == noAction && bytes.HasPrefix(first.Data, []byte("Spec ID Event03\x00")) {
		if l.Banks, err = parseSpecID(first.Data[16:]); err != nil {
			return nil, fmt.Errorf("%w: its header: %w", ErrMalformed, err)
		}
		first.Digests = nil
		l.Events = []Event{first}
		next = func() (Event, error) { return r.event(l.Banks) }
	}
	for !r.unused() {
		e, err := next()
		if err != nil {
			return nil, fmt.Errorf("%w: event %d: %w", ErrMalformed, len(l.Events)+1, err)
		}
		l.Events = append(l.Events, e)
	}
	return l, nil
}

// parseSpecID reads TCG_EfiSpecIdEvent after its signature.
func parseSpecID(b []byte) ([]Bank, error) {
	r := &reader{rest: b}
	r.take(8) // platform class, versions, size of UINTN
	n := r.uint32()
	if n == 0 || n > maxAlgorithms {
		return nil, fmt.Errorf("it names %d hashes", n)
	}
	var banks []Bank
	for range n {
		bank := Bank{tpm2.TPMIAlgHash(r.uint16()), int(r.uint16())}
		if r.short {
			return nil, errShort
		}
		known := slices.ContainsFunc(banks, func(b Bank) bool { return b.Hash == bank.Hash })
		if h, err := bank.Hash.Hash(); bank.Size == 0 || bank.Size > maxDigest || known || err == nil && h.Size() != bank.Size {
			return nil, fmt.Errorf("its hash 0x%04x has %d bytes, or is there twice", uint16(bank.Hash), bank.Size)
		}
		banks = append(banks, bank)
	}
	return banks, nil
}

// reader takes little-endian values from the front; after it ran short all are zero.
type reader struct {
	rest  []byte
	short bool
}

var errShort = errors.New("it is cut short")

func (r *reader) take(n uint32) []byte {
	if r.short || uint64(n) > uint64(len(r.rest)) {
		r.short = true
		return nil
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) uint16() uint16 {
	if b := r.take(2); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

func (r *reader) uint32() uint32 {
	if b := r.take(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

// unused tells whether no event follows.
func (r *reader) unused() bool {
	return bytes.Count(r.rest, []byte{0x00}) == len(r.rest) || bytes.Count(r.rest, []byte{0xff}) == len(r.rest)
}

// oldEvent reads TCG_PCR_EVENT.
func (r *reader) oldEvent() (Event, error) {
	e := Event{PCR: uint(r.uint32()), Type: Type(r.uint32())}
	e.Digests = map[tpm2.TPMIAlgHash][]byte{tpm2.TPMAlgSHA1: r.take(20)}
	return r.finish(e)
}

// event reads TCG_PCR_EVENT2.
func (r *reader) event(banks []Bank) (Event, error) {
	e := Event{PCR: uint(r.uint32()), Type: Type(r.uint32()), Digests: map[tpm2.TPMIAlgHash][]byte{}}
	n := r.uint32()
	if n > maxAlgorithms {
		return Event{}, fmt.Errorf("it has %d digests", n)
	}
	for range n {
		hash := tpm2.TPMIAlgHash(r.uint16())
		at := slices.IndexFunc(banks, func(b Bank) bool { return b.Hash == hash })
		if r.short {
			return Event{}, errShort
		}
		if at < 0 || e.Digests[hash] != nil {
			return Event{}, fmt.Errorf("its hash 0x%04x is not in the header, or is there twice", uint16(hash))
		}
		e.Digests[hash] = r.take(uint32(banks[at].Size))
	}
	return r.finish(e)
}

func (r *reader) finish(e Event) (Event, error) {
	e.Data = r.take(r.uint32())
	switch {
	case r.short:
		return Event{}, errShort
	case e.Extends() && e.PCR > maxPCR:
		return Event{}, fmt.Errorf("there is no PCR %d", e.PCR)
	}
	return e, nil
}
