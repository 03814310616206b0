package main

import (
	"encoding/binary"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
)

// TestMain lets the test's program be the rows that are this program.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		if worker, ok := workers[os.Args[1]]; ok {
			exit(worker(os.Args[2:]))
		}
	}
	os.Exit(m.Run())
}

func TestTheRawLoopsCommandsAreWhole(t *testing.T) {
	for name := range operationsByName {
		b := rawCommand(0x81000100, name, make([]byte, 256))
		if size := binary.BigEndian.Uint32(b[2:]); int(size) != len(b) {
			t.Errorf("%s: a command of %d bytes says %d", name, len(b), size)
		}
	}
}

func TestCommandsAreCountedUpToTheOperation(t *testing.T) {
	codes := []tpm2.TPMCC{0x173, commandSign, 0x176, 0x17F, commandSign}
	if first, each := until(codes, commandSign, 1), until(codes, commandSign, 2)-until(codes, commandSign, 1); first != 2 || each != 3 {
		t.Errorf("first %d, each %d", first, each)
	}
	if n := until(codes, commandSign, 3); n != 0 {
		t.Errorf("an operation that did not come was counted: %d", n)
	}
}

func TestTheTableHasARowForEachCell(t *testing.T) {
	p, err := parse([]string{"-operations", "pss,ecdsa", "-kinds", "plain"})
	if err != nil {
		t.Fatal(err)
	}
	results := map[cell]*measured{}
	for _, column := range p.columns {
		for _, row := range []string{"module", rawRow} {
			m := &measured{}
			m.ratios = append(m.ratios, m.add([]figures{{Nanoseconds: []int64{3e6, 1e6, 2e6}, Wall: 6e6, CPU: 3e5}}, 1))
			results[cell{row, column.String(), 1, 1}] = m
		}
	}
	lines := p.lines(results)
	if len(lines) != 4 || lines[0].Row != rawRow || lines[0].Column != "pss plain" || lines[3].Column != "ecdsa plain" {
		t.Errorf("lines: %+v", lines)
	}
	if l := lines[0]; l.Rate != 500 || l.Median != 2e6 || l.P99 != 3e6 || l.CPU != 100 {
		t.Errorf("figures: %+v", l)
	}
	table, said, _ := strings.Cut(markdown(about{"tpm2-p11 v1", "swtpm", 1, 300, "2026-01-31"}, lines), "\n\n")
	if got := strings.Count(table, "\n|"); got != 5 {
		t.Errorf("a table of %d lines", got+1)
	}
	if !strings.HasPrefix(said, "Ratio to raw: ") {
		t.Errorf("what the ratio is of, is not said: %q", said)
	}
	for _, want := range []string{"2026-01-31, tpm2-p11 v1 on swtpm; 1 rounds of batches of 300 operations", "- pss plain 1.00\n", "- ecdsa plain 1.00\n"} {
		if !strings.Contains(said, want) {
			t.Errorf("not said: %q in %q", want, said)
		}
	}
}

func TestTheHistorySaysWhatALineIsOf(t *testing.T) {
	kept, err := os.ReadFile("history.tsv")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(string(kept), historyHeader+"\n") {
		t.Error("the kept history begins otherwise than a new one")
	}
	p := plan{history: filepath.Join(t.TempDir(), "history.tsv")}
	lines := []line{{cell: cell{"module", "pss plain", 1, 1}, Ratio: 0.95, CPU: 386, First: 2, Each: 1}}
	for range 2 {
		if err := p.remember(about{"tpm2-p11 v1", "swtpm", 4, 150, "2026-01-31"}, lines); err != nil {
			t.Fatal(err)
		}
	}
	added := "2026-01-31\tswtpm\tpss plain\tmodule\t0.950\t386\t2\t1\t4\t150\ttpm2-p11 v1\n"
	if got, err := os.ReadFile(p.history); err != nil || string(got) != historyHeader+"\n"+added+added {
		t.Errorf("%v: %s", err, got)
	}
}

func TestImpossiblePlansAreRefused(t *testing.T) {
	for args, says := range map[string]string{
		"-operations dsa":              `no operation "dsa"`,
		"-kinds none":                  `no kind of key "none"`,
		"-threads 0":                   "number of threads",
		"-processes x":                 "number of threads or processes",
		"-processes 1,2":               "add -tpm nitro-sim",
		"-latency 10ms":                "add -tpm nitro-sim",
		"-latency 10 -tpm nitro-sim":   "missing unit",
		"-latency -1ms -tpm nitro-sim": "negative",
		"-tpm chip":                    `no TPM "chip"`,
		"-rows modul":                  "there are: raw, verified raw, go signer, module, ",
		"-rounds 0":                    "at least one",
		"-rounds -1":                   "at least one",
		"-ops 0":                       "25 operations or more",
		"ecdsa":                        `"ecdsa" is no flag`,
		"-rows go signer":              `no flag`,
		"tls -latency 10ms":            "add -tpm nitro-sim",
		"tls -rounds 0":                "at least one",
		"tls -handshakes 9":            "one handshake for each round",
		"tls -clients 0":               "at least one client",
		"tls nginx":                    `"nginx" is no flag`,
		"-h":                           flag.ErrHelp.Error(), // after which the command succeeds
		"tls -h":                       flag.ErrHelp.Error(),
	} {
		var err error
		if rest, tls := strings.CutPrefix(args, "tls "); tls {
			_, err = parseTLS(strings.Fields(rest))
		} else {
			_, err = parse(strings.Fields(args))
		}
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", args, err)
		}
	}
}

func TestAPlanThatLeavesRawAloneIsRefused(t *testing.T) {
	for args, refused := range map[string]bool{
		"-rows module -kinds pcr -threads 4":         true,
		"-rows module -kinds pcr,plain -threads 4":   false,
		"-rows module -kinds pcr -threads 1,4":       false,
		"-rows tpm2-openssl":                         true, // it is not in this rig
		"-rows raw -kinds pcr":                       false,
		"-kinds pin -threads 4,16 -operations pkcs1": true,
	} {
		p, err := parse(strings.Fields(args))
		if err != nil {
			t.Fatal(err)
		}
		if err := (&rig{plan: p}).refuseRawAlone(); (err != nil) != refused {
			t.Errorf("%s: %v", args, err)
		}
	}
}

// Every server of make bench-tls serves, with every key.
func TestServersOfTheTLSBenchServe(t *testing.T) {
	t.Parallel()
	table := filepath.Join(t.TempDir(), "table.md")
	p, err := parseTLS([]string{"-build", "../../build", "-handshakes", "8", "-clients", "4", "-rounds", "1", "-markdown", table})
	if err != nil {
		t.Fatal(err)
	}
	if err := runTLS(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(table)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(text), "| 0 of 8 |"); n != len(tlsColumns)*len(servers) {
		t.Errorf("%d servers served:\n%s", n, text)
	}
}
