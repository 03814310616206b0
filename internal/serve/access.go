package serve

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"os/user"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/tpm2-p11/tpm2-p11/config"
	"github.com/tpm2-p11/tpm2-p11/internal/tokens"
	"github.com/tpm2-p11/tpm2-p11/keystore"
	"github.com/tpm2-p11/tpm2-p11/p11"
)

// peer is who is at the other end of a connection, as the kernel saw it connect.
type peer struct {
	pid        int
	uid, group uint32
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
	return peer{int(cred.Pid), cred.Uid, cred.Gid}, nil
}

// groupsOf are the groups that the system's files have a user in, nil for a user whom they do not have.
func groupsOf(uid uint32) []uint32 {
	u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10))
	if err != nil {
		return nil
	}
	groups := []uint32{}
	ids, _ := u.GroupIds()
	for _, id := range ids {
		if n, err := number(id); err == nil {
			groups = append(groups, n)
		}
	}
	return groups
}

// account is whom what a peer has of the server is counted for: its user. Of users whom the system does not know, as anybody with
// subordinate IDs has by the thousand (subuid(5)), those of a group are one, but for those whom a table names.
type account struct {
	id    uint32
	group bool
}

// errNoAccess is for a peer that may use nothing.
var errNoAccess = errors.New("no [[access]] table of the configuration names this user or one of its groups")

// guardFor is what the configuration lets a peer do, whom the system has in some more groups. Root and the server's own user may use all
// keys; nobody manages any unasked.
func guardFor(c config.Config, p peer, more []uint32) (p11.Guard, account, error) {
	trusted := p.uid == 0 || p.uid == uint32(os.Geteuid())
	own := trusted || more != nil
	groups := append(slices.Clip(more), p.group)
	var mine []config.Access
	for _, a := range c.Access {
		byName, byGroup := names(a.Users, userID, p.uid), names(a.Groups, groupID, groups...)
		if byName || byGroup {
			mine = append(mine, a)
		}
		own = own || byName
	}
	if len(mine) == 0 && !trusted {
		return nil, account{}, errNoAccess
	}
	counted := account{id: p.uid}
	if !own {
		counted = account{p.group, true}
	}
	return func(token, key, purpose string) bool {
		return trusted && purpose != "manage" || slices.ContainsFunc(mine, func(a config.Access) bool {
			return (a.Token == "" || a.Token == token) && (len(a.Keys) == 0 || slices.Contains(a.Keys, key)) && slices.Contains(a.Purposes, purpose)
		})
	}, counted, nil
}

// names tells whether an access table's list names a user or group that is one of some. What is unknown to the system is nobody.
func names(list []string, number func(string) (uint32, error), of ...uint32) bool {
	return slices.ContainsFunc(list, func(name string) bool {
		id, err := number(name)
		return err == nil && slices.Contains(of, id)
	})
}

// tellUnknown says in the log whom the access tables name that the system does not know, and which tokens and keys that are not there.
// They hold when it does, and when they are.
func tellUnknown(c config.Config, log *slog.Logger) {
	there := labels(c)
	for _, a := range c.Access {
		tell := func(what string, err error) {
			if err != nil {
				log.Warn("an [[access]] table names "+what, "line", a.Line, "reason", err.Error())
			}
		}
		for _, name := range a.Users {
			_, err := userID(name)
			tell("nobody", err)
		}
		for _, name := range a.Groups {
			_, err := groupID(name)
			tell("nobody", err)
		}
		tell("no token", there.misses(a.Token))
		for _, key := range a.Keys {
			tell("no key", there.missesKey(a.Token, key))
		}
	}
}

// contents are the labels of a configuration's tokens and of what is in them. Nothing is known where one cannot be read.
type contents map[string]map[string]bool

// labels reads the stores, if tables name what is in them. What is wrong with a store is told when it is used.
func labels(c config.Config) contents {
	named, some := map[string]bool{}, false
	for _, a := range c.Access {
		for _, key := range a.Keys {
			named[key] = true
		}
		some = some || a.Token != "" || len(a.Keys) > 0
	}
	if !some {
		return nil
	}
	c.Log = "off"
	set, err := tokens.Open(c)
	if err != nil {
		return nil
	}
	defer set.Close()
	all := contents{}
	for i, t := range set.Tokens {
		label := cmp.Or(t.Label(), c.Tokens[i].Label)
		if all[label] == nil {
			all[label] = map[string]bool{}
		}
		_, err := t.Search(func(g *keystore.Glance) bool {
			all[label][g.Label] = true
			return named[g.Label] // where nothing is wanted, every file would be read
		})
		if err != nil && !errors.Is(err, keystore.ErrNotInitialized) {
			return nil
		}
		for _, k := range c.Tokens[i].Keys { // `key ensure` makes them
			all[label][k.Label] = true
		}
	}
	return all
}

func (c contents) misses(token string) error {
	if c == nil || token == "" || c[token] != nil {
		return nil
	}
	return fmt.Errorf("the configuration has no token %q, but %q", token, slices.Sorted(maps.Keys(c)))
}

func (c contents) missesKey(token, key string) error {
	if c == nil || token != "" && (c[token] == nil || c[token][key]) {
		return nil
	}
	if token != "" {
		return fmt.Errorf("token %q has no key %q: the table holds for it once it is made", token, key)
	}
	for _, keys := range c {
		if keys[key] {
			return nil
		}
	}
	return fmt.Errorf("no token has a key %q: the table holds for it once it is made", key)
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
