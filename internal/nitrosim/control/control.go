// Package control is the emulator's own socket, beside the TPM's: counts,
// extended PCRs and resets on demand. A connection carries one request and one
// reply, each a JSON object.
package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"time"
)

// Suffix is what follows the TPM's socket in the control socket's path.
const Suffix = ".sim"

// Request asks for one thing: Do is "stats", "extend", "reset" or "root".
type Request struct {
	Do    string `json:"do"`
	PCR   uint   `json:"pcr,omitempty"`   // extend
	Bank  string `json:"bank,omitempty"`  // extend: "" for all banks
	Event []byte `json:"event,omitempty"` // extend: its hash is extended
}

// Reply answers it. Error is "" on success.
type Reply struct {
	Error string `json:"error,omitempty"`
	Stats *Stats `json:"stats,omitempty"`
	Root  []byte `json:"root,omitempty"` // DER
}

// Stats are counts since the emulator's start, and what is held at present.
type Stats struct {
	Commands map[string]uint64 `json:"commands"` // by name: what clients sent
	Total    uint64            `json:"total"`    // the sum of Commands
	// Contexts that were saved, loaded and flushed to take turns.
	Saves   uint64 `json:"context_saves"`
	Loads   uint64 `json:"context_loads"`
	Flushes uint64 `json:"context_flushes"`
	// What clients hold, and how many are connected.
	Objects       int `json:"objects"`
	Sessions      int `json:"sessions"`
	SavedSessions int `json:"saved_sessions"` // by the clients themselves
	Connections   int `json:"connections"`
}

const timeout = 10 * time.Second

// Call sends a request to the control socket at path. What the emulator refuses
// is an error.
func Call(path string, request Request) (Reply, error) {
	conn, err := net.DialTimeout("unix", path, timeout)
	if err != nil {
		return Reply{}, fmt.Errorf("no emulator: %w: start it with `nitro-sim --socket PATH`", err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return Reply{}, err
	}
	if err := json.NewEncoder(conn).Encode(request); err != nil {
		return Reply{}, err
	}
	var reply Reply
	if err := json.NewDecoder(conn).Decode(&reply); err != nil {
		return Reply{}, fmt.Errorf("reading the emulator's reply: %w", err)
	}
	if reply.Error != "" {
		return Reply{}, errors.New(reply.Error)
	}
	return reply, nil
}
