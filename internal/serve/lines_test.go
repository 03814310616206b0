package serve

import (
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tpm2-p11/tpm2-p11/config"
	"github.com/tpm2-p11/tpm2-p11/p11"
)

// Whose calls fail by the thousand fills no log: some lines are written, then ten a second, and they tell how many are missing. Another
// user's are all there.
func TestLinesOfOneUserAreNotMany(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		log := &journal{}
		greedy, modest := newLines(), newLines()
		told := func() (n int) {
			t.Helper()
			before := len(log.String())
			for range 1000 {
				greedy.of(log.logger()).With("client", 7).Warn("it failed")
			}
			return strings.Count(log.String()[before:], "it failed")
		}
		if n := told(); n < 10 || n > 30 || strings.Contains(log.String(), "left_out") {
			t.Errorf("%d lines are written at once", n)
		}
		modest.of(log.logger()).Warn("the other one's")
		greedy.of(log.logger()).Info("what was asked for")
		time.Sleep(time.Second)
		if n := told(); n != 10 {
			t.Errorf("%d lines are written in a second", n)
		}
		for _, want := range []string{"the other one's", "what was asked for", "client=7 left_out=9"} {
			if !strings.Contains(log.String(), want) {
				t.Errorf("%q is not in\n%s", want, log)
			}
		}
	})
}

// serverFor is a server of nothing but a configuration.
func serverFor(t *testing.T, c config.Config) (*Server, *journal) {
	t.Helper()
	log := &journal{}
	s := NewServer(c, nil, log.logger())
	t.Cleanup(func() {
		s.stop()
		s.source.Close()
	})
	return s, log
}

// What a user may do is looked up once a second, and anew when the configuration was read again.
func TestDecisionsAreKeptForASecond(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, _ := serverFor(t, config.Default())
		decided := func(wantKnown, wantAccess bool) {
			t.Helper()
			who := peer{pid: 1, uid: 4_000_000_001, group: 4_000_000_002}
			if d, known := s.decide(s.config, who); known != wantKnown || (d.err == nil) != wantAccess {
				t.Errorf("known %t, %v; want %t, access %t", known, d.err, wantKnown, wantAccess)
			}
		}
		decided(false, false)
		decided(true, false)
		time.Sleep(decisionAge)
		decided(false, false)
		c := config.Default()
		c.Access = []config.Access{{Groups: []string{"4000000002"}, Purposes: []string{"sign"}}}
		s.Reload(c)
		decided(false, true)
		decided(true, true)
		other := peer{pid: 1, uid: 4_000_000_001, group: 4_000_000_003}
		if d, known := s.decide(s.config, other); known || d.err == nil {
			t.Errorf("the same user in another group: known %t, %v", known, d.err)
		}
		s.Reload(config.Default())
		decided(false, false)
		for uid := range uint32(2 * maxDecisions) {
			s.decide(s.config, peer{uid: 3_000_000_000 + uid})
		}
		if n := len(s.decisions); n > maxDecisions {
			t.Errorf("%d decisions are kept", n)
		}
	})
}

// arrives is a client's end of a connection to a server, whose other end is a user's.
func arrives(t *testing.T, s *Server, who peer) *raw {
	t.Helper()
	ours, theirs := pair(t, unix.SOCK_STREAM)
	conn, err := net.FileConn(theirs)
	if err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	client, err := net.FileConn(ours)
	if err != nil {
		t.Fatal(err)
	}
	ours.Close()
	t.Cleanup(func() { client.Close() })
	if err := client.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	s.serve(conn.(*net.UnixConn), who)
	return &raw{t: t, Conn: client}
}

// A stranger who connects again and again is told so each time, and the log at most once a second; nor do thousands fill it.
func TestStrangersDoNotFillTheLog(t *testing.T) {
	t.Parallel()
	const times = 50
	for name, users := range map[string]int{"one": 1, "many": times} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, log := serverFor(t, config.Default())
			began := time.Now()
			for i := range times {
				r := arrives(t, s, peer{pid: 7, uid: 4_000_000_001 + uint32(i%users), group: 4_000_000_002})
				r.answered(p11.CKR_FUNCTION_REJECTED, initialize, 0)
				r.Close()
			}
			most := 1 + int(time.Since(began)/decisionAge)
			if users > 1 {
				most = 1 + int((time.Since(began)+burst)*linesPerSecond/time.Second)
			}
			if n := strings.Count(log.String(), "a client was refused"); n < 1 || n > most {
				t.Errorf("%d of %d refusals are logged, want %d at most:\n%s", n, times, most, log)
			}
			if !strings.Contains(log.String(), "user=4000000001") {
				t.Errorf("the log does not tell whose they are:\n%s", log)
			}
		})
	}
}

// Of users whom the system does not know, of whom anybody may be thousands, those of a group have together what one user has. A user whom
// it knows, or whom a table names, has as much alone.
func TestUsersWhomTheSystemDoesNotKnowCountAsOne(t *testing.T) {
	t.Parallel()
	const group, known, named = 4_000_000_002, 4_000_000_003, 4_000_000_004
	c := config.Default()
	c.Access = []config.Access{{Groups: []string{strconv.Itoa(group)}, Purposes: []string{"sign"}}, {Users: []string{strconv.Itoa(named)}, Purposes: []string{"sign"}}}
	c.Limits.ClientsPerUser = 2
	s, _ := serverFor(t, c)
	s.groupsOf = func(uid uint32) []uint32 { return map[uint32][]uint32{known: {}}[uid] }
	for i := range uint32(2) {
		arrives(t, s, peer{uid: 4_000_100_000 + i, group: group}).answered(p11.CKR_OK, initialize, 0)
	}
	arrives(t, s, peer{uid: 4_000_100_002, group: group}).hungUp()
	for _, uid := range []uint32{known, named} {
		for range 2 {
			arrives(t, s, peer{uid: uid, group: group}).answered(p11.CKR_OK, initialize, 0)
		}
		arrives(t, s, peer{uid: uid, group: group}).hungUp()
	}
	if len(s.users) != 3 {
		t.Errorf("there are %d users", len(s.users))
	}
}

// Who is no longer in a group when the configuration is read again has no longer what the group has.
func TestAReloadSeesWhoLeftAGroup(t *testing.T) {
	t.Parallel()
	const group, uid = 4_000_000_002, 4_000_000_003
	c := config.Default()
	c.Access = []config.Access{{Groups: []string{strconv.Itoa(group)}, Purposes: []string{"sign"}}}
	s, log := serverFor(t, c)
	in := map[uint32][]uint32{uid: {group}}
	s.groupsOf = func(uid uint32) []uint32 { return in[uid] }
	r := arrives(t, s, peer{pid: 7, uid: uid, group: uid})
	r.answered(p11.CKR_OK, initialize, 0)
	s.Reload(c)
	r.answered(p11.CKR_OK, getInfo)
	in[uid] = []uint32{}
	s.Reload(c)
	r.hungUp()
	if !strings.Contains(log.String(), "a client was left") {
		t.Errorf("the log does not tell:\n%s", log)
	}
}

// Who begins while the configuration changes has not the new tokens by a right to the old ones.
func TestNobodyHasNewTokensByAnOldRight(t *testing.T) {
	t.Parallel()
	const group, uid = 4_000_000_002, 4_000_000_003
	was := config.Default()
	was.Access = []config.Access{{Groups: []string{strconv.Itoa(group)}, Purposes: []string{"sign"}}}
	s, _ := serverFor(t, was)
	r := arrives(t, s, peer{pid: 7, uid: uid, group: group})
	next := was
	next.Tokens = append(slices.Clone(was.Tokens), config.Token{Label: "new", TPM: "swtpm:path=/nowhere", Store: t.TempDir()})
	next.Access = []config.Access{{Groups: []string{strconv.Itoa(group)}, Token: "old", Purposes: []string{"sign"}}}
	s.groupsOf = func(uint32) []uint32 { // what the new right hangs on is looked up
		r.answered(p11.CKR_OK, initialize, 0)
		return nil
	}
	s.Reload(next)
	r.answered(p11.CKR_SLOT_ID_INVALID, openSession, 1, 6)
	if c, err := s.configuration(); err != nil || len(c.Tokens) != len(next.Tokens) {
		t.Errorf("who comes later has %d tokens, %v", len(c.Tokens), err)
	}
}
