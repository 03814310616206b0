package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

func pcrCommand(a *app) *cobra.Command {
	return group("pcr", "Read the TPM's PCRs", pcrReadCommand(a))
}

func pcrReadCommand(a *app) *cobra.Command {
	var out string
	c := &cobra.Command{
		Use:   "read [PCRS…]",
		Short: "Read PCRs, all active ones or a selection",
		Long: `read prints PCRs. --out writes the values' bytes to a file instead, one after the other, as tpm2_pcrread -o does and policy
digest --pcr-file takes them.`,
		Example: "  tpm2-p11 pcr read\n  tpm2-p11 pcr read sha256:0,1,2,7",
		RunE: a.verb(func(ctx context.Context, args []string) error {
			var wanted []policy.PCR
			for _, s := range args {
				p, err := policy.ParsePCR(s)
				if err != nil {
					return usageError{err}
				}
				wanted = append(wanted, p)
			}
			t, err := a.token()
			if err != nil {
				return err
			}
			if len(wanted) == 0 {
				if wanted, err = active(ctx, t.TPM()); err != nil {
					return err
				}
			}
			values := map[string]map[string]string{}
			var raw []byte
			for _, p := range wanted {
				read, err := t.TPM().ReadPCRs(ctx, p.Bank, p.Indices())
				if err != nil {
					return err
				}
				bank := policy.BankName(p.Bank)
				if values[bank] == nil {
					values[bank] = map[string]string{}
				}
				for _, i := range p.Indices() {
					raw = append(raw, read[i]...)
				}
				for i, v := range read {
					values[bank][strconv.FormatUint(uint64(i), 10)] = hex.EncodeToString(v)
				}
			}
			if !toStdout(out) {
				return a.deliver(map[string]any{"pcrs": values}, out, raw, 0o644)
			}
			return a.print(struct {
				PCRs map[string]map[string]string `json:"pcrs"`
			}{values}, func(w io.Writer) { printPCRs(w, values) })
		}),
	}
	c.Flags().StringVarP(&out, "out", "o", "", "output `FILE` for the values' bytes")
	return c
}

func printPCRs(w io.Writer, values map[string]map[string]string) {
	for _, bank := range slices.Sorted(maps.Keys(values)) {
		for i := range 32 {
			if v, ok := values[bank][strconv.Itoa(i)]; ok {
				fmt.Fprintf(w, "%s PCR%-2d %s\n", bank, i, v)
			}
		}
	}
}

// active selects all PCRs that the TPM has.
func active(ctx context.Context, t *provider.TPM) ([]policy.PCR, error) {
	banks, err := t.Banks(ctx)
	if err != nil {
		return nil, err
	}
	var all []policy.PCR
	for _, b := range banks {
		p := policy.PCR{Bank: b.Hash, Values: map[uint][]byte{}}
		for _, i := range b.PCRs {
			p.Values[i] = nil
		}
		all = append(all, p)
	}
	return all, nil
}

func bankNames(banks []provider.Bank) string {
	var names []string
	for _, b := range banks {
		names = append(names, policy.BankName(b.Hash))
	}
	return strings.Join(names, ", ")
}
