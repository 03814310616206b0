package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tpm2-p11/tpm2-p11/attest"
)

func attestVerifyCommand(a *app) *cobra.Command {
	var content documentFlags
	var expected expectedFlags
	var at string
	var c *cobra.Command
	c = &cobra.Command{
		Use:   "verify FILE",
		Short: "Verify an attestation document",
		Long: `verify checks a NitroTPM attestation document: its signature, its certificates up to AWS's root, its age, and
whatever the flags ask for. Exit code 0 means that all of it holds.

A document without the asked nonce may be an old one of up to --max-age; without --pcr nothing is said about what the
machine has booted.`,
		Example: `  tpm2-p11 attest verify document.cbor --nonce 7d0f…c2 --pcr 4=8c10… --pcr 7=9844…
  tpm2-p11 attest verify old.cbor --at 2026-06-18T05:11:00Z --pcr 4=8c10…`,
		Args: exactly("FILE"),
		RunE: a.verb(func(_ context.Context, args []string) error {
			if err := filled(c); err != nil {
				return err
			}
			p, err := expected.policy(a)
			if err != nil {
				return err
			}
			if at != "" {
				if p.Now, err = time.Parse(time.RFC3339, at); err != nil {
					return usagef("--at %s: write the time as 2026-06-18T05:11:00Z", at)
				}
			}
			want, err := content.request(a)
			if err != nil {
				return err
			}
			p.Nonce, p.UserData, p.PublicKey = want.Nonce, want.UserData, want.PublicKey
			document, err := a.readDocument("FILE", args[0])
			if err != nil {
				return err
			}
			claims, err := attest.Verify(document, p)
			if err != nil {
				return expected.explain(fmt.Errorf("%s: %w", inputName(args[0]), err))
			}
			if p.Nonce == nil {
				a.note("no nonce was asked for: it may be an old document, of up to %v", p.MaxAge)
			}
			if len(p.PCRs) == 0 {
				a.note("no PCR was asked for: nothing is said about what the machine has booted")
			}
			return a.printVerified(claims, p, "the document is valid")
		}),
	}
	expected.register(c)
	content.register(c, a)
	c.Flags().StringVar(&at, "at", "", "verify as of this `TIME`, as 2026-06-18T05:11:00Z (default: now)")
	return c
}

func attestSelfCommand(a *app) *cobra.Command {
	var expected expectedFlags
	var c *cobra.Command
	c = &cobra.Command{
		Use:   "self",
		Short: "Check that this machine is the expected image",
		Long: `self asks the NitroTPM for an attestation document with a fresh nonce and verifies it. Exit code 0 means that AWS's
root vouches for these PCRs of this machine, now. In a systemd unit it keeps a service from starting on another image:

  ExecStartPre=/usr/bin/tpm2-p11 attest self --pcr 4=8c10… --pcr 7=9844…`,
		Example: "  tpm2-p11 attest self --pcr 4=8c10… --pcr 7=9844… --instance i-0123456789abcdef0",
		Args:    exactly(),
		RunE: a.verb(func(ctx context.Context, _ []string) error {
			if err := filled(c); err != nil {
				return err
			}
			p, err := expected.policy(a)
			if err != nil {
				return err
			}
			if len(p.PCRs) == 0 {
				return usagef("--pcr is missing: which image is expected?")
			}
			t, err := a.token()
			if err != nil {
				return err
			}
			p.Nonce = make([]byte, 32)
			rand.Read(p.Nonce)
			document, err := attest.Document(ctx, t.TPM(), attest.Request{Nonce: p.Nonce})
			if err != nil {
				return explainDocument(err)
			}
			claims, err := attest.Verify(document, p)
			if err != nil {
				return expected.explain(err)
			}
			return a.printVerified(claims, p, "this machine is the expected image")
		}),
	}
	expected.register(c)
	return c
}

// expectedFlags are what a document must show besides its content.
type expectedFlags struct {
	pcrs, roots []string
	instance    string
	maxAge      time.Duration
}

func (e *expectedFlags) register(c *cobra.Command) {
	f := c.Flags()
	f.StringArrayVar(&e.pcrs, "pcr", nil, "expected value of a PCR, as `N=HEX` (SHA-384); may be repeated")
	f.StringArrayVar(&e.roots, "root", nil, "`FILE` with the trusted root in PEM form, instead of AWS's; may be repeated")
	f.StringVar(&e.instance, "instance", "", "expected EC2 instance `ID`")
	f.DurationVar(&e.maxAge, "max-age", attest.DefaultMaxAge, "how old the document may be")
}

func (e *expectedFlags) policy(a *app) (p attest.Policy, err error) {
	if e.maxAge <= 0 {
		return p, usagef("--max-age %v: must be more than nothing", e.maxAge)
	}
	p = attest.Policy{Instance: e.instance, MaxAge: e.maxAge, PCRs: map[int][]byte{}}
	for _, s := range e.pcrs {
		index, value, _ := strings.Cut(s, "=")
		i, err := strconv.Atoi(index)
		v, badValue := hex.DecodeString(value)
		if err != nil || badValue != nil || i < 0 || i > 23 || len(v) != 48 {
			return p, usagef("--pcr %s: write it as N=HEX, N from 0 to 23 and 96 hex digits", s)
		}
		if _, twice := p.PCRs[i]; twice {
			return p, usagef("--pcr %d is given twice", i)
		}
		p.PCRs[i] = v
	}
	for _, file := range e.roots {
		roots, err := a.readChain(file)
		if err != nil {
			return p, err
		}
		p.Roots = append(p.Roots, roots...)
	}
	return p, nil
}

// explain says what to do about a refused document.
func (e *expectedFlags) explain(err error) error {
	switch {
	case errors.Is(err, attest.ErrChain) && len(e.roots) == 0:
		return withHint(err, "an emulator's document needs the emulator's root: --root FILE")
	case errors.Is(err, attest.ErrTime):
		return withHint(err, "documents are valid for three hours; --at TIME verifies as of another time, --max-age allows more of it")
	case errors.Is(err, attest.ErrPCR):
		return withHint(err, "the machine runs another image than the expected one: `tpm2-p11 attest show` shows all PCRs")
	}
	return err
}

// printVerified prints a document that was verified, and what was asked of it.
func (a *app) printVerified(c *attest.Claims, p attest.Policy, verdict string) error {
	j := describeClaims(c)
	j.Verified = true
	return a.print(j, func(w io.Writer) {
		var checked []string
		for _, i := range slices.Sorted(maps.Keys(p.PCRs)) {
			checked = append(checked, "PCR"+strconv.Itoa(i))
		}
		for _, f := range []struct {
			name  string
			asked bool
		}{
			{"nonce", p.Nonce != nil}, {"user data", p.UserData != nil}, {"public key", p.PublicKey != nil}, {"instance", p.Instance != ""},
		} {
			if f.asked {
				checked = append(checked, f.name)
			}
		}
		fmt.Fprintf(w, "%s\n", paint(w, green, verdict))
		fmt.Fprintf(w, "%-12s %s\n", "signed by", j.SignedBy)
		fmt.Fprintf(w, "%-12s %s\n", "instance", j.Instance)
		fmt.Fprintf(w, "%-12s %s\n", "made at", j.Timestamp.Format(time.RFC3339))
		fmt.Fprintf(w, "%-12s %s\n", "as expected", dash(strings.Join(checked, ", ")))
	})
}
