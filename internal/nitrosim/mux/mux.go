package mux

import (
	"errors"
	"fmt"
	"maps"
	"sync"
)

// TPM carries out one command at a time. An error is a TPM that is lost.
type TPM interface {
	Transmit(command []byte) (response []byte, err error)
}

// ErrClosed is a space that was closed.
var ErrClosed = errors.New("the client's space is closed")

// Mux serves spaces in turn. It is safe for concurrent use; one command is in
// the TPM at a time.
type Mux struct {
	// Eager has what a client holds saved after each command, as Linux's resource manager does, and not only when another client's turn
	// comes: each command costs two more for each session and three for each object then. It is set before the first command.
	Eager bool

	mu         sync.Mutex
	tpm        TPM
	attributes map[uint32]attributes
	gap        uint64 // distance of contexts' sequences at which they are refreshed
	newest     uint64 // sequence of the newest context

	spaces map[*Space]struct{}
	loaded map[uint32]*item        // by key of the TPM's handle
	kept   map[uint32]*keptSession // by key of the handle

	commands map[uint32]uint64
	swaps    Swaps
}

// keptSession is a session that a client saved itself.
type keptSession struct {
	given   saved // the context that the client has
	current saved // the one that the TPM takes
}

// Swaps counts commands of the multiplexer's own.
type Swaps struct{ Saves, Loads, Flushes uint64 }

// New serves a TPM that is started up and holds no objects and sessions.
func New(tpm TPM) (*Mux, error) {
	attributes, err := readAttributes(tpm)
	if err != nil {
		return nil, fmt.Errorf("reading the TPM's commands: %w", err)
	}
	gap, err := contextGap(tpm)
	if err != nil {
		return nil, fmt.Errorf("reading the TPM's context gap: %w", err)
	}
	return &Mux{
		tpm:        tpm,
		attributes: attributes,
		gap:        gap / 2,
		spaces:     map[*Space]struct{}{},
		loaded:     map[uint32]*item{},
		kept:       map[uint32]*keptSession{},
		commands:   map[uint32]uint64{},
	}, nil
}

// NewSpace is a new client's. Whoever asked for it closes it.
func (m *Mux) NewSpace() *Space {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.newSpace()
}

func (m *Mux) newSpace() *Space {
	s := &Space{mux: m, objects: map[uint32]*item{}, sessions: map[uint32]*item{}}
	m.spaces[s] = struct{}{}
	return s
}

// Exclusive calls work while no client's command runs. Work may use the TPM, but
// must leave no object and no session in it.
func (m *Mux) Exclusive(work func() error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return work()
}

// Reset calls reset, which resets the TPM, and forgets all objects and sessions.
// Clients stay connected.
func (m *Mux) Reset(reset func() error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for s := range m.spaces {
		clear(s.objects)
		clear(s.sessions)
	}
	clear(m.loaded)
	clear(m.kept)
	m.newest = 0
	return reset()
}

// Stats are counts since the start.
type Stats struct {
	Commands map[uint32]uint64 // by command code: what clients sent
	Swaps    Swaps             // what that cost besides
	// What clients hold at present.
	Objects, Sessions int
	SavedSessions     int // sessions that clients saved themselves
}

// Stats counts.
func (m *Mux) Stats() Stats {
	m.mu.Lock()
	defer m.mu.Unlock()
	stats := Stats{Commands: maps.Clone(m.commands), Swaps: m.swaps, SavedSessions: len(m.kept)}
	for s := range m.spaces {
		stats.Objects += len(s.objects)
		stats.Sessions += len(s.sessions)
	}
	return stats
}
