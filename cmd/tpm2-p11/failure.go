package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"unicode"

	"github.com/google/go-tpm/tpm2"
	"github.com/spf13/cobra"

	"github.com/tpm2-p11/tpm2-p11/attest"
	"github.com/tpm2-p11/tpm2-p11/internal/p11kit"
	"github.com/tpm2-p11/tpm2-p11/keystore"
	"github.com/tpm2-p11/tpm2-p11/kms"
	"github.com/tpm2-p11/tpm2-p11/kms/cms"
	"github.com/tpm2-p11/tpm2-p11/p11"
	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// usageError is a mistake in how the command was called.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// hintedError is an error with what the user can do next.
type hintedError struct {
	error
	hint string
}

func (e hintedError) Unwrap() error { return e.error }

func withHint(err error, format string, args ...any) error {
	return hintedError{err, fmt.Sprintf(format, args...)}
}

// errReported fails the command after the verb said itself what is wrong.
var errReported = errors.New("reported already")

// nextStep is what to do about an error that does not say so itself.
var nextStep = []struct {
	err  error
	hint string
}{
	{keystore.ErrNotInitialized, "run `tpm2-p11 init` first"},
	{keystore.ErrInitialized, "use it as it is, or begin another store with --store FOLDER"},
	{keystore.ErrNotFound, "`tpm2-p11 key list` shows the keys"},
	{keystore.ErrAmbiguous, "name the key by its CKA_ID, its handle or one of these URIs"},
	{keystore.ErrExists, "`tpm2-p11 key list` shows the keys"},
	{keystore.ErrLabelTaken, "choose another label; --force makes a second key of this one, to be told apart by its CKA_ID"},
	{keystore.ErrUnsafe, "make the store its owner's alone with `chmod -R go-w` and `chown -R`"},
	{keystore.ErrLocked, "try again when the other command is done"},
	{keystore.ErrLoginNeeded, "give the PIN by --pin-file FILE (- is standard input)"},
	{keystore.ErrPINLength, pinRule},
	{keystore.ErrKeyPINNeeded, "give the PIN by --pin-file FILE (- is standard input)"},
	{keystore.ErrConflict, "change the declaration, or delete the key by `tpm2-p11 key delete`"},
	{keystore.ErrOtherKey, "certificate or public key and private key must be a pair: nothing was imported"},
	{keystore.ErrNewer, "update tpm2-p11"},
	{keystore.ErrCorrupt, "`tpm2-p11 doctor` lists the store's problems"},
	{keystore.ErrUnfinished, "run `tpm2-p11 doctor`"},
	{keystore.ErrPolicyUnknown, "name its PCRs by --pcr; --force takes the key as it is, to be listed but not used"},
	{keystore.ErrPolicyIgnored, "--force takes the key all the same"},
	{keystore.ErrOtherApproval, "`tpm2-p11 policy approve PATH --remove` takes that one out, where PATH is this path in the store's folder"},
	{policy.ErrResettable, "--force binds to this PCR all the same"},
	{policy.ErrUnmeasured, "--force binds to these PCRs all the same"},
	{provider.ErrLockout, "wait for the TPM's recovery time (`tpm2-p11 lockout show`) or run `tpm2-p11 lockout reset`"},
	{provider.ErrAuth, "each wrong try counts towards the TPM's lockout: `tpm2-p11 lockout show`"},
	{provider.ErrHandleTaken, "`tpm2-p11 handles` shows what is where; without --handle the first free one is taken"},
	{provider.ErrOtherObject, "`tpm2-p11 handles` shows what is where"},
	{provider.ErrOtherIndex, "name a free NV index, or the one that was made for this: `tpm2_getcap handles-nv-index` and `tpm2_nvreadpublic` show what there is"},
	{provider.ErrNoObject, "`tpm2-p11 handles` shows the persistent handles"},
	{provider.ErrPolicy, "it works again once the PCRs have the approved values: `tpm2-p11 pcr read` shows them"},
	{provider.ErrParentChanged, "if a program removed it, `tpm2-p11 init` brings it back, and all is as before; " + beginAnew},
	{provider.ErrWrongTPM, "what is wrapped opens only in the TPM that it was wrapped for"},
	{provider.ErrWrongUse, "`tpm2-p11 key show` says what a key may do"},
	{provider.ErrDecrypt, "check that it was encrypted to this key, with OAEP and the same hash and label; openssl's hash is sha1 unless it is told otherwise: --oaep-hash sha1"},
	{provider.ErrNoMemory, "programs that died left something loaded, or many use the TPM at once: use /dev/tpmrm0, which keeps them apart; " +
		"else `tpm2_flushcontext -t`, `-l` and `-s` flush what is loaded, whoever uses it, and a restart does too"},
	{provider.ErrNoNV, "remove persistent objects that nobody needs: `tpm2-p11 handles` shows them"},
	{provider.ErrFailure, "restart the machine; if that does not help, the TPM is broken"},
	{provider.ErrIntegrity, "ask again; if it stays so, the TPM is broken, or something between it and this program changes its answers"},
	{provider.ErrMalformed, "ask again; if it stays so, the TPM is broken, or something between it and this program changes its answers"},
	{provider.ErrBusy, "another program holds the TPM: use /dev/tpmrm0, which many can share, or try again"},
	{p11kit.ErrNotInstalled, "install it (Debian: p11-kit), or sign elsewhere: --to-sign writes what is to be signed, --signature takes the signature"},
	{p11kit.ErrModule, "module-path is the path of the module's file, and `p11-kit list-modules` shows those that are registered"},
	{p11kit.ErrNotFound, "`p11tool --list-privkeys --provider MODULE` shows the URIs of the keys there"},
	{p11kit.ErrNoPublicKey, "put its public key or a certificate beside it, with the same CKA_ID"},
	{p11.CKR_PIN_INCORRECT, "each wrong try counts in most tokens"},
	{kms.ErrAccessDenied, "put this image into the key's policy (`tpm2-p11 kms key-policy` writes one), and the role of these credentials among its machines"},
	{kms.ErrThrottled, "try again in a while"},
	{kms.ErrUnavailable, "try again in a while: https://health.aws.amazon.com"},
	{kms.ErrCredentials, "give the instance a role, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; if KMS refuses those, correct them, or this machine's clock"},
	{kms.ErrRegion, "set region in the configuration's [kms], or AWS_REGION: a key's ARN says where it is"},
	{kms.ErrUnreachable, "check the network, a proxy (HTTPS_PROXY) or VPC endpoint, and endpoint in the configuration's [kms]"},
	{kms.ErrCiphertext, "give by --context what it was encrypted with, every name and value; if that is right, the ciphertext is damaged"},
	{kms.ErrWrongKey, "name the key that it was encrypted with by --key-id"},
	{kms.ErrKeyNotFound, "check --key-id and the region: a key is named by id, ARN or alias/NAME"},
	{kms.ErrKeyState, "`aws kms describe-key` shows it: a symmetric key that is enabled is needed"},
	{kms.ErrDocumentExpired, "make a fresh document; if this one is fresh, set the machine's clock"},
	{kms.ErrDocument, "make a fresh one for an RSA key on an EC2 instance with NitroTPM, with `tpm2-p11 attest document --public-key KEY`"},
	{kms.ErrRecipientKey, makeRecipient},
	{kms.ErrPlaintext, "whatever is at this endpoint does not work as KMS does: do not use it"},
	{kms.ErrAnswer, "ask again; if it stays so, look at what stands between this machine and KMS"},
	{kms.ErrEndpoint, "set endpoint in the configuration's [kms] to https://…; plain_http = true allows http to this machine"},
	{kms.ErrPolicy, "`aws kms get-key-policy --output text` prints what is read here"},
	{attest.ErrNonce, "it answers another challenge, or is an old one: ask for a fresh one, with this nonce"},
	{cms.ErrRecipient, "name by --recipient the key that the document was made for"},
	{cms.ErrDecrypt, "it was changed or cut on its way: ask KMS again"},
	{cms.ErrMalformed, "it is no answer of KMS to a request with a document, as --cms-out keeps it"},
	{cms.ErrUnsupported, "it is no answer of KMS to a request with a document, as --cms-out keeps it"},
}

const beginAnew = "if the TPM was cleared or is another one, begin a new store with `tpm2-p11 init --force`: its wrapped keys are lost"

// pinRule is what a token's PIN may be.
var pinRule = fmt.Sprintf("a PIN has %d to %d bytes, a key's own at most %d", keystore.MinPIN, keystore.MaxPIN, keystore.MaxOwnPIN)

func hintFor(cmd *cobra.Command, err error) string {
	var h hintedError
	if errors.As(err, &h) {
		return h.hint
	}
	if errors.As(err, new(usageError)) {
		return fmt.Sprintf("`%s --help` shows how", cmd.CommandPath())
	}
	return nextStepFor(err)
}

// meetPolicy is what to do about a node that is not met, "" where it is PCRs.
func meetPolicy(unmet *policy.UnsatisfiedError) string {
	switch n := unmet.Node.(type) {
	case policy.Any:
		for _, b := range unmet.Branches {
			var pin *policy.UnsatisfiedError
			if errors.As(b.Err, &pin) && pin.Node == policy.Node(policy.PIN{}) {
				return "give the PIN by --pin-file FILE (- is standard input)"
			}
		}
	case policy.Clock:
		return "its term is over: make it anew"
	case policy.Authorize:
		return "`tpm2-p11 policy approve FILE` takes what its signer signed for this machine as it is now"
	case policy.AuthorizeNV:
		return fmt.Sprintf("`tpm2-p11 policy approve FILE --nv 0x%08x` approves a policy there", uint32(n.Index))
	case policy.NV:
		return fmt.Sprintf("`tpm2-p11 policy counter 0x%08x` shows a counter; a policy that was revoked stays so", uint32(n.Index))
	case policy.Secret:
		return hierarchyHint(map[tpm2.TPMHandle]string{tpm2.TPMRHOwner: "owner", tpm2.TPMRHEndorsement: "endorsement"}[n.Hierarchy])
	case policy.Command:
		return "`tpm2-p11 key show` says what it may be used for"
	}
	return ""
}

// nextStepFor is what to do about an error without a hint of its own, "" where nobody knows or the error names a command itself.
func nextStepFor(err error) string {
	if hint := mendDisk(err); hint != "" {
		return hint
	}
	if strings.Contains(err.Error(), "`tpm2-p11 ") {
		return ""
	}
	var unmet *policy.UnsatisfiedError
	if errors.As(err, &unmet) {
		if hint := meetPolicy(unmet); hint != "" {
			return hint
		}
	}
	for _, s := range nextStep {
		if errors.Is(err, s.err) {
			return s.hint
		}
	}
	var hierarchy *provider.HierarchyError
	var path *fs.PathError
	switch {
	case errors.As(err, &hierarchy):
		return hierarchyHint(hierarchy.Hierarchy)
	case errors.Is(err, syscall.ENOTDIR) && errors.As(err, &path) && path.Op == "open store":
		return "a store is a folder: name one with --store FOLDER, or as store in the configuration"
	case errors.Is(err, fs.ErrPermission) && errors.As(err, &path) && !strings.HasPrefix(path.Path, "/dev/"):
		return fmt.Sprintf("run it as root, or as the owner of %s", path.Path)
	case errors.Is(err, fs.ErrPermission):
		return "run it as root, or join the group that may use the TPM (mostly tss)"
	case errors.Is(err, provider.ErrUnavailable):
		return "check the address given by --tpm or the configuration; `tpm2-p11 doctor` tells more"
	}
	return ""
}

// mendDisk is what to do about a file that cannot be written, which comes before whatever else is to be done.
func mendDisk(err error) string {
	switch {
	case errors.Is(err, syscall.EROFS) && errors.Is(err, keystore.ErrReadOnly):
		return "its filesystem is read-only: mount it writable (`mount -o remount,rw`), or choose another store with --store FOLDER"
	case errors.Is(err, syscall.EROFS):
		return "its filesystem is read-only: mount it writable (`mount -o remount,rw`), or write elsewhere"
	case errors.Is(err, keystore.ErrReadOnly):
		return "run it as the store's owner, or choose another store with --store FOLDER"
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return "make room on that disk, or in the user's quota, and try again"
	case errors.Is(err, syscall.EIO) && !errors.Is(err, provider.ErrUnavailable):
		return "the disk fails: `dmesg` tells more"
	}
	return ""
}

func hierarchyHint(hierarchy string) string {
	if hierarchy == "owner" || hierarchy == "endorsement" {
		return fmt.Sprintf("set %[1]s_auth_file in the configuration to a file with the right one; after TPM2_Clear the %[1]s hierarchy has none: leave it out then", hierarchy)
	}
	return fmt.Sprintf("the %s hierarchy was given an authorisation, by `tpm2_changeauth -c %s` or the like: it takes whoever knows it", hierarchy, hierarchy)
}

// ownCommand is a command of ours in a text.
var ownCommand = regexp.MustCompile("`tpm2-p11 [^`]*`")

// inContext adds the global flags that the user gave to the commands in a text, so that they mean the same TPM and store.
func (a *app) inContext(text string) string { return a.inContextOf("", text) }

// inContextOf is inContext for a text about a token, which the commands then choose unless the user did. token may be empty.
func (a *app) inContextOf(token, text string) string {
	var flags strings.Builder
	for _, f := range []struct{ name, value string }{
		{"config", a.global.config}, {"tpm", a.global.tpm}, {"store", a.global.store}, {"token", cmp.Or(a.global.token, token)},
	} {
		if f.value != "" {
			fmt.Fprintf(&flags, " --%s %s", f.name, shellWord(f.value))
		}
	}
	return ownCommand.ReplaceAllStringFunc(text, func(command string) string {
		if strings.HasSuffix(command, "--help`") {
			return command
		}
		return strings.TrimSuffix(command, "`") + flags.String() + "`"
	})
}

// shellWord is a word that a shell takes as it is.
func shellWord(s string) string {
	if strings.IndexFunc(s, func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("-_./:=,@+", r)
	}) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// countTries adds to a wrong PIN how many more the TPM takes, as far as it can be asked.
func (a *app) countTries(ctx context.Context, err error) error {
	if a.set == nil || errors.As(err, new(hintedError)) {
		return err
	}
	t, noTPM := a.tpm()
	if noTPM != nil {
		return err
	}
	p, unknown := t.Properties(ctx)
	switch {
	case unknown != nil:
		return err
	case p.InLockout:
		return withHint(err, "that was one too many: the TPM takes no PIN for a while, see `tpm2-p11 lockout show`")
	}
	left := p.MaxAuthFail - min(p.LockoutCounter, p.MaxAuthFail)
	return withHint(err, "%s left before the TPM takes no PIN for a while: `tpm2-p11 lockout show`", count(int(left), "wrong try", "wrong tries"))
}

// report says what went wrong and what to do next on standard error.
func (a *app) report(cmd *cobra.Command, args []string, err error) {
	if errors.Is(err, errReported) {
		return
	}
	message := strings.ReplaceAll(err.Error(), "\n", "; ") // of joined errors
	if errors.Is(err, context.Canceled) {
		message = "interrupted"
	}
	message, hint := a.inContext(message), a.inContext(hintFor(cmd, err))
	// A mistake in the flags may come before --json was read.
	if a.global.json || slices.Contains(args, "--json") {
		type failure struct {
			Message string `json:"message"`
			Hint    string `json:"hint,omitempty"`
		}
		line, err := json.Marshal(map[string]failure{"error": {message, hint}})
		if err == nil {
			fmt.Fprintf(a.err, "%s\n", line)
		}
		return
	}
	fmt.Fprintf(a.err, "%s %s\n", paint(a.err, red, "tpm2-p11:"), message)
	if hint != "" {
		fmt.Fprintf(a.err, "  %s\n", hint)
	}
}
