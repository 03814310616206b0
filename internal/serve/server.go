package serve

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tpm2-p11/tpm2-p11/config"
	"github.com/tpm2-p11/tpm2-p11/internal/wire"
	"github.com/tpm2-p11/tpm2-p11/p11"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

const (
	// maxStrangers is how many clients without access are told so at once, and strangerPatience how long they may take over asking.
	maxStrangers     = 64
	strangerPatience = time.Second
	// decisionAge is for how long it is known what a user may do: however often somebody connects, the system's files are not read, nor
	// is the log written, meanwhile. maxDecisions is of how many users it is.
	decisionAge  = time.Second
	maxDecisions = 1024
)

// Server answers whoever connects to a socket and may use keys.
type Server struct {
	source  *Source
	pins    *p11.Users
	metrics *Metrics
	log     *slog.Logger

	// door is held while somebody is let in or the configuration changes, which may read the system's files: who is in does not wait for
	// it. It is taken before mu.
	door      sync.Mutex
	decisions map[identity]decision // door guards them

	mu      sync.Mutex    // guards what follows
	config  config.Config // door and mu are held to change it
	clients map[*client]*rights
	users   map[account]*usage // all that might use something when they connected
	wait    sync.WaitGroup

	groupsOf  func(uid uint32) []uint32 // the system's
	strangers chan struct{}             // one for each that is told so
	strange   *lines                    // about them
}

// usage is what one account has of the server.
type usage struct {
	clients int
	pace    *pace
	rate    int // that the pace is for
	pins    *p11.User
	lines   *lines
}

// identity is what a decision goes by.
type identity struct{ uid, group uint32 }

// decision is what the configuration lets a user do.
type decision struct {
	guard   p11.Guard
	counted account
	err     error // errNoAccess
	until   time.Time
}

// rights are what a client may do, as the configuration says now.
type rights struct {
	peer  peer
	usage *usage
	guard atomic.Pointer[p11.Guard]
}

// NewServer makes a server. metrics may be nil.
func NewServer(c config.Config, metrics *Metrics, log *slog.Logger) *Server {
	s := &Server{
		config: c, metrics: metrics, log: log, pins: p11.NewUsers(),
		decisions: make(map[identity]decision), clients: make(map[*client]*rights), users: make(map[account]*usage),
		groupsOf: groupsOf, strangers: make(chan struct{}, maxStrangers), strange: newLines(),
	}
	tellUnknown(c, log)
	var options []provider.Option
	if metrics != nil {
		options = append(options, provider.WithObserver(metrics.Command))
	}
	s.source = NewSource(s.configuration, false, options...)
	return s
}

func (s *Server) configuration() (config.Config, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.config, nil
}

// Reload takes another configuration. Who may use what holds at once, for those that are connected too; who may use nothing any more
// is left when its calls in work have ended. All else holds for clients that come later, so that nobody has what is new in it by a right
// to what was before.
func (s *Server) Reload(c config.Config) {
	tellUnknown(c, s.log)
	s.door.Lock()
	defer s.door.Unlock()
	clear(s.decisions)
	s.mu.Lock()
	connected := maps.Clone(s.clients)
	s.mu.Unlock()
	for client, r := range connected {
		d, _ := s.decide(c, r.peer)
		if d.err != nil {
			client.log.Warn("a client was left", "reason", d.err.Error())
			s.metrics.refused("access")
			nothing := p11.Guard(func(string, string, string) bool { return false })
			r.guard.Store(&nothing)
			client.stop()
			continue
		}
		r.guard.Store(&d.guard)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.config = c
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
	who, err := credentials(conn)
	if err != nil {
		s.log.Warn("a client was refused", "reason", err.Error())
		conn.Close()
		return
	}
	s.serve(conn, who)
}

func (s *Server) serve(conn *net.UnixConn, who peer) {
	c, why := s.admit(conn, who)
	if why != nil {
		s.refuse(conn, who, why)
		return
	}
	s.metrics.connected(1)
	s.wait.Go(func() {
		c.serve()
		s.metrics.connected(-1)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.clients[c].usage.clients--
		delete(s.clients, c)
	})
}

// refusal is why a client is not served.
type refusal struct {
	err    error
	reason string // among the metrics
	lines  *lines // that tell of it
	told   bool   // in the log, a moment ago
}

func (s *Server) refuse(conn *net.UnixConn, who peer, why *refusal) {
	if !why.told {
		why.lines.about(s.log, who).Warn("a client was refused", "reason", why.err.Error())
	}
	s.metrics.refused(why.reason)
	if errors.Is(why.err, errNoAccess) {
		s.turnAway(conn)
	} else {
		conn.Close()
	}
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
		first, err := wire.ReadFrame(conn, wire.MaxMessage, nil)
		if err != nil {
			return
		}
		clear(first.Message)
		refusal := binary.LittleEndian.AppendUint64(nil, uint64(p11.CKR_FUNCTION_REJECTED))
		_ = wire.WriteFrame(conn, wire.Frame{Version: wire.Version, ID: first.ID, Message: refusal})
	})
}

// decide gives what a configuration lets a peer do. known tells that it was so a moment ago. s.door is held.
func (s *Server) decide(c config.Config, who peer) (d decision, known bool) {
	id := identity{who.uid, who.group}
	now := time.Now()
	if d, known = s.decisions[id]; known && now.Before(d.until) {
		return d, true
	}
	d = decision{until: now.Add(decisionAge)}
	d.guard, d.counted, d.err = guardFor(c, who, s.groupsOf(who.uid))
	if len(s.decisions) >= maxDecisions {
		clear(s.decisions)
	}
	s.decisions[id] = d
	return d, false
}

func (s *Server) admit(conn *net.UnixConn, who peer) (*client, *refusal) {
	s.door.Lock()
	defer s.door.Unlock()
	d, known := s.decide(s.config, who)
	if d.err != nil {
		return nil, &refusal{d.err, "access", s.strange, known}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	limits := s.config.Limits
	u := s.users[d.counted]
	if u == nil {
		u = &usage{pins: s.pins.New(), lines: newLines()}
		s.users[d.counted] = u
	}
	switch {
	case len(s.clients) >= limits.Clients:
		return nil, &refusal{err: fmt.Errorf("too many connections: %d ([serve] clients)", len(s.clients)), reason: "clients", lines: u.lines}
	case u.clients >= limits.ClientsPerUser:
		return nil, &refusal{err: fmt.Errorf("too many connections of this user: %d ([serve] clients_per_user)", u.clients), reason: "clients_per_user", lines: u.lines}
	}
	if u.rate != limits.CallsPerSecond {
		u.pace, u.rate = newPace(limits.CallsPerSecond), limits.CallsPerSecond
	}
	t := terms{calls: limits.Calls, message: limits.Message, pace: u.pace, metrics: s.metrics}
	r := &rights{peer: who, usage: u}
	r.guard.Store(&d.guard)
	named := func(log *slog.Logger) *slog.Logger { return u.lines.about(log, who) }
	app := p11.NewServed(s.source.OpenFor(named), func(token, key, purpose string) bool { return (*r.guard.Load())(token, key, purpose) }, limits.Sessions, u.pins)
	c := newClient(conn, app, t, named(s.log))
	s.clients[c] = r
	u.clients++
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
