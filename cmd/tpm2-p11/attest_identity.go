package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/tpm2-p11/tpm2-p11/attest"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// identityJSON is what a TPM shows to be enrolled: its EK, the EK's certificate and its AK. Structures are in base64.
type identityJSON struct {
	EKType        provider.KeyType `json:"ek_type"`
	EK            []byte           `json:"ek"`                       // TPMT_PUBLIC
	EKCertificate []byte           `json:"ek_certificate,omitempty"` // DER
	AK            []byte           `json:"ak"`                       // TPMT_PUBLIC
	AKName        string           `json:"ak_name"`                  // hex
}

// credentialJSON is a challenge that only one TPM can answer.
type credentialJSON struct {
	EKType     provider.KeyType `json:"ek_type"`
	Credential []byte           `json:"credential"` // of TPM2B_ID_OBJECT
	Secret     []byte           `json:"secret"`     // of TPM2B_ENCRYPTED_SECRET
}

func attestIdentityCommand(a *app) *cobra.Command {
	var ak akFlags
	var ek, out string
	c := &cobra.Command{
		Use:   "identity",
		Short: "Write what this TPM is known by: its endorsement and attestation keys",
		Long: `identity writes the public areas of the TPM's endorsement key (EK), with the manufacturer's certificate if the TPM holds
one, and of the attestation key (AK) that ` + "`tpm2-p11 key attest`" + ` uses. A verifier has this TPM prove that the two belong
together (` + "`tpm2-p11 attest challenge`" + `), checks the certificate, and from then on trusts the AK by its Name.`,
		Example: "  tpm2-p11 attest identity --out machine.identity",
		Args:    exactly(),
		RunE: a.verb(func(ctx context.Context, _ []string) error {
			key, err := ak.key()
			if err != nil {
				return err
			}
			t, err := a.token()
			if err != nil {
				return err
			}
			endorsement, err := t.TPM().EndorsementKey(ctx, provider.KeyType(ek))
			if err != nil {
				return explainEndorsement(err)
			}
			attestation, err := t.TPM().AttestationKey(ctx, key)
			if err != nil {
				return err
			}
			if endorsement.Certificate == nil {
				a.note("the TPM holds no certificate for its endorsement key")
			}
			return a.deliverJSON(identityJSON{
				provider.KeyType(ek), endorsement.Public.Marshal(), endorsement.Certificate, attestation.Marshal(), attestation.Name().String(),
			}, "identity", out)
		}),
	}
	ak.register(c)
	c.Flags().StringVar(&ek, "ek", string(provider.RSA2048), "type of the endorsement key: rsa2048 or p256")
	c.Flags().StringVarP(&out, "out", "o", "", "output `FILE` (default: standard output)")
	choices(c, "ek", string(provider.RSA2048), string(provider.P256))
	return c
}

func attestChallengeCommand(a *app) *cobra.Command {
	var issuers []string
	var out, secretOut string
	c := &cobra.Command{
		Use:   "challenge FILE",
		Short: "Challenge a TPM to prove its identity, without a TPM",
		Long: `challenge encrypts a random secret so that only the TPM with that endorsement key can open it, and only if it holds that
attestation key as well. Keep the secret; whoever answers with it has proved the Name that is printed. That the endorsement
key is a real TPM's is known only with --ek-ca.`,
		Example: `  tpm2-p11 attest challenge machine.identity --ek-ca manufacturers.pem --secret-out machine.secret --out machine.challenge`,
		Args:    exactly("FILE"),
		RunE: a.verb(func(_ context.Context, args []string) error {
			if toStdout(secretOut) {
				return usagef("--secret-out is missing: the secret is for the verifier alone")
			}
			var identity identityJSON
			if err := a.readJSON(args[0], &identity); err != nil {
				return err
			}
			ek, err := provider.ParsePublic(identity.EK)
			if err != nil {
				return fmt.Errorf("%s: endorsement key: %w", inputName(args[0]), err)
			}
			ak, err := provider.ParsePublic(identity.AK)
			if err != nil {
				return fmt.Errorf("%s: attestation key: %w", inputName(args[0]), err)
			}
			if len(issuers) == 0 {
				a.note("the endorsement key's certificate was not checked: --ek-ca does")
			} else if err := a.verifyEK(provider.EK{Public: ek, Certificate: identity.EKCertificate}, issuers); err != nil {
				return fmt.Errorf("%s: %w", inputName(args[0]), err)
			}
			secret := make([]byte, 32)
			rand.Read(secret)
			challenge := credentialJSON{EKType: identity.EKType}
			if challenge.Credential, challenge.Secret, err = attest.MakeCredential(ek, ak, secret); err != nil {
				return fmt.Errorf("%s: %w", inputName(args[0]), err)
			}
			if err := writeFile(secretOut, []byte(hex.EncodeToString(secret)+"\n"), 0o600); err != nil {
				return err
			}
			a.note("the answer proves the attestation key with the Name %v", ak.Name())
			return a.deliverJSON(challenge, "challenge", out)
		}),
	}
	c.Flags().StringVarP(&out, "out", "o", "", "output `FILE` (default: standard output)")
	c.Flags().StringArrayVar(&issuers, "ek-ca", nil, "`FILE` with the TPM manufacturers' certificates that are trusted, in PEM form; may be repeated")
	c.Flags().StringVar(&secretOut, "secret-out", "", "`FILE` for the secret, in hex")
	return c
}

// verifyEK checks an endorsement key's certificate by the manufacturers' in files.
func (a *app) verifyEK(ek provider.EK, files []string) error {
	var issuers []*x509.Certificate
	for _, file := range files {
		chain, err := a.readChain(file)
		if err != nil {
			return err
		}
		issuers = append(issuers, chain...)
	}
	err := attest.VerifyEK(ek, issuers, time.Time{})
	if errors.Is(err, attest.ErrEK) && ek.Certificate == nil {
		err = withHint(err, "this TPM came without one: compare its key with what you recorded of the machine, and leave out --ek-ca")
	} else if errors.Is(err, attest.ErrEK) {
		err = withHint(err, "give the root and intermediate certificates of this TPM's manufacturer by --ek-ca")
	}
	return err
}

func attestActivateCommand(a *app) *cobra.Command {
	var ak akFlags
	c := &cobra.Command{
		Use:     "activate FILE",
		Short:   "Answer a challenge to prove this TPM's identity",
		Long:    "activate opens a challenge in the TPM and prints the secret in it, in hex. The verifier compares it with the one kept.",
		Example: "  tpm2-p11 attest activate machine.challenge",
		Args:    exactly("FILE"),
		RunE: a.verb(func(ctx context.Context, args []string) error {
			key, err := ak.key()
			if err != nil {
				return err
			}
			var challenge credentialJSON
			if err := a.readJSON(args[0], &challenge); err != nil {
				return err
			}
			t, err := a.token()
			if err != nil {
				return err
			}
			secret, err := t.TPM().ActivateCredential(ctx, key, challenge.EKType, challenge.Credential, challenge.Secret)
			if err != nil {
				return withHint(err, "it opens only in the TPM that showed the identity, with the same --ak and --ak-hierarchy")
			}
			answer := hex.EncodeToString(secret)
			return a.print(map[string]string{"secret": answer}, func(w io.Writer) { fmt.Fprintln(w, answer) })
		}),
	}
	ak.register(c)
	return c
}

// deliverJSON is deliver for a product that is JSON itself.
func (a *app) deliverJSON(v any, name, out string) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	data = append(data, '\n')
	return a.deliver(map[string]any{name: v}, out, data, 0o644)
}

// readJSON reads what deliverJSON wrote.
func (a *app) readJSON(path string, into any) error {
	data, err := a.read("FILE", path, maxInput)
	if err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("%s: %w", inputName(path), err)
	}
	return nil
}
