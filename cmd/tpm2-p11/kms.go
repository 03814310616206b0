package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tpm2-p11/tpm2-p11/config"
	"github.com/tpm2-p11/tpm2-p11/internal/attested"
	"github.com/tpm2-p11/tpm2-p11/internal/tokens"
	"github.com/tpm2-p11/tpm2-p11/kms"
	"github.com/tpm2-p11/tpm2-p11/kms/cms"
	"github.com/tpm2-p11/tpm2-p11/provider"
	"github.com/tpm2-p11/tpm2-p11/signer"
)

func kmsCommand(a *app) *cobra.Command {
	c := group("kms", "Secrets from AWS KMS, only for this measured machine",
		kmsEncryptCommand(a), kmsDecryptCommand(a), kmsOpenCMSCommand(a), kmsDataKeyCommand(a), kmsImportKeyCommand(a), kmsKeyPolicyCommand(a),
	)
	c.Long = `kms asks AWS KMS for secrets with an attestation document of this machine's NitroTPM: KMS compares its PCRs with
the key policy, and closes its answer for an RSA key that never leaves the TPM.

Region, KMS key and encryption context can stand in the configuration's [kms]. The region is else taken from AWS_REGION or the
instance, credentials from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or the instance's role.`
	for _, verb := range c.Commands() {
		// A variable that is not set must not mean any KMS key, or no context.
		verb.PreRunE = func(c *cobra.Command, _ []string) error { return filled(c) }
	}
	return c
}

// requestFlags say which KMS key a request is about, and what it is bound to.
type requestFlags struct {
	keyID     string
	context   []string
	noContext bool
}

func (r *requestFlags) register(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&r.keyID, "key-id", "", "the KMS `KEY` by id, ARN or alias (default: that of the configuration's [kms])")
	f.StringArrayVar(&r.context, "context", nil, "a `NAME=VALUE` of the encryption context, in place of the configuration's; may be repeated")
	f.BoolVar(&r.noContext, "no-context", false, "without an encryption context, whatever the configuration says, and without a warning")
}

// request is what the flags and [kms] say together.
type request struct {
	keyID   string
	context map[string]string
}

// complete lays the flags over the configuration. Without an encryption context it warns, unless that was asked for.
func (r *requestFlags) complete(a *app, c config.KMS) (request, error) {
	q := request{keyID: c.KeyID, context: c.Context}
	if r.keyID != "" {
		q.keyID = r.keyID
	}
	if r.noContext {
		if len(r.context) > 0 {
			return q, usagef("--context and --no-context exclude each other")
		}
		q.context = nil
		return q, nil
	}
	if len(r.context) > 0 {
		q.context = make(map[string]string)
	}
	for _, pair := range r.context {
		name, value, ok := strings.Cut(pair, "=")
		if _, twice := q.context[name]; !ok || name == "" || value == "" || twice {
			return q, usagef("--context %q: write NAME=VALUE, each name once", pair)
		}
		q.context[name] = value
	}
	if len(q.context) > 0 {
		return q, nil
	}
	return q, a.warn("there is no encryption context, and nothing else binds the answer to what it is for: give one by --context, or --no-context if there is none")
}

// needKey refuses a request that must name its KMS key and does not.
func (q request) needKey() error {
	if q.keyID == "" {
		return withHint(usagef("the KMS key is missing"), "name it by --key-id KEY, or as key_id in the configuration's [kms]")
	}
	return nil
}

// kmsService prepares requests to KMS. It needs no TPM.
func (a *app) kmsService(ctx context.Context, c config.Config) (*kms.Service, error) {
	return attested.Service(ctx, c.KMS, tokens.NewLogger(c))
}

// recipientFlags say which key KMS closes its answer for. The flag for its PIN is registered apart.
type recipientFlags struct {
	name string
	pin  pinSource
}

func (r *recipientFlags) register(c *cobra.Command, a *app, usage string) {
	c.Flags().StringVar(&r.name, "recipient", "", usage)
	cobra.CheckErr(c.RegisterFlagCompletionFunc("recipient", a.completeKeys))
}

const recipientUsage = "RSA `KEY` for decryption that the answer is closed for (default: that of the configuration's [kms], or else a new one for this call)"

// key is the recipient that the flag or the configuration names, "" for none.
func (r *recipientFlags) key(c config.KMS) string {
	if r.name != "" {
		return r.name
	}
	return c.Recipient
}

const makeRecipient = "make one with `tpm2-p11 key create recipient --use decrypt`"

// withKey does something with a recipient that is a key of the store.
func (a *app) withKey(ctx context.Context, name string, pin pinSource, do func(attested.Recipient) error) error {
	k, err := a.find(name)
	if err != nil {
		return fmt.Errorf("recipient key: %w", err)
	}
	if attributes := k.entry.Object.Public.Attributes(); !attributes.Decrypt {
		return withHint(fmt.Errorf("recipient key %q: %w: it does not decrypt", k.entry.Label, provider.ErrWrongUse),
			makeRecipient)
	}
	k.pin = k.pinOf(pin)
	return a.use(ctx, k, func(key *signer.Key) error {
		r, err := attested.Stored(ctx, k.token.TPM(), k.entry.Object, key)
		if errors.Is(err, kms.ErrRecipientKey) {
			err = withHint(err, makeRecipient)
		}
		if err != nil {
			return err
		}
		return do(r)
	})
}

// withRecipient is withKey for the key that is named, or with none for one that is made for this call.
func (a *app) withRecipient(ctx context.Context, r recipientFlags, c config.KMS, do func(attested.Recipient) error) (err error) {
	defer func() {
		// The document was made for this call: no other recipient would help.
		if errors.Is(err, cms.ErrRecipient) {
			err = withHint(err, "ask again; if it stays so, look at what stands between this machine and KMS")
		}
	}()
	if name := r.key(c); name != "" {
		return a.withKey(ctx, name, r.pin, do)
	}
	t, err := a.tpm()
	if err != nil {
		return err
	}
	done := a.progress(ctx, "making a recipient key in the TPM")
	recipient, err := attested.Ephemeral(ctx, t)
	done()
	if err != nil {
		return err
	}
	return do(recipient)
}

// explainKMS says what to do about a document that could not be made, which the table of next steps does not tell from KMS's refusals.
func explainKMS(err error) error {
	if errors.Is(err, provider.ErrUnsupported) && errors.Is(err, kms.ErrDocument) {
		return withHint(err, "only an EC2 instance with NitroTPM can prove what it runs: see docs/kms.md for trying this out with nitro-sim")
	}
	if errors.Is(err, provider.ErrNoSpace) {
		return explainDocument(err)
	}
	return explainEndorsement(err)
}

// readBlob reads what KMS encrypted: binary, or base64 as the AWS CLI prints it.
func (a *app) readBlob(flag, path string) ([]byte, error) {
	data, err := a.read(flag, path, maxInput)
	if err != nil {
		return nil, err
	}
	if len(data) == 0 {
		return nil, fmt.Errorf("%s is empty", inputName(path))
	}
	text := bytes.Join(bytes.Fields(data), nil)
	if b, err := base64.StdEncoding.DecodeString(string(text)); err == nil && len(b) > 0 {
		return b, nil
	}
	return data, nil
}

// contextNames are the names of an encryption context: its values need not be shown.
func contextNames(context map[string]string) []string { return slices.Sorted(maps.Keys(context)) }
