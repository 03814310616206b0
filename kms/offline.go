package kms

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/tpm2-p11/tpm2-p11/internal/secret"
	"github.com/tpm2-p11/tpm2-p11/internal/trusted"
	"github.com/tpm2-p11/tpm2-p11/keystore/tss2"
	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// Offline says how an Unwrapper keeps what KMS unwrapped, so that the machine
// boots while KMS is out of reach.
//
// A copy is encrypted with what a key of the TPM's own computes: on this machine,
// while its PCRs are as they were when KMS answered last, and until a time by the
// TPM's clock, which runs while the TPM has power. Nothing else can open a copy,
// nor make one. For that long the machine does without KMS's consent; when KMS is
// there and refuses, the copy is removed.
type Offline struct {
	Dir  string        // folder of the copies and nothing else, made for its owner alone if it is not there
	TPM  *provider.TPM // of this machine
	PCRs policy.PCR    // which PCRs; their values are those of the time when a copy is made
	For  time.Duration // of the TPM's running time, whole milliseconds
}

// offline is Offline at work.
type offline struct {
	Offline
	log *slog.Logger
}

func newOffline(o Offline, log *slog.Logger) (*offline, error) {
	switch {
	case o.Dir == "" || o.TPM == nil || o.For <= 0:
		return nil, fmt.Errorf("%w: an offline cache needs a folder, a TPM and a time", ErrInput)
	case len(o.PCRs.Indices()) == 0:
		return nil, fmt.Errorf("%w: an offline cache needs PCRs: without them every image opens it", ErrInput)
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("the offline cache: %w", err)
	}
	return &offline{o, log}, nil
}

// copyName says what a copy is of.
type copyName struct {
	question [sha256.Size]byte // a ciphertext with its encryption context, in a region: what KMS refuses of it once is refused of all its copies
	key      [sha256.Size]byte // the KMS key, in the caller's spelling
}

// copyNameOf names a copy of what the KMS of a region gave. The KMS of another one says nothing of it, be it by a refusal or by not being there.
func copyNameOf(region, keyID string, ciphertext []byte, encryptionContext map[string]string) copyName {
	h, asked := sha256.New(), cacheKey(ciphertext, encryptionContext)
	h.Write(asked[:])
	writeField(h, []byte(region))
	return copyName{[sha256.Size]byte(h.Sum(nil)), sha256.Sum256([]byte(keyID))}
}

// Endings of files' names. A draft's begins as a copy's does.
const (
	copyEnding  = ".pem"
	draftEnding = ".new"
)

// Names of copies and of drafts.
var (
	copies = regexp.MustCompile(`^[0-9a-f]{64}-[0-9a-f]{64}` + regexp.QuoteMeta(copyEnding) + `$`)
	drafts = regexp.MustCompile(`^[0-9a-f]{64}-[0-9]+` + regexp.QuoteMeta(draftEnding) + `$`)
)

func (n copyName) prefix() string { return hex.EncodeToString(n.question[:]) + "-" }

func (o *offline) path(n copyName) string {
	return filepath.Join(o.Dir, n.prefix()+hex.EncodeToString(n.key[:])+copyEnding)
}

// ask has KMS asked, and takes its answer: it keeps a copy of a good one, uses the copy when KMS was out of reach, and removes it when
// KMS said no. The draft is there before KMS is asked, for a refusal that somebody else gets meanwhile to remove.
func (o *offline) ask(ctx context.Context, name copyName, ask func() (*Secret, error)) (*Secret, error) {
	d := o.draft(name)
	defer d.drop()
	s, err := ask()
	switch {
	case err == nil:
		o.tryKeep(ctx, name, d, s)
		return s, nil
	case errors.Is(err, ErrUnreachable), errors.Is(err, ErrUnavailable):
		return o.standIn(ctx, name, err)
	case errors.Is(err, ErrAccessDenied), errors.Is(err, ErrKeyState), errors.Is(err, ErrKeyNotFound):
		if failed := o.remove(name); failed != nil {
			o.log.Warn("KMS refuses, and what is kept here cannot be removed", "error", failed)
		}
	}
	return nil, err
}

// draft is the file of a copy to come.
type draft struct {
	file *os.File
	err  error // why there is none
}

func (o *offline) draft(name copyName) draft {
	f, err := os.CreateTemp(o.Dir, name.prefix()+"*"+draftEnding)
	return draft{f, err}
}

// drop removes what did not become a copy.
func (d draft) drop() {
	if d.err == nil {
		d.file.Close()
		os.Remove(d.file.Name())
	}
}

// tryKeep makes a copy of what KMS answered, or warns that there is none.
func (o *offline) tryKeep(ctx context.Context, name copyName, d draft, s *Secret) {
	err := d.err
	if err == nil {
		err = o.keep(ctx, name, d.file, s)
	}
	if err != nil {
		o.log.Warn("no copy is kept for when KMS is out of reach", "error", err)
	}
}

// standIn uses a copy because of an error. That the caller's time was over may be that error.
func (o *offline) standIn(ctx context.Context, name copyName, err error) (*Secret, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), openTimeout)
	defer cancel()
	kept, failed := o.open(ctx, name)
	switch {
	case failed == nil:
		kept.reason = err
		o.log.Warn("KMS is out of reach and a copy kept in this machine's TPM is used", "reason", err)
		return kept, nil
	case errors.Is(failed, fs.ErrNotExist):
		return nil, fmt.Errorf("%w (and no copy of it is kept here)", err)
	}
	return nil, fmt.Errorf("%w; and the copy kept here does not open: %w", err, failed)
}

// remove takes all copies of what KMS refused, and before them the drafts: what came from a draft that is not there any more is there
// to be found.
func (o *offline) remove(name copyName) (err error) {
	for _, ending := range []string{draftEnding, copyEnding} {
		entries, failed := os.ReadDir(o.Dir)
		err = errors.Join(err, failed)
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), name.prefix()) && strings.HasSuffix(e.Name(), ending) {
				if failed := os.Remove(filepath.Join(o.Dir, e.Name())); !errors.Is(failed, fs.ErrNotExist) {
					err = errors.Join(err, failed)
				}
			}
		}
	}
	return err
}

const (
	copyBlock = "TPM2-P11 ENCRYPTED SECRET" // AES-256-GCM: nonce, ciphertext, tag
	maxCopy   = 64 << 10
	maxCopies = 1024 // in a folder: an application that asks for ever more ciphertexts fills no disk

	openTimeout = 10 * time.Second // of what the TPM does for it
	clockLoss   = 1 << 22          // milliseconds that a TPM's clock may go back when it loses power (TPM 2.0 Part 2, TPMS_CLOCK_INFO)
	draftAge    = time.Hour        // after which a draft was left: no request takes as long
)

// keep has the TPM make a key for the PCRs and the term, and encrypts the secret with that key's MAC of the copy's name.
func (o *offline) keep(ctx context.Context, name copyName, draft *os.File, s *Secret) error {
	state := o.TPM.PolicyState(ctx)
	now, err := state.Clock()
	if err != nil {
		return err
	}
	if left := o.sweep(now.Clock); left >= maxCopies && !o.has(name) {
		return fmt.Errorf("%s has %d copies, and no more are kept: their terms, of %s of the TPM's running time, end one after another", o.Dir, left, o.For)
	}
	p, err := policy.Policy{Root: o.PCRs}.And(policy.Clock{Within: o.For}).Resolve(state, false)
	if err != nil {
		return err
	}
	digest, err := p.Digest(tpm2.TPMAlgSHA256)
	if err != nil {
		return err
	}
	object, err := o.TPM.CreateMACKey(ctx, digest)
	if err != nil {
		return err
	}
	k := tss2.Key{Object: object, EmptyAuth: true, Policy: p}
	text, err := tss2.Encode(k)
	if err != nil {
		return err
	}
	aead, err := o.aead(ctx, k, name)
	if err != nil {
		return err
	}
	text = append(text, pem.EncodeToMemory(&pem.Block{Type: copyBlock, Bytes: aead.Seal(nil, nil, s.Bytes(), nil)})...)
	if err := trusted.Settle(draft, o.path(name), text, 0o600); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return errors.New("meanwhile KMS refused what it had allowed")
}

// readCopy gives a copy's key and what is encrypted.
func readCopy(path string) (k tss2.Key, closed []byte, err error) {
	text, err := trusted.Read(path, maxCopy, trusted.Rules{Closed: trusted.Private, Owned: true, NoFollow: true})
	if err != nil {
		return tss2.Key{}, nil, err
	}
	key, rest := pem.Decode(text)
	block, rest := pem.Decode(rest)
	if key == nil || block == nil || block.Type != copyBlock || len(bytes.TrimSpace(rest)) > 0 {
		return tss2.Key{}, nil, fmt.Errorf("%s: %w", path, errCopy)
	}
	if k, err = tss2.Decode(pem.EncodeToMemory(key)); err != nil {
		return tss2.Key{}, nil, fmt.Errorf("%s: %w: %w", path, errCopy, err)
	}
	return k, block.Bytes, nil
}

// open is the way back.
func (o *offline) open(ctx context.Context, name copyName) (*Secret, error) {
	k, closed, err := readCopy(o.path(name))
	if err != nil {
		return nil, err
	}
	if err := o.allows(ctx, k.Policy); err != nil {
		return nil, fmt.Errorf("%s: %w", o.path(name), err)
	}
	aead, err := o.aead(ctx, k, name)
	if err != nil {
		return nil, err
	}
	plaintext, err := aead.Open(nil, nil, closed, nil)
	if err != nil {
		return nil, fmt.Errorf("%s was changed: %w", o.path(name), errCopy)
	}
	return &Secret{value: secret.From(plaintext)}, nil
}

var (
	errCopy  = errors.New("it is no copy for when KMS is out of reach: remove it, and KMS's next answer makes one")
	errTerms = errors.New("it was kept for other PCRs or a longer time than is asked for now; KMS's next answer makes another")
)

// terms are those of a copy with this policy: its PCRs, and its end by the TPM's clock, 0 if keep gave it no such policy.
func terms(p policy.Policy) (policy.PCR, uint64) {
	nodes, _ := p.Root.(policy.All)
	if len(nodes) != 2 {
		return policy.PCR{}, 0
	}
	pcrs, _ := nodes[0].(policy.PCR)
	end, _ := nodes[1].(policy.Clock)
	return pcrs, end.Before
}

// allows tells whether a copy's policy is one that keep would give it now, or would have given it before. The file says what the
// policy is, and the TPM whether it is met.
func (o *offline) allows(ctx context.Context, p policy.Policy) error {
	pcrs, end := terms(p)
	if pcrs.Bank != o.PCRs.Bank || !slices.Equal(pcrs.Indices(), o.PCRs.Indices()) || end == 0 {
		return errTerms
	}
	now, err := o.TPM.PolicyState(ctx).Clock()
	if err == nil && end > now.Clock+uint64(o.For.Milliseconds())+clockLoss {
		err = errTerms
	}
	return err
}

// aead is a copy's cipher. TPM.MAC takes no key but one that the TPM made itself, and the TPM uses it by its policy alone. So whoever
// boots something else can neither open a copy nor make one that opens here, with all rights on the machine and its disk.
func (o *offline) aead(ctx context.Context, k tss2.Key, name copyName) (cipher.AEAD, error) {
	key, err := o.TPM.MAC(ctx, k.Object, provider.Auth{Policy: k.Policy, Label: "offline cache"}, slices.Concat(name.question[:], name.key[:]))
	if err != nil {
		return nil, err
	}
	defer key.Wipe()
	block, err := aes.NewCipher(key.Bytes())
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// has tells whether there is a copy, which another one may replace.
func (o *offline) has(name copyName) bool {
	_, err := os.Lstat(o.path(name))
	return err == nil
}

// sweep removes copies whose term is over by the TPM's clock, and drafts that were left, and counts the copies that stay. What else lies there
// is not ours.
func (o *offline) sweep(now uint64) (left int) {
	entries, err := os.ReadDir(o.Dir)
	if err != nil {
		return 0
	}
	for _, e := range entries {
		path, gone := filepath.Join(o.Dir, e.Name()), false
		switch {
		case copies.MatchString(e.Name()):
			k, _, err := readCopy(path)
			_, end := terms(k.Policy)
			if gone = err == nil && end != 0 && end <= now; !gone {
				left++
			}
		case drafts.MatchString(e.Name()):
			info, err := e.Info()
			gone = err == nil && time.Since(info.ModTime()) > draftAge
		}
		if gone {
			_ = os.Remove(path)
		}
	}
	return left
}
