package tests

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/internal/faulttpm"
)

// An application that loads the module, logs in where there is a PIN and signs has the TPM carry out these commands and no others;
// nothing before it signs. From the second signature in a row on, the policy of the next one is executed when one is done.
func TestCommandsOfSignatures(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	m.write("pin.txt", "12345678")
	m.tpm2p11("init", "--no-pin")
	m.tpm2p11("key", "create", "plain", "--type", "p256")
	m.tpm2p11("key", "create", "pcr", "--type", "p256", "--pcr", "sha256:0,1,2,7")
	m.tpm2p11("key", "create", "wrapped", "--type", "p256", "--wrapped")
	m.tpm2p11("init", "--store", m.path("locked"), "--pin-file", "pin.txt", "--so-pin-file", "pin.txt")
	m.tpm2p11("key", "create", "pin", "--store", m.path("locked"), "--type", "p256", "--pin-file", "pin.txt")
	m.tpm2p11("key", "create", "pcr+pin", "--store", m.path("locked"), "--type", "p256", "--pcr", "sha256:0,1,2,7", "--pin-file", "pin.txt")
	host := m.path("host")
	m.run("cc", "-O2", "-o", host, m.source("../bench/testdata/host.c"), "-ldl", "-lpthread")

	const (
		public, start, load, unseal, flush = tpm2.TPMCCReadPublic, tpm2.TPMCCStartAuthSession, tpm2.TPMCCLoad, tpm2.TPMCCUnseal, tpm2.TPMCCFlushContext
		pcr, value, sign                   = tpm2.TPMCCPolicyPCR, tpm2.TPMCCPolicyAuthValue, tpm2.TPMCCSign
	)
	login := []tpm2.TPMCC{public, load, start, unseal, flush} // the SRK's Name, the session that hides the PIN's secret, and that secret
	for _, c := range []struct {
		key                string
		store, pin         string
		first, second, nth []tpm2.TPMCC
	}{
		{"plain", "store", "-", []tpm2.TPMCC{public, sign}, []tpm2.TPMCC{sign}, []tpm2.TPMCC{sign}},
		{"pin", "locked", "pin.txt", append(slices.Clone(login), sign), []tpm2.TPMCC{sign}, []tpm2.TPMCC{sign}},
		{"pcr", "store", "-", []tpm2.TPMCC{public, start, pcr, sign}, []tpm2.TPMCC{pcr, sign}, []tpm2.TPMCC{pcr, sign}},
		{"pcr+pin", "locked", "pin.txt", append(slices.Clone(login), public, start, pcr, value, sign), []tpm2.TPMCC{pcr, value, sign}, []tpm2.TPMCC{pcr, value, sign}},
	} {
		proxy, err := faulttpm.Listen(m.path("counted"), m.tpm.Socket())
		if err != nil {
			t.Fatal(err)
		}
		m.write("tpm2-p11.conf", fmt.Sprintf("tpm = \"swtpm:path=%s\"\nstore = %q\nlog = \"stderr\"\n", proxy.Socket(), m.path(c.store)))
		const signatures = 5
		m.run(host, module, "0", c.key, "ecdsa", "-", fmt.Sprint(signatures-1), "1", c.pin)
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
