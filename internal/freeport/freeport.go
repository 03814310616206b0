// Package freeport gives servers that tests start a TCP port.
package freeport

import (
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
	"sync/atomic"
	"syscall"
)

// Ports that nobody has but who asks for them by number: who asks for any, or connects, is given one from 32768 on, unless
// net.ipv4.ip_local_port_range says otherwise.
const (
	first = 10_000
	count = 20_000
)

// last was given last. Processes begin at places of their own.
var last atomic.Uint32

func init() { last.Store(2 * rand.Uint32N(count/2)) }

// Next gives a port of 127.0.0.1 at which nobody listens, nor at the one after it. This process gives neither away again. Safe for
// concurrent use.
func Next() (string, error) {
	for range count / 2 {
		port := first + int(last.Add(2)%count)
		err := errors.Join(tryPort(port), tryPort(port+1))
		if errors.Is(err, syscall.EADDRINUSE) {
			continue
		}
		return strconv.Itoa(port), err
	}
	return "", errors.New("no port is free")
}

func tryPort(port int) error {
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return err
	}
	return l.Close()
}
