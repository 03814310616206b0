package simtest

import (
	"context"
	"os/exec"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/tpm2-p11/tpm2-p11/internal/freeport"
	"github.com/tpm2-p11/tpm2-p11/internal/nitrosim/control"
)

const (
	transient     tpm2.TPMHandle = 0x80000000
	loadedSession tpm2.TPMHandle = 0x02000000
	savedSession  tpm2.TPMHandle = 0x03000000
)

func TestFourClientsWorkAtOnceEachWithItsOwnObjectsAndSessions(t *testing.T) {
	t.Parallel()
	sim := Start(t)
	var clients sync.WaitGroup
	for range 4 {
		clients.Add(1)
		c := connect(t, sim.Address())
		go func() {
			defer clients.Done()
			defer c.leave()
			// As many as the TPM has slots; a used key needs none of its own.
			keys := []key{c.makeKey(), c.makeKey(), c.makeKey()}
			sessions := make([]tpm2.Session, 3)
			for i := range sessions {
				sessions[i], _ = c.session()
			}
			for round := range 30 {
				if err := c.sign(keys[round%3], sessions[(round/3)%3]); err != nil {
					t.Errorf("round %d: %v", round, err)
					return
				}
			}
			if n := len(c.handles(transient)); n != 3 {
				t.Errorf("a client sees %d objects, not its 3", n)
			}
			if n := len(c.handles(loadedSession)); n != 3 {
				t.Errorf("a client sees %d sessions, not its 3", n)
			}
		}()
	}
	clients.Wait()
	if stats := sim.Stats(t); stats.Loads == 0 || stats.Saves == 0 {
		t.Errorf("nobody took turns: %+v", stats)
	}
}

func TestOneClientAloneCostsNothing(t *testing.T) {
	t.Parallel()
	sim := Start(t)
	c := connect(t, sim.Address())
	k := c.makeKey()
	s, end := c.session()
	for range 10 {
		if err := c.sign(k, s); err != nil {
			t.Fatal(err)
		}
	}
	if stats := sim.Stats(t); stats.Saves != 0 || stats.Loads != 0 || stats.Commands["TPM2_Sign"] != 10 {
		t.Errorf("stats %+v", stats)
	}
	if err := end(); err != nil {
		t.Error(err)
	}
	if err := c.flush(k.Handle); err != nil {
		t.Error(err)
	}
}

func TestAClientCannotUseWhatIsAnothers(t *testing.T) {
	t.Parallel()
	sim := Start(t)
	alice, bob := connect(t, sim.Address()), connect(t, sim.Address())
	k := alice.makeKey()
	s, _ := alice.session()
	bobs := bob.makeKey()

	other := key{tpm2.NamedHandle{Handle: bobs.Handle - 1, Name: k.Name}}
	refused(t, "signing with an object that is not there", bob.sign(other, tpm2.PasswordAuth(nil)), tpm2.TPMRCReferenceH0)
	// Handles of objects are the same in each space, and mean one's own.
	if k.Handle != bobs.Handle {
		t.Errorf("objects of different clients have handles %#x and %#x", k.Handle, bobs.Handle)
	}
	refused(t, "signing in another's session", bob.sign(bobs, s), tpm2.TPMRCReferenceS0)
	refused(t, "flushing another's session", bob.flush(s.Handle()), 0x1cb)
	_, err := tpm2.ContextSave{SaveHandle: s.Handle()}.Execute(bob)
	refused(t, "saving another's session", err, tpm2.TPMRCReferenceH0)
	refused(t, "flushing no object", bob.flush(transient), 0x1cb)
	if n := len(bob.handles(loadedSession)); n != 0 {
		t.Errorf("bob sees %d sessions", n)
	}
	if err := alice.sign(k, s); err != nil {
		t.Errorf("alice's own, afterwards: %v", err)
	}
}

func TestAKilledClientLeavesNothing(t *testing.T) {
	t.Parallel()
	sim := Start(t)
	for range 3 { // three times what the TPM has room for
		c := connect(t, sim.Address())
		for range 3 {
			c.makeKey()
			c.session()
		}
		c.leave() // flushes nothing
	}
	stats, ok := sim.AwaitStats(t, func(s control.Stats) bool { return s.Objects == 0 && s.Sessions == 0 })
	if !ok {
		t.Errorf("left: %+v", stats)
	}
	c := connect(t, sim.Address())
	for range 3 {
		k := c.makeKey()
		s, _ := c.session()
		if err := c.sign(k, s); err != nil {
			t.Error(err)
		}
	}
}

func TestAKilledProcessInMidWorkLeavesNothing(t *testing.T) {
	t.Parallel()
	sim := Start(t)
	ctx, kill := context.WithCancel(t.Context())
	defer kill()
	// The tool loads its key, and waits for input that does not come.
	const script = `set -e; cd "$0"
tpm2 createprimary -Q -C o -G ecc -c parent
tpm2 create -Q -C parent -G hmac -u public -r private
tpm2 load -Q -C parent -u public -r private -c key
exec tpm2 hmac -c key`
	tool := exec.CommandContext(ctx, "sh", "-c", script, t.TempDir())
	tool.Env = append(tool.Environ(), "TPM2TOOLS_TCTI="+sim.Address())
	input, err := tool.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer input.Close()
	if err := tool.Start(); err != nil {
		t.Fatal(err)
	}
	if stats, ok := sim.AwaitStats(t, func(s control.Stats) bool { return s.Commands["TPM2_ContextLoad"] > 0 && s.Objects > 0 }); !ok {
		t.Errorf("the tool does not get to work: %+v", stats)
	}
	kill()
	_ = tool.Wait()
	if stats, ok := sim.AwaitStats(t, func(s control.Stats) bool { return s.Objects == 0 && s.Sessions == 0 }); !ok {
		t.Errorf("left: %+v", stats)
	}
}

func TestSessionsSurviveMoreSwapsThanTheContextGap(t *testing.T) {
	t.Parallel()
	sim := Start(t)
	idle, a, b := connect(t, sim.Address()), connect(t, sim.Address()), connect(t, sim.Address())
	k := idle.makeKey()
	s, _ := idle.session()
	keeper := connect(t, sim.Address())
	kept, _ := keeper.session()
	context, err := tpm2.ContextSave{SaveHandle: kept.Handle()}.Execute(keeper)
	if err != nil {
		t.Fatal(err)
	}
	as, _ := a.session()
	bs, _ := b.session()
	ak, bk := a.makeKey(), b.makeKey()
	const gap = 255 // TPM_PT_CONTEXT_GAP_MAX of the emulator
	for range gap {
		if err := a.sign(ak, as); err != nil {
			t.Fatal(err)
		}
		if err := b.sign(bk, bs); err != nil {
			t.Fatal(err)
		}
	}
	if err := idle.sign(k, s); err != nil {
		t.Errorf("the session that was idle: %v", err)
	}
	loaded, err := tpm2.ContextLoad{Context: context.Context}.Execute(keeper)
	if err != nil || loaded.LoadedHandle != kept.Handle() {
		t.Errorf("the context that its client kept: handle %#x, error %v", loaded, err)
	}
}

func TestASavedSessionGoesToWhoHasItsContext(t *testing.T) {
	t.Parallel()
	sim := Start(t)
	alice, bob := connect(t, sim.Address()), connect(t, sim.Address())
	s, _ := alice.session()
	context, err := tpm2.ContextSave{SaveHandle: s.Handle()}.Execute(alice)
	if err != nil {
		t.Fatal(err)
	}
	alice.leave()
	if got := bob.handles(savedSession); !slices.Equal(got, []tpm2.TPMHandle{s.Handle()}) {
		t.Errorf("saved sessions %#x, want %#x", got, s.Handle())
	}
	if _, err := (tpm2.ContextLoad{Context: context.Context}).Execute(bob); err != nil {
		t.Fatal(err)
	}
	k := bob.makeKey()
	if err := bob.sign(k, s); err != nil {
		t.Errorf("bob signs in alice's session: %v", err)
	}
	if got := bob.handles(savedSession); len(got) != 0 {
		t.Errorf("saved sessions %#x, want none", got)
	}
}

func TestASavedPolicySessionIsListedAndFlushedAsATPMDoes(t *testing.T) {
	t.Parallel()
	c := connect(t, Start(t).Address())
	s, _, err := tpm2.PolicySession(c, tpm2.TPMAlgSHA256, 16)
	if err != nil {
		t.Fatal(err)
	}
	context, err := tpm2.ContextSave{SaveHandle: s.Handle()}.Execute(c)
	if err != nil {
		t.Fatal(err)
	}
	listed := s.Handle()&0xffffff | loadedSession
	if got := c.handles(savedSession); !slices.Equal(got, []tpm2.TPMHandle{listed}) {
		t.Fatalf("saved sessions %#x, want %#x", got, listed)
	}
	if err := c.flush(listed); err != nil {
		t.Fatal(err)
	}
	if _, err := (tpm2.ContextLoad{Context: context.Context}).Execute(c); err == nil {
		t.Error("the flushed session loads")
	}
}

func TestTwoProcessesOfTPM2Tools(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	sim := Start(t, "--listen", "127.0.0.1:"+port)
	const script = `set -e; cd "$0"; echo hello >message
for i in 1 2 3; do
  tpm2 createprimary -Q -C o -G ecc -c p.ctx
  tpm2 create -Q -C p.ctx -G ecc -u k.pub -r k.priv
  tpm2 load -Q -C p.ctx -u k.pub -r k.priv -c k.ctx
  tpm2 sign -Q -c k.ctx -g sha256 -o signature message
  tpm2 verifysignature -Q -c k.ctx -g sha256 -s signature -m message
  tpm2 startauthsession -Q -S s.ctx --policy-session
  tpm2 policypcr -Q -S s.ctx -l sha384:0,7
  tpm2 flushcontext s.ctx
  tpm2 getcap handles-transient
done`
	var tools sync.WaitGroup
	for _, tcti := range []string{sim.Address(), sim.Address(), "swtpm:host=127.0.0.1,port=" + port} {
		dir := t.TempDir()
		tools.Go(func() {
			cmd := exec.CommandContext(t.Context(), "sh", "-c", script, dir)
			cmd.Env = append(cmd.Environ(), "TPM2TOOLS_TCTI="+tcti)
			if output, err := cmd.CombinedOutput(); err != nil || len(output) != 0 {
				t.Errorf("%s: error %v, output %s", tcti, err, output)
			}
		})
	}
	tools.Wait()
}

// freePort is a TCP port that is free, as is the one after it.
func freePort(t *testing.T) string {
	t.Helper()
	port, err := freeport.Next()
	if err != nil {
		t.Fatal(err)
	}
	return port
}
