package eventlog

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
)

func logOf(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name+".log"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var banks = map[string]tpm2.TPMIAlgHash{
	"sha1": tpm2.TPMAlgSHA1, "sha256": tpm2.TPMAlgSHA256, "sha384": tpm2.TPMAlgSHA384, "sha512": tpm2.TPMAlgSHA512,
}

func replay(t *testing.T, l *Log, bank tpm2.TPMIAlgHash) map[uint][]byte {
	t.Helper()
	values, err := l.Replay(bank)
	if err != nil {
		t.Fatal(err)
	}
	return values
}

// The logs of machines that booted replay to the PCRs that their kernels read from the TPM.
func TestReplayGivesThePCRsOfTheTPM(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"plain", "secure"} {
		l, err := Parse(logOf(t, name))
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(filepath.Join("testdata", name+".pcrs"))
		if err != nil {
			t.Fatal(err)
		}
		compared := 0
		for bank, algorithm := range banks {
			for i, value := range replay(t, l, algorithm) {
				line := fmt.Sprintf("%s:%d=%x\n", bank, i, value)
				if !bytes.Contains(text, []byte(line)) && (bank == "sha256" || bank == "sha384") {
					t.Errorf("%s: the log gives %s", name, line)
				}
				compared++
			}
		}
		if compared < 4*9 {
			t.Errorf("%s: %d values were compared", name, compared)
		}
	}
}

// tpm2_eventlog reads the same events from the same logs.
func TestTpm2ToolsReadTheSame(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"plain", "secure"} {
		out, err := exec.Command("tpm2_eventlog", filepath.Join("testdata", name+".log")).Output()
		if err != nil {
			t.Fatal(err)
		}
		l, err := Parse(logOf(t, name))
		if err != nil {
			t.Fatal(err)
		}
		events, values, found := strings.Cut(string(out), "\npcrs:\n")
		if !found {
			t.Fatalf("tpm2_eventlog says %s", out)
		}
		indices := regexp.MustCompile(`(?m)^  PCRIndex: (\d+)\n  EventType: (\w+)$`).FindAllStringSubmatch(events, -1)
		if len(indices) != len(l.Events) {
			t.Fatalf("%s: %d events, tpm2_eventlog has %d", name, len(l.Events), len(indices))
		}
		for n, e := range l.Events {
			if indices[n][1] != fmt.Sprint(e.PCR) || indices[n][2] != e.Type.String() {
				t.Errorf("%s: event %d is %s of PCR %d, tpm2_eventlog has %q", name, n+1, e.Type, e.PCR, indices[n])
			}
			for _, b := range l.Banks {
				if d := e.Digests[b.Hash]; d != nil && !strings.Contains(events, hex.EncodeToString(d)) {
					t.Errorf("%s: event %d has a digest %x that tpm2_eventlog does not see", name, n+1, d)
				}
			}
		}
		bank := ""
		for line := range strings.Lines(values) {
			if b, ok := strings.CutSuffix(strings.TrimSpace(line), ":"); ok {
				bank = b
				continue
			}
			index, value, _ := strings.Cut(strings.TrimSpace(line), ":")
			i, err := strconv.Atoi(strings.TrimSpace(index))
			if err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			if got := replay(t, l, banks[bank])[uint(i)]; fmt.Sprintf("0x%x", got) != strings.TrimSpace(value) {
				t.Errorf("%s: %s PCR %d is %x, tpm2_eventlog says %s", name, bank, i, got, value)
			}
		}
	}
}

// Each kind of event is told in words.
func TestEventsAreDescribed(t *testing.T) {
	t.Parallel()
	l, err := Parse(logOf(t, "secure"))
	if err != nil {
		t.Fatal(err)
	}
	var told []string
	for _, e := range l.Events {
		told = append(told, fmt.Sprintf("%d %s %v %s", e.PCR, e.Type, e.Verified(tpm2.TPMAlgSHA384), e.Describe()))
	}
	all := strings.Join(told, "\n")
	for _, want := range []string{
		"7 EV_EFI_VARIABLE_DRIVER_CONFIG true SecureBoot",
		"7 EV_EFI_VARIABLE_AUTHORITY true db",
		"1 EV_EFI_VARIABLE_BOOT true BootOrder",
		"4 EV_EFI_ACTION true Calling EFI Application from Boot Option",
		"4 EV_SEPARATOR true end of the firmware's own",
		`4 EV_EFI_BOOT_SERVICES_APPLICATION false \EFI\BOOT\BOOTX64.EFI`,
		"11 EV_IPL false .linux",
		"9 EV_EVENT_TAG false Linux initrd",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("no event is told as %q:\n%s", want, all)
		}
	}
}

// Data are somebody else's: they are told in printable text, and cut.
func TestDescriptionsAreFitForATerminal(t *testing.T) {
	t.Parallel()
	for _, e := range []Event{
		{Type: 0x0d, Data: []byte("\x1b[31mred\r\n\x00")},
		{Type: 0x0d, Data: []byte(strings.Repeat("long ", 1000))},
		{Type: 0x0d, Data: []byte{0xff, 0xfe}},
		{Type: 0x0d, Data: []byte("\x1b\x00[\x00")},
		{Type: 0x80000001, Data: make([]byte, 31)},
		{Type: 0x80000001, Data: bytes.Repeat([]byte{0xff}, 40)},
		{Type: 0x80000003, Data: append(make([]byte, 32), 4, 4, 1, 0)},
		{Type: 0x8000000a, Data: []byte{200}},
	} {
		text := e.Describe()
		if strings.ContainsAny(text, "\x1b\r\n\x00") || len(text) > 4*maxText {
			t.Errorf("%q", text)
		}
	}
	if name := Type(0x12345678).String(); name != "0x12345678" {
		t.Errorf("an unknown type is %s", name)
	}
}

// oldLog has one SHA-1 event of PCR 3.
func oldLog() []byte {
	b := make([]byte, 28)
	b[0], b[4] = 3, 4
	b = append(b, 4, 0, 0, 0)
	return append(b, 0, 0, 0, 0)
}

func TestOlderLogsAndUnusedSpace(t *testing.T) {
	t.Parallel()
	for name, padding := range map[string][]byte{"none": nil, "zeros": make([]byte, 100), "ones": bytes.Repeat([]byte{0xff}, 7)} {
		l, err := Parse(append(oldLog(), padding...))
		if err != nil || len(l.Events) != 1 || len(l.Banks) != 1 {
			t.Fatalf("%s: %+v, %v", name, l, err)
		}
		if got := hex.EncodeToString(replay(t, l, tpm2.TPMAlgSHA1)[3]); got != "b80de5d138758541c5f05265ad144ab9fa86d1db" { // SHA-1 over 40 zeros
			t.Errorf("PCR 3 is %s", got)
		}
		if _, err := l.Replay(tpm2.TPMAlgSHA256); !errors.Is(err, ErrMalformed) {
			t.Errorf("a bank that is not in the log: %v", err)
		}
		for _, unknown := range []tpm2.TPMIAlgHash{tpm2.TPMAlgSHA3256, 0x0012, 0x7777} {
			if _, err := l.Replay(unknown); err == nil || l.Events[0].Verified(unknown) {
				t.Errorf("replayed in hash 0x%04x", uint16(unknown))
			}
		}
	}
}

// A TPM that was started from another locality begins PCR 0 with its number.
func TestStartupLocality(t *testing.T) {
	t.Parallel()
	l, err := Parse(logOf(t, "plain"))
	if err != nil {
		t.Fatal(err)
	}
	plain := replay(t, l, tpm2.TPMAlgSHA256)[0]
	started := Event{Type: noAction, Data: []byte("StartupLocality\x00\x03")}
	l.Events = append([]Event{started}, l.Events...)
	if got := replay(t, l, tpm2.TPMAlgSHA256); bytes.Equal(got[0], plain) {
		t.Error("PCR 0 does not tell the locality")
	}
	l.Events = []Event{started}
	if got := replay(t, l, tpm2.TPMAlgSHA256)[0]; !bytes.Equal(got, append(make([]byte, 31), 3)) {
		t.Errorf("PCR 0 is %x", got)
	}
}

func TestWhatIsNoLog(t *testing.T) {
	t.Parallel()
	good := logOf(t, "plain")
	put := func(at int, value uint32) []byte {
		b := bytes.Clone(good)
		binary.LittleEndian.PutUint32(b[at:], value)
		return b
	}
	const header = 32
	const second = header + 24 + 4 + 4*4 + 1 // the first event after the header
	if binary.LittleEndian.Uint32(good[28:]) != second-header {
		t.Fatalf("the header has %d bytes", binary.LittleEndian.Uint32(good[28:]))
	}
	for name, log := range map[string][]byte{
		"empty":                 nil,
		"text":                  []byte("text"),
		"cut in the header":     good[:40],
		"cut in an event":       good[:len(good)-1],
		"endless header":        put(28, 0xffffffff),
		"no hashes":             put(header+24, 0),
		"too many hashes":       put(header+24, 17),
		"hashes without end":    put(header+24, 16),
		"a hash twice":          put(header+28, 0x0020000b),
		"SHA-1 of 32 bytes":     put(header+28, 0x00200004),
		"a hash of no length":   put(header+28, 0x00000004),
		"an unknown PCR":        put(second, 24),
		"too many digests":      put(second+8, 17),
		"a digest twice":        put(second+8, 5),
		"endless data":          put(second+8+4+2+20+2+32+2+48+2+64, 0xffffffff),
		"more than can be read": make([]byte, MaxSize+1),
	} {
		if _, err := Parse(log); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzParse: any bytes are a log or an error, and a log can be told and replayed.
func FuzzParse(f *testing.F) {
	good := logOf(f, "plain")
	f.Add(good[:1200])
	f.Add(good[:65])
	f.Add(oldLog())
	f.Fuzz(func(t *testing.T, log []byte) {
		l, err := Parse(log)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Errorf("an untyped refusal: %v", err)
			}
			return
		}
		for _, e := range l.Events {
			if text := e.Describe(); strings.ContainsAny(text, "\x1b\n") {
				t.Errorf("%q", text)
			}
		}
		for _, b := range l.Banks {
			if values, err := l.Replay(b.Hash); err == nil && len(values) > 24 {
				t.Errorf("%d PCRs", len(values))
			}
		}
	})
}
