package simtest

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/tpm2-p11/tpm2-p11/internal/nitrosim/control"
)

// nitroSim runs a verb of the command.
func nitroSim(t *testing.T, args ...string) (string, error) {
	t.Helper()
	binary, err := Binary()
	if err != nil {
		t.Fatal(err)
	}
	output, err := exec.CommandContext(t.Context(), binary, args...).CombinedOutput()
	return string(output), err
}

func TestStatsCountCommandsByName(t *testing.T) {
	t.Parallel()
	sim := Start(t)
	c := connect(t, sim.Address())
	for range 5 {
		c.pcr(tpm2.TPMAlgSHA384, 0)
	}
	output, err := nitroSim(t, "stats", "--socket", sim.Socket(), "--json")
	if err != nil {
		t.Fatal(err, output)
	}
	var stats control.Stats
	if err := json.Unmarshal([]byte(output), &stats); err != nil {
		t.Fatal(err)
	}
	if stats.Commands["TPM2_PCR_Read"] != 5 || stats.Total != 5 || stats.Connections != 1 {
		t.Errorf("stats %s", output)
	}
	if output, err = nitroSim(t, "stats", "--socket", sim.Socket()); err != nil || !strings.Contains(output, "5  TPM2_PCR_Read\n") {
		t.Errorf("error %v, output %s", err, output)
	}
}

func TestExtendByTheCommand(t *testing.T) {
	t.Parallel()
	sim := Start(t)
	c := connect(t, sim.Address())
	sha384, sha256 := c.pcr(tpm2.TPMAlgSHA384, 7), c.pcr(tpm2.TPMAlgSHA256, 7)
	if output, err := nitroSim(t, "extend", "7", "--bank", "sha384", "--event", "text", "--socket", sim.Socket()); err != nil {
		t.Fatal(err, output)
	}
	if bytes.Equal(c.pcr(tpm2.TPMAlgSHA384, 7), sha384) || !bytes.Equal(c.pcr(tpm2.TPMAlgSHA256, 7), sha256) {
		t.Error("PCR 7 was not extended in the SHA-384 bank alone")
	}
	if output, err := nitroSim(t, "extend", "7", "--event", "text", "--socket", sim.Socket()); err != nil {
		t.Fatal(err, output)
	}
	if bytes.Equal(c.pcr(tpm2.TPMAlgSHA256, 7), sha256) {
		t.Error("without --bank, the SHA-256 bank stayed as it was")
	}
	for _, wrong := range [][]string{{"24"}, {"seven"}, {"7", "--bank", "md5"}, {}} {
		if output, err := nitroSim(t, append([]string{"extend", "--socket", sim.Socket()}, wrong...)...); err == nil {
			t.Errorf("extend %v succeeds: %s", wrong, output)
		}
	}
}

func TestAResetBootsAgain(t *testing.T) {
	t.Parallel()
	sim := Start(t)
	c := connect(t, sim.Address())
	booted := c.pcr(tpm2.TPMAlgSHA384, 7)
	sim.Extend(t, "", 7, []byte("event"))
	k := c.makeKey()
	s, _ := c.session()
	v := c.vault(64, request(map[string]any{}))
	if output, err := nitroSim(t, "reset", "--socket", sim.Socket()); err != nil {
		t.Fatal(err, output)
	}
	if !bytes.Equal(c.pcr(tpm2.TPMAlgSHA384, 7), booted) {
		t.Error("PCR 7 is not as at the first boot")
	}
	refused(t, "signing with a key from before", c.sign(k, s), tpm2.TPMRCReferenceH0)
	if n := len(c.handles(loadedSession)); n != 0 {
		t.Errorf("%d sessions are left", n)
	}
	v.readName() // the index is persistent
}

func TestLatencyIsAddedToEachCommand(t *testing.T) {
	t.Parallel()
	sim := Start(t, "--latency", "50ms")
	c := connect(t, sim.Address())
	begin := time.Now()
	for range 4 {
		c.pcr(tpm2.TPMAlgSHA384, 0)
	}
	if took := time.Since(begin); took < 200*time.Millisecond {
		t.Errorf("four commands took %v", took)
	}
}

func TestUnmeasuredPCRsAreZero(t *testing.T) {
	t.Parallel()
	c := connect(t, Start(t, "--measured=false").Address())
	if !bytes.Equal(c.pcr(tpm2.TPMAlgSHA384, 4), make([]byte, 48)) {
		t.Error("PCR 4 is not zero")
	}
}

func listed(t *testing.T, c *client, first, count uint32) (commands []tpm2.TPMACC, more bool) {
	t.Helper()
	r, err := tpm2.GetCapability{Capability: tpm2.TPMCapCommands, Property: first, PropertyCount: count}.Execute(c)
	if err != nil {
		t.Fatal(err)
	}
	list, err := r.CapabilityData.Data.Command()
	if err != nil {
		t.Fatal(err)
	}
	return list.CommandAttributes, bool(r.MoreData)
}

func TestTheTPMListsTheAttestationCommand(t *testing.T) {
	t.Parallel()
	c := connect(t, Start(t).Address())
	all, more := listed(t, c, 0, 254)
	last := all[len(all)-1]
	if more || !last.V || last.CommandIndex != 1 || last.CHandles != 2 || last.RHandle {
		t.Errorf("the last of %d commands is %+v, more %v", len(all), last, more)
	}
	if some, more := listed(t, c, 0, uint32(len(all)-1)); len(some) != len(all)-1 || !more {
		t.Errorf("%d of %d commands, more %v", len(some), len(all), more)
	}
	if one, more := listed(t, c, ccAttest, 1); len(one) != 1 || more {
		t.Errorf("%d commands from %#x on, more %v", len(one), ccAttest, more)
	}
	if none, _ := listed(t, c, ccAttest+1, 1); len(none) != 0 {
		t.Errorf("commands behind the last: %v", none)
	}
}

func TestAResourceManagerMayRefuseTheCommandAndTheDevicePassesIt(t *testing.T) {
	t.Parallel()
	sim := Start(t, "--rm-refuses")
	c := connect(t, sim.Address())
	all, _ := listed(t, c, 0, 254)
	for _, a := range all {
		if a.V && a.CommandIndex == 1 {
			t.Error("the attestation command is listed")
		}
	}
	v := c.vault(8192, request(map[string]any{}))
	if rc := v.attest(attempt{}); rc != 0x000b0143 {
		t.Errorf("response code 0x%08x, want 0x000b0143", uint32(rc))
	}
	v.undefine()
	if d := connect(t, sim.Device()).document(nil); len(d) == 0 {
		t.Error("no document through the device")
	}
}

// A session in use with a command that is not listed is swapped like any other.
func TestThroughTheDeviceClientsTakeTurnsToo(t *testing.T) {
	t.Parallel()
	sim := Start(t, "--rm-refuses")
	alice, bob := connect(t, sim.Device()), connect(t, sim.Address())
	v := alice.vault(8192, request(map[string]any{}))
	if n := len(bob.handles(loadedSession)); n != 0 {
		t.Errorf("bob sees %d sessions", n)
	}
	if rc := v.attest(attempt{}); rc != 0 {
		t.Errorf("after another client's turn: response code 0x%08x", uint32(rc))
	}
	v.undefine()
}

func TestTheManufacturerIsAmazon(t *testing.T) {
	t.Parallel()
	c := connect(t, Start(t).Address())
	r, err := tpm2.GetCapability{Capability: tpm2.TPMCapTPMProperties, Property: uint32(tpm2.TPMPTManufacturer), PropertyCount: 1}.Execute(c)
	if err != nil {
		t.Fatal(err)
	}
	p, err := r.CapabilityData.Data.TPMProperties()
	if err != nil || len(p.TPMProperty) != 1 || p.TPMProperty[0].Value != 0x414d5a4e {
		t.Errorf("%+v, error %v", p, err)
	}
}

func TestAKilledEmulatorsSocketsAreReplaced(t *testing.T) {
	t.Parallel()
	sim := Start(t)
	if err := sim.process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-sim.process.exited
	binary, err := Binary()
	if err != nil {
		t.Fatal(err)
	}
	if err := sim.start(binary, nil); err != nil {
		t.Fatal(err)
	}
	connect(t, sim.Address()).pcr(tpm2.TPMAlgSHA256, 0)
}

func TestASocketInUseIsRefused(t *testing.T) {
	t.Parallel()
	sim := Start(t)
	if output, err := nitroSim(t, "--socket", sim.Socket()); err == nil || !strings.Contains(output, "somebody serves there already") {
		t.Errorf("a second emulator on the same socket: error %v, output %s", err, output)
	}
	connect(t, sim.Address()).pcr(tpm2.TPMAlgSHA256, 0) // the first one goes on
}
