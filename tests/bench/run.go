package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"

	"github.com/google/go-tpm/tpm2"
)

// cell is where a figure stands in the results.
type cell struct {
	Row       string `json:"row"`
	Column    string `json:"column"`
	Threads   int    `json:"threads"`
	Processes int    `json:"processes"`
}

// measured is what all rounds gave for a cell.
type measured struct {
	rates       []float64 // operations a second, a round each
	ratios      []float64 // to the raw loop before and after
	latencies   []int64   // of all operations, ns
	cpu         []float64 // µs an operation
	allocations float64   // an operation
	unfair      []float64 // between threads
	before      int64     // KiB that the host had
	resident    int64     // and with the module
	first, each int       // TPM commands until the first operation is done, and for each after it
}

func (p plan) run(ctx context.Context) error {
	r, err := newRig(ctx, p)
	if err != nil {
		return err
	}
	defer r.close()
	if err := r.refuseRawAlone(); err != nil {
		return err
	}
	results := map[cell]*measured{}
	for round := range p.rounds {
		fmt.Fprintf(os.Stderr, "round %d of %d\n", round+1, p.rounds)
		for _, c := range p.columns {
			if err := r.round(ctx, c, results); err != nil {
				return err
			}
		}
	}
	for at, m := range results {
		if at.Threads == 1 && at.Processes == 1 {
			if err := r.count(ctx, at, m); err != nil {
				return err
			}
		}
	}
	return p.report(r.about(), results)
}

// round is one batch of every row for a column, each between two of the raw loop: a machine's speed drifts within seconds.
func (r *rig) round(ctx context.Context, c column, results map[cell]*measured) error {
	before, err := r.raw(ctx, c, results)
	if err != nil {
		return err
	}
	for _, row := range r.selected()[1:] {
		for _, threads := range r.threads {
			for _, processes := range r.processes {
				b := batchOf{column: c, ops: max(r.ops, leastOps*threads), threads: threads}
				if !r.does(row, b) {
					continue
				}
				rate, m, err := r.measure(ctx, row, b, processes, results)
				if err != nil {
					return err
				}
				after, err := r.raw(ctx, c, results)
				if err != nil {
					return err
				}
				m.ratios = append(m.ratios, 2*rate/(before+after))
				before = after
			}
		}
	}
	return nil
}

// does tells whether a row has such a batch: several threads take plain keys only.
func (r *rig) does(row row, b batchOf) bool {
	return (b.threads == 1 || b.kind.name == "plain") && row.offers(r, b)
}

// refuseRawAlone refuses a plan whose rows, other than raw, have nothing to do.
func (r *rig) refuseRawAlone() error {
	selected := r.selected()[1:]
	for _, row := range selected {
		for _, c := range r.columns {
			for _, threads := range r.threads {
				if r.does(row, batchOf{column: c, threads: threads}) {
					return nil
				}
			}
		}
	}
	if len(selected) == 0 { // which -rows asked for
		return nil
	}
	return errors.New("no row but raw is left: more than one thread is measured with plain keys only, verified raw with RSA signatures by plain keys, " +
		"tpm2-openssl with plain keys that sign and where it is installed, tpm2-pkcs11 with plain keys on nitro-sim and where it is installed")
}

// raw is a batch of the raw loop, whatever the kind of key, and gives its rate.
func (r *rig) raw(ctx context.Context, c column, results map[cell]*measured) (float64, error) {
	b := batchOf{column: column{c.operation, kindsByName["plain"]}, ops: r.ops, threads: 1}
	all, err := r.together(ctx, rows[0], b, 1)
	if err != nil {
		return 0, fmt.Errorf("%s, %s: %w", rawRow, c, err)
	}
	m := at(results, cell{rawRow, c.String(), 1, 1})
	m.ratios = append(m.ratios, 1)
	return m.add(all, 1), nil
}

// measure is a batch of a row, in several processes, and gives their common rate.
func (r *rig) measure(ctx context.Context, row row, b batchOf, processes int, results map[cell]*measured) (float64, *measured, error) {
	all, err := r.together(ctx, row, b, processes)
	if err != nil {
		return 0, nil, fmt.Errorf("%s, %s, %d threads: %w", row.name, b.column, b.threads, err)
	}
	m := at(results, cell{row.name, b.String(), b.threads, processes})
	return m.add(all, b.threads), m, nil
}

func at(results map[cell]*measured, c cell) *measured {
	if results[c] == nil {
		results[c] = &measured{}
	}
	return results[c]
}

// selected are the rows of the plan; raw is always one.
func (r *rig) selected() (selected []row) {
	for _, row := range rows {
		if len(r.rows) == 0 || row.name == rawRow || slices.Contains(r.rows, row.name) {
			selected = append(selected, row)
		}
	}
	return selected
}

// together runs a batch in several processes at once.
func (r *rig) together(ctx context.Context, row row, b batchOf, processes int) ([]figures, error) {
	if row.prepare != nil {
		stop, err := row.prepare(ctx, r, b)
		if err != nil {
			return nil, err
		}
		defer stop()
	}
	all, failed := make([]figures, processes), make([]error, processes)
	var group sync.WaitGroup
	for i := range processes {
		group.Go(func() { all[i], failed[i] = r.batch(ctx, row, b) })
	}
	group.Wait()
	for _, err := range failed {
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

func (r *rig) batch(ctx context.Context, row row, b batchOf) (f figures, err error) {
	env, program, args := row.command(r, b)
	out, err := r.output(ctx, env, program, args...)
	if err != nil {
		return f, err
	}
	return f, json.Unmarshal(out, &f)
}

// add takes the figures of processes that ran at once, and gives their common rate.
func (m *measured) add(all []figures, threads int) (rate float64) {
	for _, f := range all {
		n := float64(len(f.Nanoseconds))
		rate += n / (float64(f.Wall) / 1e9)
		m.latencies = append(m.latencies, f.Nanoseconds...)
		m.cpu = append(m.cpu, float64(f.CPU)/1e3/n)
		m.allocations = float64(f.Allocations) / n
		m.unfair = append(m.unfair, f.unfairness(threads))
		m.before, m.resident = max(m.before, f.Before), max(m.resident, f.Resident)
	}
	m.rates = append(m.rates, rate)
	return rate
}

// counting is how many operations are counted: enough to see what each of them takes.
const counting = 5

// count counts TPM commands through the proxy.
func (r *rig) count(ctx context.Context, at cell, m *measured) error {
	for _, row := range r.selected() {
		for _, c := range r.columns {
			if row.name != at.Row || c.String() != at.Column {
				continue
			}
			b := batchOf{column: c, ops: counting, threads: 1, counted: true}
			if row.name == rawRow {
				b.kind = kindsByName["plain"]
			}
			r.proxy.Reset()
			if _, err := r.together(ctx, row, b, 1); err != nil {
				return err
			}
			codes := r.proxy.Codes()
			m.first = until(codes, c.command, 1)
			m.each = until(codes, c.command, counting) - until(codes, c.command, counting-1)
		}
	}
	return nil
}

// until is how many commands went to the nth of a code, which counts; 0 if it did not come.
func until(codes []tpm2.TPMCC, code uint32, n int) int {
	for i, c := range codes {
		if uint32(c) == code {
			if n--; n == 0 {
				return i + 1
			}
		}
	}
	return 0
}
