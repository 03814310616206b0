package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strconv"

	"github.com/google/go-tpm/tpm2"
	"github.com/spf13/cobra"

	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/policy/eventlog"
)

// machineLog is where Linux shows the log of this machine's firmware.
const machineLog = "/sys/kernel/security/tpm0/binary_bios_measurements"

// lastFirmwarePCR is the last of those that nobody extends once the operating system runs.
const lastFirmwarePCR = 7

func policyEventsCommand(a *app) *cobra.Command {
	var pcr string
	c := &cobra.Command{
		Use:   "events [FILE]",
		Short: "Say which event of the boot made which PCR",
		Long: `events reads a TCG event log, by default this machine's, lists the events of each PCR with the values that they give, and
compares these with the TPM's PCRs. With a FILE no TPM is asked, unless --tpm names one.

A log proves nothing by itself. Where its values are the TPM's, its digests are what was measured; the words beside them
are measured too only where there is a "=" between.

The exit code is 1 if one of PCRs 0 to 7 is not what the log says. Others are extended by the operating system too.`,
		Example: `  tpm2-p11 policy events
  tpm2-p11 policy events --pcr sha384:4,7
  tpm2-p11 policy events boot.log --json`,
		Args: atMost("FILE"),
		RunE: a.verb(func(ctx context.Context, args []string) error {
			file := machineLog
			if len(args) == 1 {
				file = args[0]
			}
			l, err := a.readEventLog(file)
			if err != nil {
				return err
			}
			bank, indices, err := eventSelection(pcr, l)
			if err != nil {
				return err
			}
			replayed, err := l.Replay(bank)
			if err != nil {
				return fmt.Errorf("%s: %w", inputName(file), err)
			}
			if indices == nil {
				indices = slices.Sorted(maps.Keys(replayed))
			}
			shown := eventsJSON{Bank: policy.BankName(bank), PCRs: describePCRs(l, bank, indices, replayed)}
			if len(args) == 0 || a.global.tpm != "" {
				if err := a.compareWithTPM(ctx, &shown, bank, indices); err != nil {
					return err
				}
			}
			if err := a.print(shown, func(w io.Writer) { shown.text(w) }); err != nil {
				return err
			}
			if shown.firmwareDiffers() {
				return errReported
			}
			return nil
		}),
	}
	c.Flags().StringVar(&pcr, "pcr", "", "show `PCRS`, as sha384:4,7, and the digests of that bank (default: all; sha384 if the log has it, else sha256)")
	return c
}

// atMost allows one argument.
func atMost(name string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		return exactly(name)(cmd, args)
	}
}

func (a *app) readEventLog(file string) (*eventlog.Log, error) {
	r, err := a.reader("FILE", file)
	if errors.Is(err, fs.ErrNotExist) && file == machineLog {
		return nil, withHint(err, "the firmware measured nothing, or securityfs is not mounted at /sys/kernel/security; a log of another machine is given as FILE")
	}
	if err != nil {
		return nil, err
	}
	defer r.Close()
	text, err := io.ReadAll(io.LimitReader(r, eventlog.MaxSize+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", inputName(file), err)
	}
	l, err := eventlog.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", inputName(file), err)
	}
	return l, nil
}

// eventSelection is the bank and the PCRs to show; nil for all of them.
func eventSelection(pcr string, l *eventlog.Log) (tpm2.TPMIAlgHash, []uint, error) {
	has := func(bank tpm2.TPMIAlgHash) bool {
		return slices.ContainsFunc(l.Banks, func(b eventlog.Bank) bool { return b.Hash == bank })
	}
	if pcr != "" {
		bank, indices, err := policy.ParseSelection(pcr)
		if err != nil {
			return 0, nil, usageError{err}
		}
		if !has(bank) {
			return 0, nil, fmt.Errorf("the log has no digests for %s", policy.BankName(bank))
		}
		slices.Sort(indices)
		return bank, indices, nil
	}
	for _, bank := range []tpm2.TPMIAlgHash{tpm2.TPMAlgSHA384, tpm2.TPMAlgSHA256} {
		if has(bank) {
			return bank, nil, nil
		}
	}
	return l.Banks[0].Hash, nil, nil
}

// eventsJSON is a log as --json shows it. Its names are stable.
type eventsJSON struct {
	Bank string         `json:"bank"`
	PCRs []eventPCRJSON `json:"pcrs"`
}

type eventPCRJSON struct {
	PCR    uint        `json:"pcr"`
	Value  string      `json:"value"`           // that the events give
	TPM    string      `json:"tpm,omitempty"`   // that the TPM has
	Match  *bool       `json:"match,omitempty"` // of the two, when a TPM was asked
	Events []eventJSON `json:"events"`
}

type eventJSON struct {
	Number   int    `json:"number"` // in the log, from 1
	Type     string `json:"type"`
	Digest   string `json:"digest"`
	Verified bool   `json:"verified"` // the digest is that of the data
	What     string `json:"what,omitempty"`
}

func describePCRs(l *eventlog.Log, bank tpm2.TPMIAlgHash, indices []uint, replayed map[uint][]byte) []eventPCRJSON {
	all := []eventPCRJSON{}
	for _, i := range indices {
		value := replayed[i]
		if value == nil { // no event is about it
			value = make([]byte, sizeOf(l, bank))
		}
		p := eventPCRJSON{PCR: i, Value: hex.EncodeToString(value), Events: []eventJSON{}}
		for n, e := range l.Events {
			if e.PCR == i && e.Extends() {
				p.Events = append(p.Events, eventJSON{n + 1, e.Type.String(), hex.EncodeToString(e.Digests[bank]), e.Verified(bank), e.Describe()})
			}
		}
		all = append(all, p)
	}
	return all
}

func sizeOf(l *eventlog.Log, bank tpm2.TPMIAlgHash) int {
	for _, b := range l.Banks {
		if b.Hash == bank {
			return b.Size
		}
	}
	return 0
}

func (a *app) compareWithTPM(ctx context.Context, shown *eventsJSON, bank tpm2.TPMIAlgHash, indices []uint) error {
	t, err := a.tpm()
	if err != nil {
		return err
	}
	values, err := t.ReadPCRs(ctx, bank, indices)
	if err != nil {
		return err
	}
	for n := range shown.PCRs {
		p := &shown.PCRs[n]
		value, ok := values[p.PCR]
		if !ok {
			return fmt.Errorf("%s PCR%d: %w: choose another bank by --pcr", shown.Bank, p.PCR, policy.ErrBankInactive)
		}
		p.TPM = hex.EncodeToString(value)
		match := p.TPM == p.Value
		p.Match = &match
	}
	return nil
}

func (s eventsJSON) firmwareDiffers() bool {
	return slices.ContainsFunc(s.PCRs, func(p eventPCRJSON) bool { return p.PCR <= lastFirmwarePCR && p.Match != nil && !*p.Match })
}

func (s eventsJSON) text(w io.Writer) {
	for _, p := range s.PCRs {
		fmt.Fprintf(w, "%s PCR%-2d %s%s\n", s.Bank, p.PCR, p.Value, p.verdict(w))
		var b bytes.Buffer
		rows := [][]string{}
		for _, e := range p.Events {
			sign := " "
			if e.Verified {
				sign = "="
			}
			rows = append(rows, []string{strconv.Itoa(e.Number), e.Digest, sign, e.Type, e.What})
		}
		table(&b, []string{"", "", "", "", ""}, rows)
		for line := range bytes.Lines(b.Bytes()) {
			if len(bytes.TrimSpace(line)) > 0 {
				fmt.Fprintf(w, "  %s\n", bytes.TrimRight(line, " \n"))
			}
		}
	}
}

// verdict says whether the TPM has what the log says.
func (p eventPCRJSON) verdict(w io.Writer) string {
	switch {
	case p.Match == nil:
		return ""
	case *p.Match:
		return paint(w, green, "  as in the TPM")
	case p.PCR <= lastFirmwarePCR:
		return paint(w, red, "  but the TPM has "+p.TPM+": the log is not this boot's, or was changed")
	}
	return paint(w, yellow, "  and the TPM has "+p.TPM+": extended after the log")
}
