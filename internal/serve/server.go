package serve

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/tpm2-p11/tpm2-p11/config"
	"github.com/tpm2-p11/tpm2-p11/internal/wire"
	"github.com/tpm2-p11/tpm2-p11/p11"
)

const (
	// maxClientsOfUser is how many connections one user has at once; the server itself has maxClients.
	maxClientsOfUser = 256
	// maxStrangers is how many clients without access are told so at once, and strangerPatience how long they may take over asking.
	maxStrangers     = 64
	strangerPatience = time.Second
)

// Server answers whoever connects to a socket and may use keys.
type Server struct {
	load   func() (config.Config, error)
	source *Source
	log    *slog.Logger

	mu      sync.Mutex
	clients map[*client]struct{}
	ofUser  map[uint32]int
	wait    sync.WaitGroup

	strangers chan struct{} // one for each that is told so
}

// NewServer makes a server of the configuration that load gives, which is read anew for each client.
func NewServer(load func() (config.Config, error), log *slog.Logger) *Server {
	return &Server{
		load: load, source: NewSource(load, false), log: log,
		clients: make(map[*client]struct{}), ofUser: make(map[uint32]int), strangers: make(chan struct{}, maxStrangers),
	}
}

// Serve takes connections until ctx ends. Then no call is begun any more, and those in work end.
func (s *Server) Serve(ctx context.Context, listener *net.UnixListener) error {
	defer s.source.Close()
	defer context.AfterFunc(ctx, func() { _ = listener.SetDeadline(time.Now()) })()
	defer s.stop()
	for ctx.Err() == nil {
		conn, err := listener.AcceptUnix()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				conn.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("the server's socket: %w", err)
		case err != nil: // too many open files, say, which passes
			s.log.Warn("a connection was not taken", "reason", err.Error())
			pause(ctx, 100*time.Millisecond)
			continue
		}
		s.welcome(conn)
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// welcome begins to serve a connection, or says in the log why not.
func (s *Server) welcome(conn *net.UnixConn) {
	who, err := peerOf(conn)
	if err != nil {
		s.log.Warn("a client was refused", "reason", err.Error())
		conn.Close()
		return
	}
	log := s.log.With("client", who.pid, "user", who.uid)
	c, err := s.admit(conn, who, log)
	if err != nil {
		log.Warn("a client was refused", "reason", err.Error())
		if errors.Is(err, errNoAccess) {
			s.turnAway(conn)
		} else {
			conn.Close()
		}
		return
	}
	s.wait.Go(func() {
		c.serve()
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.clients, c)
		if s.ofUser[who.uid]--; s.ofUser[who.uid] == 0 {
			delete(s.ofUser, who.uid)
		}
	})
}

// turnAway tells a client that asking again is in vain, if it is quick to ask: what it sends first is answered. Nobody waits for it.
func (s *Server) turnAway(conn *net.UnixConn) {
	select {
	case s.strangers <- struct{}{}:
	default:
		conn.Close()
		return
	}
	s.wait.Go(func() {
		defer func() { <-s.strangers }()
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(strangerPatience))
		first, err := wire.ReadFrame(conn, nil)
		if err != nil {
			return
		}
		clear(first.Message)
		refusal := binary.LittleEndian.AppendUint64(nil, uint64(p11.CKR_FUNCTION_REJECTED))
		_ = wire.WriteFrame(conn, wire.Frame{Version: wire.Version, ID: first.ID, Message: refusal})
	})
}

func (s *Server) admit(conn *net.UnixConn, who peer, log *slog.Logger) (*client, error) {
	settings, err := s.load()
	if err != nil {
		return nil, err
	}
	guard, err := guardFor(settings, who, log)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.clients) >= maxClients || s.ofUser[who.uid] >= maxClientsOfUser {
		return nil, fmt.Errorf("too many connections: %d, %d of this user", len(s.clients), s.ofUser[who.uid])
	}
	c := newClient(conn, p11.NewServed(s.source.Open, guard), log)
	s.clients[c] = struct{}{}
	s.ofUser[who.uid]++
	return c, nil
}

// stop ends all connections when their calls in work have ended.
func (s *Server) stop() {
	s.mu.Lock()
	for c := range s.clients {
		c.stop()
	}
	s.mu.Unlock()
	s.wait.Wait()
}
