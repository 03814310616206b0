package tests

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/internal/faulttpm"
	"github.com/tpm2-p11/tpm2-p11/internal/nitrosim/simtest"
)

// signing are keys of each kind, and an application that signs with them.
type signing struct {
	*machine
	host string
}

// newSigning makes the keys in the TPM behind a socket, "" for the machine's own: those with a PIN in the store "locked".
func newSigning(t *testing.T, socket string) signing {
	t.Helper()
	m := newMachine(t, "")
	if socket == "" {
		socket = m.tpm.Socket()
	}
	m.signsBy(socket, "store")
	m.write("pin.txt", "12345678")
	m.tpm2p11("init", "--no-pin")
	m.tpm2p11("key", "create", "plain", "--type", "p256")
	m.tpm2p11("key", "create", "wrapped", "--type", "p256", "--wrapped")
	m.tpm2p11("key", "create", "pcr", "--type", "p256", "--pcr", "sha256:0,1,2,7")
	m.tpm2p11("init", "--store", m.path("locked"), "--pin-file", "pin.txt", "--so-pin-file", "pin.txt")
	m.tpm2p11("key", "create", "pin", "--store", m.path("locked"), "--type", "p256", "--pin-file", "pin.txt")
	m.tpm2p11("key", "create", "pcr+pin", "--store", m.path("locked"), "--type", "p256", "--pcr", "sha256:0,1,2,7", "--pin-file", "pin.txt")
	s := signing{m, m.path("host")}
	m.run("cc", "-O2", "-o", s.host, m.source("../bench/testdata/host.c"), "-ldl", "-lpthread")
	return s
}

// signsBy names the TPM and the store.
func (m *machine) signsBy(socket, store string) {
	m.write("tpm2-p11.conf", fmt.Sprintf("tpm = \"swtpm:path=%s\"\nstore = %q\nlog = \"stderr\"\n", socket, m.path(store)))
}

// sign has a process sign so many times with a key, by a TPM behind a socket.
func (s signing) sign(key, socket string, signatures int) {
	s.t.Helper()
	store, pin := "store", "-"
	if strings.Contains(key, "pin") {
		store, pin = "locked", "pin.txt"
	}
	s.signsBy(socket, store)
	s.run(s.host, module, "0", key, "ecdsa", "-", fmt.Sprint(signatures-1), "1", pin)
}

// An application that loads the module, logs in where there is a PIN and signs has the TPM carry out these commands and no others;
// nothing before it signs. From the second signature in a row on, the policy of the next one is executed when one is done.
func TestCommandsOfSignatures(t *testing.T) {
	t.Parallel()
	m := newSigning(t, "")
	const (
		public, start, load, unseal, flush = tpm2.TPMCCReadPublic, tpm2.TPMCCStartAuthSession, tpm2.TPMCCLoad, tpm2.TPMCCUnseal, tpm2.TPMCCFlushContext
		pcr, value, sign                   = tpm2.TPMCCPolicyPCR, tpm2.TPMCCPolicyAuthValue, tpm2.TPMCCSign
	)
	login := []tpm2.TPMCC{public, load, start, unseal, flush} // the SRK's Name, the session that hides the PIN's secret, and that secret
	for _, c := range []struct {
		key                string
		first, second, nth []tpm2.TPMCC
	}{
		{"plain", []tpm2.TPMCC{public, sign}, []tpm2.TPMCC{sign}, []tpm2.TPMCC{sign}},
		{"wrapped", []tpm2.TPMCC{public, load, sign}, []tpm2.TPMCC{sign}, []tpm2.TPMCC{sign}},
		{"pin", append(slices.Clone(login), sign), []tpm2.TPMCC{sign}, []tpm2.TPMCC{sign}},
		{"pcr", []tpm2.TPMCC{public, start, pcr, sign}, []tpm2.TPMCC{pcr, sign}, []tpm2.TPMCC{pcr, sign}},
		{"pcr+pin", append(slices.Clone(login), public, flush, start, pcr, value, sign), []tpm2.TPMCC{pcr, value, sign}, []tpm2.TPMCC{pcr, value, sign}},
	} {
		proxy, err := faulttpm.Listen(m.path("counted"), m.tpm.Socket())
		if err != nil {
			t.Fatal(err)
		}
		const signatures = 5
		m.sign(c.key, proxy.Socket(), signatures)
		want := slices.Concat(c.first, c.second)
		for range signatures - 2 {
			want = append(want, c.nth...)
		}
		if got := proxy.Codes(); len(got) < len(want) || !slices.Equal(got[:len(want)], want) {
			t.Errorf("%s: the commands were %x, want %x", c.key, got, want)
		}
		proxy.Close()
	}
}

// Linux's resource manager, and the emulator that does as it does, has the TPM carry out two commands more for each session that a
// client keeps, and three for each object, with every command. That is what a signature costs the TPM in all; of a policy, what is executed
// ahead is in it, and only the last of its commands keeps the caller.
func TestCommandsThroughAResourceManager(t *testing.T) {
	t.Parallel()
	sim := simtest.Start(t, "--rm-swaps", "--latency", "10ms")
	m := newSigning(t, sim.Socket())
	physical := func(key string, signatures int) int {
		before := sim.Stats(t)
		m.sign(key, sim.Socket(), signatures)
		after := sim.Stats(t)
		return int(after.Total + after.Saves + after.Loads + after.Flushes - before.Total - before.Saves - before.Loads - before.Flushes)
	}
	for key, want := range map[string]int{
		"plain":   1,
		"wrapped": 1 + 3, // which stays loaded
		"pin":     1 + 2,
		"pcr":     2 * (1 + 2), // the policy and the signature, in one session
		"pcr+pin": 3 * (1 + 2),
	} {
		const few, many = 4, 8
		if got := physical(key, many) - physical(key, few); got != want*(many-few) {
			t.Errorf("%s: %d signatures cost %d commands, want %d each", key, many-few, got, want)
		}
	}
}
