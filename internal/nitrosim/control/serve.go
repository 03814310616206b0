package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/tpm2-p11/tpm2-p11/internal/nitrosim"
	"github.com/tpm2-p11/tpm2-p11/internal/nitrosim/mux"
)

// Server answers for a machine and what serves it. Its fields are safe for
// concurrent use as it uses them.
type Server struct {
	Machine *nitrosim.Machine
	Mux     *mux.Mux
	Servers []*mux.Server
}

// Serve answers until the listener is closed. It returns nil then.
func (s *Server) Serve(l net.Listener) error {
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(timeout))
			var request Request
			reply := Reply{}
			if err := json.NewDecoder(conn).Decode(&request); err != nil {
				reply.Error = fmt.Sprintf("not a request: %v", err)
			} else if err := s.do(request, &reply); err != nil {
				reply.Error = err.Error()
			}
			_ = json.NewEncoder(conn).Encode(reply)
		}()
	}
}

func (s *Server) do(r Request, reply *Reply) error {
	switch r.Do {
	case "stats":
		reply.Stats = s.stats()
		return nil
	case "extend":
		return s.Mux.Exclusive(func() error { return s.Machine.Extend(r.PCR, r.Bank, r.Event) })
	case "reset":
		return s.Mux.Reset(s.Machine.Reset)
	case "root":
		reply.Root = s.Machine.Authority.Root().Raw
		return nil
	}
	return fmt.Errorf("unknown request %q", r.Do)
}

func (s *Server) stats() *Stats {
	// Connections first: one that has ended is counted nowhere, and what it
	// held is flushed before.
	connections := 0
	for _, server := range s.Servers {
		connections += server.Connections()
	}
	m := s.Mux.Stats()
	stats := &Stats{
		Commands: map[string]uint64{},
		Saves:    m.Swaps.Saves, Loads: m.Swaps.Loads, Flushes: m.Swaps.Flushes,
		Objects: m.Objects, Sessions: m.Sessions, SavedSessions: m.SavedSessions,
		Connections: connections,
	}
	for code, n := range m.Commands {
		stats.Commands[commandName(code)] = n
		stats.Total += n
	}
	return stats
}
