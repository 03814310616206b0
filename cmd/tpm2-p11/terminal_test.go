package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// openPTY is a terminal, and the side where the person sits.
func openPTY(t *testing.T) (person *os.File, side tty) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slave.Close() })
	return master, tty{slave}
}

func TestAPromptAtATerminal(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, c := range []struct {
		typed, want string
		err         error
	}{
		{"1234\n", "1234", nil},
		{"1234\r", "1234", nil},
		{"\n", "", nil},
		{"\x04", "", errEnded},
		{"12\x04\x04", "12", nil},
	} {
		person, terminal := openPTY(t)
		if _, err := person.WriteString(c.typed); err != nil {
			t.Fatal(err)
		}
		pin, err := terminal.Secret(ctx, "PIN: ")
		if !errors.Is(err, c.err) || err == nil && string(pin.Bytes()) != c.want {
			t.Errorf("%q typed: %q, %v", c.typed, pin.Bytes(), err)
		}
		if settings, err := unix.IoctlGetTermios(int(terminal.f.Fd()), unix.TCGETS); err != nil || settings.Lflag&unix.ECHO == 0 {
			t.Errorf("%q typed: the terminal is left without echo: %v", c.typed, err)
		}
	}
	person, terminal := openPTY(t)
	if _, err := person.WriteString("y\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := terminal.Line(ctx, "? "); line != "y" || err != nil {
		t.Errorf("a line: %q, %v", line, err)
	}
}

func TestAShortPINIsRefusedBeforeItIsAskedForAgain(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.answers = []string{"123"}
	m.refused(exitFailed, "the PIN of the new token: the PIN's length is out of range: it has 3 bytes", "4 to 64 bytes", "init")
	m.answers = []string{canaryPIN, canaryPIN, ""}
	m.refused(exitFailed, "the security officer's PIN: the PIN's length is out of range", "4 to 64 bytes", "init")
	m.answers = nil
	m.write("short", "123")
	m.refused(exitFailed, "it has 3 bytes", "4 to 64 bytes", "init", "--pin-file", "@short", "--so-pin-file", "@absent")
	if _, err := os.Stat(m.path("store")); err == nil {
		t.Error("a refused init left a store")
	}
	contains(t, "init --help", m.run("init", "--help"), "0600", "4 to 64 bytes")
}

func TestAWrongPINSaysHowManyTriesAreLeft(t *testing.T) {
	t.Parallel()
	m := newMachineWithPIN(t)
	wrong := []string{"sign", "web", "-i", "@in", "--pin-file", "@wrong"}
	m.refused(exitFailed, "wrong PIN", "2 wrong tries left before", wrong...)
	m.refused(exitFailed, "wrong PIN", "1 wrong try left before", wrong...)
	m.refused(exitFailed, "wrong PIN", "that was one too many", wrong...)
	m.refused(exitFailed, "lockout", "lockout reset", wrong...)
	m.run("lockout", "reset")
}

func TestAPINWhereThereIsNone(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.write("pin", canaryPIN)
	m.write("in", "what is signed")
	m.run("init", "--no-pin")
	m.refused(exitUsage, `--pin-file is for a token with a PIN, and token "tpm2-p11" has none`, "--own-pin-file FILE", "key", "create", "web", "--type", "p256", "--pin-file", "@pin")
	m.run("key", "create", "web", "--type", "p256")
	r := m.try("sign", "web", "-i", "@in", "-o", "@sig", "--pin-file", "@pin")
	if r.code != exitOK || !strings.Contains(r.stderr, "what --pin-file names was not looked at") {
		t.Errorf("%v", r)
	}
	m.run("key", "create", "mine", "--type", "p256", "--own-pin-file", "@pin")
	contains(t, "key list", m.run("key", "list"), "0x81000100  none", "0x81000101  own")
	if r := m.try("sign", "mine", "-i", "@in", "-o", "@sig", "--pin-file", "@pin"); r.code != exitOK || r.stderr != "" {
		t.Errorf("%v", r)
	}
}

func TestALockoutAuthorisation(t *testing.T) {
	t.Parallel()
	m := newMachineWithPIN(t)
	m.tool("tpm2_changeauth", "-c", "lockout", "the-right-one")
	m.tool("tpm2_dictionarylockout", "-s", "-n", "3", "-t", "1000", "-l", "1000", "-p", "the-right-one")
	m.write("right", "the-right-one")
	contains(t, "lockout show", m.run("lockout", "show"), "which somebody set", "before 16m40s went by")
	reset := []string{"lockout", "reset", "--lockout-auth-file"}
	m.run(append(reset, "@right")...)
	m.refused(exitFailed, "a hierarchy's authorisation is missing or wrong: lockout hierarchy", "not even the right one, before 16m40s went by", append(reset, "@wrong")...)
	m.refused(exitFailed, "a wrong lockout authorisation was given before", "takes none before 16m40s went by", append(reset, "@right")...)
}

func TestInitForceSaysWhatBecomesOfTheKeys(t *testing.T) {
	t.Parallel()
	m := newMachineWithPIN(t)
	m.run("key", "create", "free", "--type", "p256", "--no-pin")
	token := m.json("init", "--force", "--no-pin", "--label", "mine")
	if fmt.Sprint(token["kept_keys"], token["lost_keys"]) != "[free] [web]" {
		t.Errorf("init --force --json: %v", token)
	}
	contains(t, "init --force", m.run("init", "--force", "--no-pin"), `token "mine"`, "keys that work on: free\n", "keys that are lost: web")
	m.run("sign", "free", "-i", "@in", "-o", "@sig")
}
