package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rsa"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/google/go-tpm/tpm2"
	"golang.org/x/sys/unix"

	"github.com/tpm2-p11/tpm2-p11/internal/keyuse"
	"github.com/tpm2-p11/tpm2-p11/internal/secret"
	"github.com/tpm2-p11/tpm2-p11/internal/tokens"
	"github.com/tpm2-p11/tpm2-p11/keystore"
	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// tpm checks the device and what it says of itself. It tells whether the TPM answers.
func (d *doctor) tpm(ctx context.Context, t *provider.TPM) bool {
	if path, ok := strings.CutPrefix(t.String(), "device:"); ok {
		if err := unix.Access(path, unix.R_OK|unix.W_OK); err != nil {
			d.fail("device", fmt.Errorf("%s: %w", path, err), deviceMend(err))
			return false
		}
		d.ok("device", "%s can be read and written", path)
	}
	p, err := t.Properties(ctx)
	if err != nil {
		mend := nextStepFor(err)
		if errors.Is(err, provider.ErrUnavailable) && !errors.Is(err, fs.ErrPermission) {
			mend = "start it, or correct its address: --tpm, or tpm in the configuration"
		}
		d.fail("TPM", err, mend)
		return false
	}
	d.ok("TPM", "%s: %s %s, firmware %s, specification revision %s", t, p.Manufacturer, p.Vendor, p.Firmware, p.Revision)
	if !d.banks(ctx, t) {
		return false
	}
	d.locked = p.InLockout
	switch {
	case p.InLockout:
		mend := "wait for it to end or run `tpm2-p11 lockout reset`"
		if p.LockoutAuthSet {
			mend += ", which takes the lockout authorisation that somebody set; after a wrong one it takes none before " + recovery(p.LockoutRecovery)
		}
		d.warn("lockout", mend, "the TPM is locked after %d wrong tries: no PIN is taken, keys without one work", p.LockoutCounter)
	case p.LockoutCounter > 0:
		d.warn("lockout", "nothing to do: one is forgotten every "+seconds(p.LockoutInterval).String(), "%d of %d wrong tries", p.LockoutCounter, p.MaxAuthFail)
	default:
		d.ok("lockout", "no wrong tries, %d are allowed", p.MaxAuthFail)
	}
	if p.PersistentAvailable == 0 {
		d.warn("persistent objects", "remove what nobody needs (`tpm2-p11 handles` shows all), or use --wrapped", "the TPM has no room for another one")
	}
	return true
}

func deviceMend(err error) string {
	if errors.Is(err, unix.EACCES) {
		return "run it as root, or join the group that may use the device (mostly tss)"
	}
	return "enable the TPM in the firmware or the virtual machine, or name another one by --tpm or in the configuration"
}

// banks checks the PCR banks. It tells whether the TPM does more than say what it is: in failure mode it does not.
func (d *doctor) banks(ctx context.Context, t *provider.TPM) bool {
	banks, err := t.Banks(ctx)
	var refused *provider.ResponseError
	if errors.As(err, &refused) && refused.Code == uint32(tpm2.TPMRCFailure) {
		d.fail("failure mode", fmt.Errorf("the TPM found itself faulty and does nothing: %w", err), "switch the machine off and on; if that does not help the TPM is broken")
		return false
	}
	if err != nil {
		d.fail("PCR banks", err, "")
		return true
	}
	for _, b := range banks {
		if b.Hash == tpm2.TPMAlgSHA256 || b.Hash == tpm2.TPMAlgSHA384 {
			d.ok("PCR banks", "%s", bankNames(banks))
			return true
		}
	}
	d.warn("PCR banks", "activate the sha256 bank in the firmware, or by `tpm2_pcrallocate sha256:all` and a reboot", "neither sha256 nor sha384 is active: keys cannot be bound to PCRs safely")
	return true
}

// srk checks that the storage root key is the pinned one, by sealing a byte under it that is forgotten at once.
func (d *doctor) srk(ctx context.Context, t *keystore.Token) bool {
	probe := secret.New(1)
	defer probe.Wipe()
	if _, err := t.TPM().Seal(ctx, probe, provider.Template{}, nil); err != nil {
		d.fail("storage root key", err, "")
		return false
	}
	d.ok("storage root key", "it is the one this store was made with")
	return true
}

func (d *doctor) keys(ctx context.Context, t *keystore.Token, entries []keystore.Entry) {
	unfinished := 0
	for _, e := range entries {
		if e.State != keystore.Ready {
			unfinished++
		}
	}
	// Files that are no key any more, or not yet, are not among the entries.
	err := t.Recover(ctx)
	if err != nil && (unfinished > 0 || !errors.Is(err, keystore.ErrReadOnly)) {
		d.fail("unfinished keys", err, "")
		return
	}
	if unfinished > 0 {
		d.ok("unfinished keys", "%d were left half done by an interrupted command, and are finished now", unfinished)
		if entries, _, err = contents(t); err != nil {
			d.fail("store", err, "")
			return
		}
	}
	for _, e := range entries {
		if _, public := e.PublicData(); e.State == keystore.Ready && !public {
			d.key(ctx, t, e)
			d.certificate(e)
		}
	}
	d.labels(entries)
}

// certificate tells of one that nobody takes now.
func (d *doctor) certificate(e keystore.Entry) {
	if len(e.Certificates) == 0 {
		return
	}
	check, leaf := fmt.Sprintf("certificate of key %q", e.Label), e.Certificates[0]
	switch now := time.Now(); {
	case now.After(leaf.NotAfter):
		label := shellWord(e.Label)
		d.warn(check, fmt.Sprintf("`tpm2-p11 key csr %s` asks for another one, `tpm2-p11 key certificate %s FILE` stores it", label, label),
			"%s ended on %s", leaf.Subject, leaf.NotAfter.Format(time.DateOnly))
	case now.Before(leaf.NotBefore):
		d.warn(check, "set this machine's clock, if that is what is wrong", "%s begins on %s, and here it is %s", leaf.Subject,
			leaf.NotBefore.Format(time.DateOnly), now.Format(time.DateOnly))
	}
}

// labels names keys that programs which go by labels cannot tell apart.
func (d *doctor) labels(entries []keystore.Entry) {
	same := map[string]int{}
	for _, e := range entries {
		if e.Secret != nil {
			continue
		}
		if same[e.Label]++; same[e.Label] == 2 {
			d.warn("labels", "name them by their CKA_IDs, which `tpm2-p11 key list` shows, or delete those that nobody needs",
				"several keys are called %q: a program that goes by the label takes any of them", e.Label)
		}
	}
}

// key checks that a key could be used now, without using it.
func (d *doctor) key(ctx context.Context, t *keystore.Token, e keystore.Entry) {
	check := fmt.Sprintf("key %q", e.Label)
	if e.Secret != nil {
		check = fmt.Sprintf("secret %q", e.Label)
	}
	if err := present(ctx, t.TPM(), e); err != nil {
		d.fail(check, err, absentMend(err, e))
		return
	}
	if e.PolicyIgnored() {
		d.warn(check, "make a new key with `tpm2-p11 key create --pcr …`", "its policy is not enforced: userWithAuth is set")
		return
	}
	if !e.Policy.IsZero() {
		if err := e.Policy.Check(t.PolicyStateOf(ctx, e)); err != nil {
			mend := "boot what the key was bound to, or make a new key"
			var unmet *policy.UnsatisfiedError
			if errors.As(err, &unmet) {
				mend = cmp.Or(meetPolicy(unmet), mend)
			}
			d.fail(check, err, mend)
			return
		}
	}
	if e.PolicyErr != nil {
		d.fail(check, e.PolicyErr, "make a new key, or import this one again with the --pcr it was made with")
		return
	}
	if e.Secret == nil && !anyUse(e.Object.Public) {
		d.fail(check, errors.New("nothing here can use it: its type, use and scheme fit no operation"), "make another one with `tpm2-p11 key create`")
		return
	}
	if e.Secret != nil && !e.TakesPIN() {
		value, err := t.OpenSecret(ctx, e)
		if err != nil {
			d.fail(check, err, restoreMend(err, e))
			return
		}
		value.Wipe()
		d.ok(check, "it opens, and is as it was written")
		return
	}
	if guessed(e) {
		d.warn(check, "if it does, link it again with --own-pin-file, as each use counts as a wrong try", "it is in the TPM; whether it takes a password only a use would show")
		return
	}
	if e.Linked() && e.EmptyAuth {
		d.ok(check, "it is in the TPM; that it takes no password, as the store says, only a use would show")
		return
	}
	kind, when := pinKind(e), "now"
	if d.locked && (kind == "token" || kind == "own" && !e.Object.Public.Attributes().NoDA) {
		when = "when the lockout is over"
	}
	by := map[string]string{"token": ", by the token's PIN", "own": ", by its own PIN"}[kind]
	if e.Secret != nil {
		by += ", if its file is as it was written: that only a use would show"
	}
	d.ok(check, "usable %s%s", when, by)
}

// restoreMend is what to do about a secret that does not open, "" where the error knows better.
func restoreMend(err error, e keystore.Entry) string {
	if errors.Is(err, keystore.ErrCorrupt) {
		return "restore the store's " + e.ID + " files from a backup, or give it up by `tpm2-p11 key delete " + shellWord(e.Label) + "`"
	}
	return ""
}

// anyUse tells whether there is an operation of this program's that a key is made for.
func anyUse(p provider.Public) bool {
	key, err := p.Key()
	if err != nil {
		return false
	}
	use := keyuse.Of(p)
	if _, isRSA := key.(*rsa.PublicKey); isRSA {
		return use.Sign && (use.Fits(tpm2.TPMAlgRSASSA, 0) || use.Fits(tpm2.TPMAlgRSAPSS, 0)) || use.Decrypt && use.Fits(tpm2.TPMAlgOAEP, 0)
	}
	return use.Sign && use.Fits(tpm2.TPMAlgECDSA, 0) || use.Decrypt && use.Fits(tpm2.TPMAlgECDH, 0)
}

// declared compares what the configuration declares with the store and the TPM, if they can be asked.
func (d *doctor) declared(ctx context.Context, t *keystore.Token, declared []tokens.Declaration, askable bool) {
	for _, key := range declared {
		check := fmt.Sprintf("declared key %q", key.Label)
		missing := map[keystore.Outcome]string{
			keystore.Created: "neither store nor TPM has it",
			keystore.Adopted: "the TPM has it, the store does not know it",
			keystore.Updated: "the store has it, with another handle or certificate than declared",
		}
		if key.Err != nil {
			d.fail(check, key.Err, mendDeclaration)
			continue
		}
		if !askable {
			continue
		}
		switch outcome, err := t.Compare(ctx, key.Declared); {
		case errors.Is(err, keystore.ErrInvalid):
			d.fail(check, err, mendDeclaration)
		case err != nil:
			d.fail(check, err, "")
		case outcome == keystore.Unchanged:
			d.ok(check, "it is there as declared")
		default:
			d.warn(check, "run `tpm2-p11 key ensure "+shellWord(key.Label)+"`", "%s", missing[outcome])
		}
	}
}

// errNoParent: a wrapped key's parent, another tool's, is no more at its handle.
var errNoParent = errors.New("the storage key that it is wrapped to is gone")

// present checks that the TPM has the key, or takes it. Of one that is not at its handle, ErrWrongTPM and errNoParent tell that its wrapped
// form does not bring it back either.
func present(ctx context.Context, t *provider.TPM, e keystore.Entry) error {
	if e.Object.Handle == 0 {
		return loads(ctx, t, e.Object)
	}
	public, err := t.ReadPublic(ctx, e.Object.Handle)
	switch {
	case err == nil && bytes.Equal(public.Name(), e.Object.Public.Name()):
		return nil
	case err == nil:
		err = fmt.Errorf("another object is at %s: %s", formatHandle(e.Object.Handle), public.Describe())
	case !errors.Is(err, provider.ErrNoObject):
		return err
	}
	if !e.Linked() {
		wrapped := e.Object
		wrapped.Handle = 0
		if lost := loads(ctx, t, wrapped); errors.Is(lost, provider.ErrWrongTPM) || errors.Is(lost, errNoParent) {
			return fmt.Errorf("%w; the file's: %w", err, lost)
		}
	}
	return err
}

// loads checks that the TPM takes a wrapped key.
func loads(ctx context.Context, t *provider.TPM, o provider.Object) error {
	err := t.Load(ctx, o)
	if errors.Is(err, provider.ErrNoObject) {
		return fmt.Errorf("%w: %w", errNoParent, err)
	}
	return err
}

// absentMend is what to do about a key that is not present, "" where the error knows better.
func absentMend(err error, e keystore.Entry) string {
	label := shellWord(e.Label)
	remove := fmt.Sprintf("run `tpm2-p11 key delete %s`", label)
	lost := errors.Is(err, provider.ErrWrongTPM)
	switch {
	case errors.Is(err, errNoParent):
		return fmt.Sprintf("have the tool that made the storage key make it again at %s; if the TPM was cleared or is another one, %s",
			formatHandle(e.Object.Parent), remove)
	case lost && e.Secret != nil:
		return remove + ", and make it anew: it opens only in the TPM that it was made in"
	case lost:
		return fmt.Sprintf("%s, and `tpm2-p11 key create %s` for a new one: it works only in the TPM that it was made in", remove, label)
	case errors.Is(err, provider.ErrNoObject) && e.Linked():
		return fmt.Sprintf("%s, and `tpm2-p11 key create %s` for a new one", remove, label)
	case errors.Is(err, provider.ErrNoObject):
		return fmt.Sprintf("run `tpm2-p11 key evict %s`, then `tpm2-p11 key persist %s`", label, label)
	}
	return ""
}
