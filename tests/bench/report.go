package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// line is a cell's medians.
type line struct {
	cell
	Rate        float64 `json:"operations_per_second"`
	Agreement   float64 `json:"lowest_to_highest_batch"` // of operations a second
	Ratio       float64 `json:"ratio_to_raw"`
	Median      int64   `json:"median_ns"`
	P99         int64   `json:"p99_ns"`
	CPU         float64 `json:"client_cpu_us"`
	Allocations float64 `json:"allocations"`
	Unfair      float64 `json:"slowest_to_quickest_thread"`
	Before      int64   `json:"host_memory_before_kib"`
	Resident    int64   `json:"host_memory_kib"`
	First       int     `json:"tpm_commands_to_first"`
	Each        int     `json:"tpm_commands_each"`
}

// about is what a run was of, without which its figures say nothing.
type about struct {
	Version string `json:"version"`
	TPM     string `json:"tpm"`
	Rounds  int    `json:"rounds"`
	Ops     int    `json:"operations_of_a_batch"`
	Date    string `json:"date"`
}

func (r *rig) about() about {
	tpm := r.emulator
	if r.latency > 0 {
		tpm += " with " + r.latency.String() + " a command"
	}
	return about{r.version, tpm, r.rounds, r.ops, time.Now().UTC().Format(time.DateOnly)}
}

func (a about) String() string { return a.Date + ", " + a.Version + " on " + a.TPM }

// report writes what was asked for.
func (p plan) report(a about, results map[cell]*measured) error {
	lines := p.lines(results)
	table := markdown(a, lines)
	fmt.Print(table)
	if p.markdown != "" {
		if err := os.WriteFile(p.markdown, []byte(table), 0o644); err != nil {
			return err
		}
	}
	if p.json != "" {
		text, err := json.MarshalIndent(struct {
			about
			Cells []line `json:"cells"`
		}{a, lines}, "", "  ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(p.json, append(text, '\n'), 0o644); err != nil {
			return err
		}
	}
	if p.history != "" {
		return p.remember(a, lines)
	}
	return nil
}

// lines are the results in the order of columns, threads, processes and rows.
func (p plan) lines(results map[cell]*measured) (lines []line) {
	for at, m := range results {
		slices.Sort(m.latencies)
		lines = append(lines, line{
			cell: at, Rate: median(m.rates), Agreement: slices.Min(m.rates) / slices.Max(m.rates), Ratio: median(m.ratios), CPU: median(m.cpu), Allocations: m.allocations,
			Median: at100(m.latencies, 50), P99: at100(m.latencies, 99), Unfair: median(m.unfair), Before: m.before, Resident: m.resident, First: m.first, Each: m.each,
		})
	}
	place := func(l line) (ofColumn, ofRow int) {
		ofColumn = slices.IndexFunc(p.columns, func(c column) bool { return c.String() == l.Column })
		ofRow = slices.IndexFunc(rows, func(r row) bool { return r.name == l.Row })
		return ofColumn, ofRow
	}
	slices.SortFunc(lines, func(a, b line) int {
		columnA, rowA := place(a)
		columnB, rowB := place(b)
		return cmp.Or(cmp.Compare(columnA, columnB), cmp.Compare(a.Threads, b.Threads), cmp.Compare(a.Processes, b.Processes), cmp.Compare(rowA, rowB))
	})
	return lines
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

// at100 is a percentile of sorted values.
func at100(sorted []int64, percent int) int64 {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, len(sorted)*percent/100)]
}

// legend says what a reader of the table alone could not know.
const legend = `
Ratio to raw: operations/s of all threads and processes of the row together, divided by those of the row "raw" just before and just after:
one process and thread that sends the TPM the finished commands of the operation, and nothing else, for a key without PIN and policy.
1 is what the TPM gives to one who waits for each answer. Figures are medians of the rounds.
`

func markdown(a about, lines []line) string {
	var b strings.Builder
	fmt.Fprintln(&b, "| operation and key | threads × processes | by | ratio to raw | operations/s | median ms | p99 / median | slowest / quickest thread | client CPU µs | allocations | TPM commands: first, each | host memory KiB before, after |")
	fmt.Fprintln(&b, "|---|---|---|---|---|---|---|---|---|---|---|---|")
	for _, l := range lines {
		counts, unfair, memory := "", "", ""
		if l.First > 0 {
			counts = fmt.Sprintf("%d, %d", l.First, l.Each)
		}
		if l.Threads > 1 {
			unfair = fmt.Sprintf("%.2f", l.Unfair)
		}
		if l.Resident > 0 {
			memory = fmt.Sprintf("%d, %d", l.Before, l.Resident)
		}
		fmt.Fprintf(&b, "| %s | %d × %d | %s | %.3f | %.0f | %.2f | %.1f | %s | %.0f | %s | %s | %s |\n", l.Column, l.Threads, l.Processes, l.Row, l.Ratio, l.Rate,
			float64(l.Median)/1e6, float64(l.P99)/float64(max(l.Median, 1)), unfair, l.CPU, unlessZero(int64(l.Allocations)), counts, memory)
	}
	b.WriteString(legend)
	fmt.Fprintf(&b, "\n%s; %d rounds of batches of %d operations, or %d for each thread where those are more.\n", a, a.Rounds, a.Ops, leastOps)
	b.WriteString("\nHow far the batches of raw agree with each other, lowest to highest operations/s; look here first:\n\n")
	for _, l := range lines {
		if l.Row == rawRow {
			fmt.Fprintf(&b, "- %s %.2f\n", l.Column, l.Agreement)
		}
	}
	return b.String()
}

func unlessZero(n int64) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}

// historyHeader is the history's first line.
const historyHeader = "# date, TPM, operation and key, row, ratio to raw, client CPU in µs, TPM commands until the first and for each; " +
	"in later lines: rounds, operations of a batch, version"

// remember appends the medians of single threads to the history.
func (p plan) remember(a about, lines []line) error {
	f, err := os.OpenFile(p.history, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	if info, err := f.Stat(); err == nil && info.Size() == 0 {
		fmt.Fprintln(f, historyHeader)
	}
	for _, l := range lines {
		if l.Row == rawRow || l.Threads != 1 || l.Processes != 1 {
			continue
		}
		fmt.Fprintf(f, "%s\t%s\t%s\t%s\t%.3f\t%.0f\t%d\t%d\t%d\t%d\t%s\n", a.Date, a.TPM, l.Column, l.Row, l.Ratio, l.CPU, l.First, l.Each, a.Rounds, a.Ops, a.Version)
	}
	return f.Close()
}
