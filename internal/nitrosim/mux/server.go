package mux

import (
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
)

// Server serves a Mux in swtpm's data protocol: bare commands and bare
// responses on a stream socket.
//
// A connection is a client with a space of its own, which is flushed when the
// connection ends. Clients that make a new connection for each command, as
// tpm2-tss does for swtpm, are known by their process instead: what the first
// command of a connection makes stays if no second one follows, until the
// process ends. So first commands of a process's connections share the TPM's
// slots; a client with several connections begins each with a command that makes
// nothing, as provider/transport does. Processes of other machines are known by their host only, whose
// space is kept until it has been quiet for HostTimeout.
type Server struct {
	Mux *Mux
	// Strict refuses what the TPM does not list, as /dev/tpmrm0 does.
	Strict bool
	// Log is told why connections ended; nil for nobody.
	Log *slog.Logger

	peers peers

	mu          sync.Mutex
	connections map[net.Conn]struct{}
	closed      bool
}

// Serve accepts connections until the listener is closed. It returns nil then.
func (s *Server) Serve(l net.Listener) error {
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		if !s.add(conn) {
			conn.Close()
			return nil
		}
		go func() {
			defer s.remove(conn)
			if err := s.serve(conn); err != nil && s.Log != nil {
				s.Log.Warn("a client's connection was ended", "error", err)
			}
		}()
	}
}

// Close ends all connections. Listeners are their owners'.
func (s *Server) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for conn := range s.connections {
		conn.Close()
	}
}

// Connections is the number of clients connected.
func (s *Server) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.connections)
}

func (s *Server) add(conn net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	if s.connections == nil {
		s.connections = map[net.Conn]struct{}{}
	}
	s.connections[conn] = struct{}{}
	return true
}

func (s *Server) remove(conn net.Conn) {
	conn.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.connections, conn)
}

// serve carries out a connection's commands until it ends.
func (s *Server) serve(conn net.Conn) error {
	raw, err := readCommand(conn)
	if err != nil {
		return unlessEnd(err)
	}
	shared := s.peers.space(s.Mux, conn)
	if err := s.execute(conn, shared, raw); err != nil {
		return err
	}
	raw, err = readCommand(conn)
	if err != nil {
		return unlessEnd(err)
	}
	own := shared.Split(conn)
	defer own.Close()
	for {
		if err := s.execute(conn, own, raw); err != nil {
			return err
		}
		if raw, err = readCommand(conn); err != nil {
			return unlessEnd(err)
		}
	}
}

func (s *Server) execute(conn net.Conn, space *Space, raw []byte) error {
	response, err := space.Execute(raw, conn, s.Strict)
	if errors.Is(err, ErrClosed) {
		return err
	}
	if err != nil {
		if s.Log != nil {
			s.Log.Error("the TPM failed", "error", err)
		}
		response = refusal(rcFailure)
	}
	_, err = conn.Write(response)
	return err
}

// readCommand reads one command, framed by its own size field.
func readCommand(r io.Reader) ([]byte, error) {
	header := make([]byte, headerSize)
	if _, err := io.ReadFull(r, header); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(header[2:])
	if size < headerSize || size > maxSize {
		return nil, errors.New("a command that says it is too short or too long")
	}
	command := append(header, make([]byte, size-headerSize)...)
	_, err := io.ReadFull(r, command[headerSize:])
	return command, err
}

// unlessEnd is nil for a connection that ended between commands, or that the
// server itself closed.
func unlessEnd(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
