package mux

import (
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// HostTimeout is how long a host's space is kept after its last connection.
const HostTimeout = 5 * time.Minute

// peers are the spaces of processes and hosts.
type peers struct {
	mu        sync.Mutex
	processes map[int]*Space
	hosts     map[string]*host
}

type host struct {
	space *Space
	timer *time.Timer
}

// space is what a connection's first command is carried out in.
func (p *peers) space(m *Mux, conn net.Conn) *Space {
	p.mu.Lock()
	defer p.mu.Unlock()
	pid, ok := processOf(conn)
	if !ok {
		pid, ok = processOfTCP(conn)
	}
	if ok {
		return p.processSpace(m, pid)
	}
	return p.hostSpace(m, hostOf(conn))
}

// processSpace is the space of a process, which is closed when it ends.
func (p *peers) processSpace(m *Mux, pid int) *Space {
	if s := p.processes[pid]; s != nil {
		return s
	}
	s := m.NewSpace()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil { // it has ended already
		s.Close()
		return s
	}
	if p.processes == nil {
		p.processes = map[int]*Space{}
	}
	p.processes[pid] = s
	go func() {
		awaitExit(fd)
		p.mu.Lock()
		delete(p.processes, pid)
		p.mu.Unlock()
		s.Close()
	}()
	return s
}

// awaitExit waits until a pidfd's process has ended.
func awaitExit(fd int) {
	defer unix.Close(fd)
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
		if n > 0 || err != nil && err != unix.EINTR {
			return
		}
	}
}

// processOf is the process at a unix socket's other end.
func processOf(conn net.Conn) (pid int, ok bool) {
	socket, ok := conn.(*net.UnixConn)
	if !ok {
		return 0, false
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return 0, false
	}
	err = raw.Control(func(fd uintptr) {
		if peer, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = int(peer.Pid)
		}
	})
	return pid, err == nil && pid > 0 // 0: in another PID namespace
}

// hostSpace is the space of a host, which is closed after a silence.
func (p *peers) hostSpace(m *Mux, name string) *Space {
	if h := p.hosts[name]; h != nil && h.timer.Stop() {
		h.timer.Reset(HostTimeout)
		return h.space
	}
	h := &host{space: m.NewSpace()}
	if p.hosts == nil {
		p.hosts = map[string]*host{}
	}
	p.hosts[name] = h
	h.timer = time.AfterFunc(HostTimeout, func() {
		p.mu.Lock()
		if p.hosts[name] == h {
			delete(p.hosts, name)
		}
		p.mu.Unlock()
		h.space.Close()
	})
	return h.space
}

// hostOf is a name for where a connection without a process comes from.
func hostOf(conn net.Conn) string {
	if a, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
		return a.IP.String()
	}
	return conn.RemoteAddr().Network()
}
