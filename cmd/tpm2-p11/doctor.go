package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/tpm2-p11/tpm2-p11/config"
	"github.com/tpm2-p11/tpm2-p11/internal/client"
	"github.com/tpm2-p11/tpm2-p11/internal/tokens"
	"github.com/tpm2-p11/tpm2-p11/keystore"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// A finding's status.
const (
	statusOK   = "ok"
	statusWarn = "warn"
	statusFail = "fail"
	statusSkip = "skip"
)

// finding is what one check found.
type finding struct {
	Check  string `json:"check"`
	Token  string `json:"token,omitempty"`
	Status string `json:"status"` // ok, warn, fail, skip
	Detail string `json:"detail"`
	Mend   string `json:"mend,omitempty"`

	chosen string // the token's label for --token, where there are several
}

// doctor collects findings.
type doctor struct {
	a        *app
	findings []finding
	locked   bool // the TPM that was looked at last is in lockout
}

func doctorCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Check configuration, TPM, store and keys",
		Long: `doctor checks one thing after another and says how to mend what is wrong. It uses no key, and opens of
the secrets those that take no PIN, to see whether they are whole. It changes nothing, except that it finishes what an
interrupted command left half done. It fails when a check fails.`,
		Example: "  tpm2-p11 doctor\n  tpm2-p11 doctor --json",
		Args:    exactly(),
		RunE: a.verb(func(ctx context.Context, _ []string) error {
			d := doctor{a: a}
			d.examine(ctx)
			if err := ctx.Err(); err != nil {
				return err
			}
			return d.print()
		}),
	}
}

func (d *doctor) examine(ctx context.Context) {
	d.ok("version", "%s", thisVersion().Version)
	d.memory()
	c, err := d.a.configuration()
	if err != nil {
		d.fail("configuration", err, "")
		return
	}
	if _, err := d.a.open(); err != nil {
		d.fail("configuration", err, "")
		return
	}
	d.ok("configuration", "%s", cmp.Or(c.Path, "none, defaults are used"))
	d.log()
	if c.Socket != "" {
		d.service(ctx, c.Socket)
	}
	selected, err := d.a.selected()
	if err != nil {
		d.fail("token", err, "there is: "+strings.Join(d.a.tokenLabels(), ", "))
		return
	}
	for _, i := range selected {
		t, first := d.a.set.Tokens[i], len(d.findings)
		if c.Socket != "" && len(c.Tokens[i].Keys) == 0 && isElsewhere(t) {
			d.skip("TPM and store", "none of this user's is here (%s), and none is needed: the service keeps the keys", t.Dir())
			continue
		}
		answers := d.tpm(ctx, t.TPM())
		d.store(ctx, t, answers, len(d.a.set.Config.Tokens[i].Keys) > 0)
		d.declared(ctx, t, d.a.set.DeclaredFor(i), answers && t.Initialized())
		if len(d.a.set.Tokens) > 1 {
			for f := range d.findings[first:] {
				d.findings[first+f].Token, d.findings[first+f].chosen = d.a.tokenLabels()[i], d.a.tokenLabel(i)
			}
		}
	}
}

// isElsewhere tells that a store is nothing this user has: it was never made, or is another's. Of a client that is no fault.
func isElsewhere(t *keystore.Token) bool {
	err := t.Check()
	return errors.Is(err, keystore.ErrNotInitialized) || errors.Is(err, fs.ErrPermission)
}

// patience is how long a service may take to say what it has: one that is started by its socket, too.
const patience = 5 * time.Second

// service checks the service that a client's configuration names, as its programs meet it: it answers, and lets this user in.
func (d *doctor) service(ctx context.Context, path string) {
	waiting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c := client.New(path)
	defer c.Close()
	slots, err := c.Slots(waiting)
	switch {
	case err == nil:
		d.ok("service", "%s answers and lets this user in, with %s: the module and Go programs ask it, and this command the TPM itself", path, count(len(slots), "token", "tokens"))
	case errors.Is(err, client.ErrNoAccess):
		d.fail("service", err, "`systemctl reload tpm2-p11` reloads it")
	case errors.Is(err, context.DeadlineExceeded):
		d.fail("service", fmt.Errorf("%s does not answer within %v", path, patience), "restart it (`systemctl restart tpm2-p11`) and read its log (`journalctl -u tpm2-p11`)")
	default:
		d.fail("service", err, "start it (`systemctl start tpm2-p11.socket`): the module and Go programs ask it")
	}
}

// log checks that what goes wrong later can be read somewhere. The command itself says it.
func (d *doctor) log() {
	c, err := config.Load(d.a.global.config)
	if err == nil {
		err = tokens.CheckLog(c)
	}
	if err != nil {
		d.warn("log", "", "%v", err)
		return
	}
	d.ok("log", "%s", c.Log)
}

// memory checks that secrets can be kept out of swap.
func (d *doctor) memory() {
	const enough = 64 << 10 // what secrets of one process take, with room to spare
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit); err != nil {
		d.fail("locked memory", err, "")
		return
	}
	if limit.Cur < enough {
		d.warn("locked memory", "raise the limit to 64 KiB or more: `ulimit -l 64`, LimitMEMLOCK= of a systemd unit", "only %d bytes may be locked: secrets may reach swap", limit.Cur)
		return
	}
	d.ok("locked memory", "secrets stay out of swap")
}

func (d *doctor) store(ctx context.Context, t *keystore.Token, tpmAnswers, declares bool) {
	switch err := usable(t); {
	case errors.Is(err, keystore.ErrNotInitialized):
		mend := "run `tpm2-p11 init`"
		if declares {
			mend = "run `tpm2-p11 key ensure`, which makes what the configuration declares, or `tpm2-p11 init`"
		}
		d.fail("store", err, mend)
		return
	case errors.Is(err, keystore.ErrCorrupt):
		d.fail("store", err, "restore the file from a backup; without it, moved away, and `tpm2-p11 init` the keys that need no PIN work on and the others are lost")
		return
	case err != nil:
		d.fail("store", err, "")
		return
	}
	entries, held, err := contents(t)
	if err != nil {
		d.fail("store", err, "")
		return
	}
	switch err := t.CheckWritable(); {
	case err == nil:
		d.ok("store", "%s: token %q, %s", t.Dir(), t.Label(), held)
	case errors.Is(err, unix.EROFS):
		d.warn("store", "nothing to do if keys are only used; to change them mount it writable (`mount -o remount,rw`)", "%s: token %q, %s, on a read-only filesystem", t.Dir(), t.Label(), held)
	default:
		d.warn("store", "nothing to do if keys are only used; to change them run as the owner of "+t.Dir(), "%s: token %q, %s, not writable", t.Dir(), t.Label(), held)
	}
	problems, err := t.Problems()
	if err != nil {
		d.fail("store", err, "")
	}
	for _, p := range problems {
		if errors.Is(p.Err, provider.ErrWrongTPM) && tpmAnswers && d.lost(ctx, t, entries, p.File) {
			continue // it is told of the key
		}
		mend := "restore the file from a backup, or move it away"
		switch {
		case errors.Is(p.Err, provider.ErrWrongTPM):
			mend = "nothing brings it back here: `tpm2-p11 key delete` removes it"
		case !errors.Is(p.Err, keystore.ErrCorrupt): // the file is whole
			mend = cmp.Or(nextStepFor(p.Err), mend)
		}
		d.fail("store file", fmt.Errorf("%s: %w", p.File, p.Err), mend)
	}
	for _, err := range t.ApprovedProblems() {
		d.warn("approved policies", "what is passed over approves nothing: write a broken file anew, remove files that are no longer needed", "%v", err)
	}
	if !tpmAnswers {
		return
	}
	if d.srk(ctx, t) {
		d.keys(ctx, t, entries)
	}
}

// contents are a store's keys and secrets, and how many there are, in words.
func contents(t *keystore.Token) (entries []keystore.Entry, held string, err error) {
	keys, err := t.Keys()
	if err != nil {
		return nil, "", err
	}
	secrets, err := t.Secrets()
	if err != nil {
		return nil, "", err
	}
	held = count(len(keys), "key", "keys")
	if len(secrets) > 0 {
		held += ", " + count(len(secrets), "secret or data object", "secrets and data objects")
	}
	return append(keys, secrets...), held, nil
}

// lost tells a key or secret that neither the TPM nor this file of it has any more.
func (d *doctor) lost(ctx context.Context, t *keystore.Token, entries []keystore.Entry, file string) bool {
	i := slices.IndexFunc(entries, func(e keystore.Entry) bool { return e.ID == strings.TrimSuffix(file, filepath.Ext(file)) })
	return i >= 0 && errors.Is(present(ctx, t.TPM(), entries[i]), provider.ErrWrongTPM)
}

func (d *doctor) add(f finding) { d.findings = append(d.findings, f) }

func (d *doctor) ok(check, format string, args ...any) {
	d.add(finding{Check: check, Status: statusOK, Detail: fmt.Sprintf(format, args...)})
}

func (d *doctor) skip(check, format string, args ...any) {
	d.add(finding{Check: check, Status: statusSkip, Detail: fmt.Sprintf(format, args...)})
}

func (d *doctor) warn(check, mend, format string, args ...any) {
	d.add(finding{Check: check, Status: statusWarn, Detail: fmt.Sprintf(format, args...), Mend: mend})
}

// fail records an error; without a mend of its own it gets the error's next step.
func (d *doctor) fail(check string, err error, mend string) {
	var hinted hintedError
	if mend == "" && errors.As(err, &hinted) {
		mend = hinted.hint
	} else if mend == "" {
		mend = nextStepFor(err)
	}
	if strings.Contains(mend, "`tpm2-p11 doctor`") { // whoever reads this ran it
		mend = ""
	}
	d.add(finding{Check: check, Status: statusFail, Detail: err.Error(), Mend: mend})
}

func (d *doctor) print() error {
	failed := false
	for i, f := range d.findings {
		failed = failed || f.Status == statusFail
		d.findings[i].Detail, d.findings[i].Mend = d.a.inContextOf(f.chosen, f.Detail), d.a.inContextOf(f.chosen, f.Mend)
	}
	err := d.a.print(struct {
		OK     bool      `json:"ok"`
		Checks []finding `json:"checks"`
	}{!failed, d.findings}, d.text)
	if err == nil && failed {
		return errReported
	}
	return err
}

func (d *doctor) text(w io.Writer) {
	colours := map[string]string{statusOK: green, statusWarn: yellow, statusFail: red}
	for _, f := range d.findings {
		check := f.Check
		if f.Token != "" {
			check = f.Token + ": " + check
		}
		// A detail of several lines would no longer be one line a check.
		line := fmt.Sprintf("%s: %s", check, strings.ReplaceAll(f.Detail, "\n", "; "))
		if f.Mend != "" {
			line += " - " + f.Mend
		}
		fmt.Fprintf(w, "%s  %s\n", paint(w, colours[f.Status], fmt.Sprintf("%-4s", f.Status)), line)
	}
}
