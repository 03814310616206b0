package main

import (
	"encoding/binary"
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
	table, said, _ := strings.Cut(markdown(lines), "\n\n")
	if got := strings.Count(table, "\n|"); got != 5 {
		t.Errorf("a table of %d lines", got+1)
	}
	if !strings.HasPrefix(said, "Ratio to raw: ") {
		t.Errorf("what the ratio is of, is not said: %q", said)
	}
}

func TestImpossiblePlansAreRefused(t *testing.T) {
	for _, args := range [][]string{{"-operations", "dsa"}, {"-kinds", "none"}, {"-threads", "0"}, {"-processes", "x"}} {
		if _, err := parse(args); err == nil {
			t.Errorf("%v was taken", args)
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
