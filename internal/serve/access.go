package serve

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/user"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/tpm2-p11/tpm2-p11/config"
	"github.com/tpm2-p11/tpm2-p11/p11"
)

// peer is who is at the other end of a connection, as the kernel saw it connect.
type peer struct {
	pid    int
	uid    uint32
	groups []uint32 // its own first
}

// attributes are what the log says of it.
func (p peer) attributes() []any { return []any{"client", p.pid, "user", p.uid} }

// credentials asks the kernel.
func credentials(conn *net.UnixConn) (peer, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return peer{}, err
	}
	var cred *unix.Ucred
	var failed error
	if err := raw.Control(func(fd uintptr) { cred, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return peer{}, err
	}
	if failed != nil {
		return peer{}, failed
	}
	return peer{pid: int(cred.Pid), uid: cred.Uid, groups: []uint32{cred.Gid}}, nil
}

// peerOf asks the system's files too, for the groups that the user is in besides.
func peerOf(conn *net.UnixConn) (peer, error) {
	p, err := credentials(conn)
	if err != nil {
		return peer{}, err
	}
	if u, err := user.LookupId(strconv.FormatUint(uint64(p.uid), 10)); err == nil {
		ids, _ := u.GroupIds()
		for _, id := range ids {
			if n, err := strconv.ParseUint(id, 10, 32); err == nil {
				p.groups = append(p.groups, uint32(n))
			}
		}
	}
	return p, nil
}

// errNoAccess is for a peer that may use nothing.
var errNoAccess = errors.New("no [[access]] table of the configuration names this user or one of its groups")

// guardFor is what the configuration lets a peer do. Root and the server's own user may use all keys; nobody manages any unasked.
func guardFor(c config.Config, p peer) (p11.Guard, error) {
	trusted := p.uid == 0 || p.uid == uint32(os.Geteuid())
	var mine []config.Access
	for _, a := range c.Access {
		if named(a, p) {
			mine = append(mine, a)
		}
	}
	if len(mine) == 0 && !trusted {
		return nil, errNoAccess
	}
	return func(token, key, purpose string) bool {
		return trusted && purpose != "manage" || slices.ContainsFunc(mine, func(a config.Access) bool {
			return (a.Token == "" || a.Token == token) && (len(a.Keys) == 0 || slices.Contains(a.Keys, key)) && slices.Contains(a.Purposes, purpose)
		})
	}, nil
}

// named tells whether an access table names a peer. Who is unknown to the system is nobody.
func named(a config.Access, p peer) bool {
	return slices.ContainsFunc(a.Users, func(name string) bool {
		id, err := userID(name)
		return err == nil && id == p.uid
	}) || slices.ContainsFunc(a.Groups, func(name string) bool {
		id, err := groupID(name)
		return err == nil && slices.Contains(p.groups, id)
	})
}

// tellUnknown says in the log whom the access tables name that the system does not know. They get access when it does.
func tellUnknown(c config.Config, log *slog.Logger) {
	tell := func(line int, err error) {
		if err != nil {
			log.Warn("an [[access]] table names nobody", "line", line, "reason", err.Error())
		}
	}
	for _, a := range c.Access {
		for _, name := range a.Users {
			_, err := userID(name)
			tell(a.Line, err)
		}
		for _, name := range a.Groups {
			_, err := groupID(name)
			tell(a.Line, err)
		}
	}
}

func userID(name string) (uint32, error) {
	if id, err := strconv.ParseUint(name, 10, 32); err == nil {
		return uint32(id), nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return 0, err
	}
	return number(u.Uid)
}

func groupID(name string) (uint32, error) {
	if id, err := strconv.ParseUint(name, 10, 32); err == nil {
		return uint32(id), nil
	}
	g, err := user.LookupGroup(name)
	if err != nil {
		return 0, err
	}
	return number(g.Gid)
}

func number(id string) (uint32, error) {
	n, err := strconv.ParseUint(id, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("no number of a user or group: %w", err)
	}
	return uint32(n), nil
}
