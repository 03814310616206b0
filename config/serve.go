package config

import "github.com/tpm2-p11/tpm2-p11/internal/wire"

// Limits bound what clients of a server's socket can take ([serve]).
type Limits struct {
	Clients        int // connections at once
	ClientsPerUser int // of one user
	Sessions       int // that one client has open
	Calls          int // of one client, in work at once
	CallsPerSecond int // of one user, over some seconds; 0 for any number
	Message        int // bytes of one request
}

// defaultLimits are for a machine that serves its own programs.
func defaultLimits() Limits {
	return Limits{Clients: 4096, ClientsPerUser: 256, Sessions: 4096, Calls: 64, Message: wire.MaxMessage}
}

// What limits can be set to.
const (
	maxClients  = 1 << 16
	maxSessions = 1 << 16
	maxCalls    = 1 << 12
	maxRate     = 1 << 20
	minMessage  = 4 << 10
)

func readLimits(v value, to *Limits) error {
	t, err := v.table("serve")
	if err != nil {
		return err
	}
	return t.read(fields{
		"clients":          func(v value) error { return v.number(&to.Clients, 1, maxClients) },
		"clients_per_user": func(v value) error { return v.number(&to.ClientsPerUser, 1, maxClients) },
		"sessions":         func(v value) error { return v.number(&to.Sessions, 1, maxSessions) },
		"calls":            func(v value) error { return v.number(&to.Calls, 1, maxCalls) },
		"calls_per_second": func(v value) error { return v.number(&to.CallsPerSecond, 0, maxRate) },
		"message":          func(v value) error { return v.number(&to.Message, minMessage, wire.MaxMessage) },
	})
}
