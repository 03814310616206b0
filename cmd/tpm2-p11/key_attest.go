package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/google/go-tpm/tpm2"
	"github.com/spf13/cobra"

	"github.com/tpm2-p11/tpm2-p11/attest"
	"github.com/tpm2-p11/tpm2-p11/internal/secret"
	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

func keyAttestCommand(a *app) *cobra.Command {
	var pin pinSource
	var nonce nonceFlags
	var ak akFlags
	var pcrs []string
	var out string
	c := &cobra.Command{
		Use:   "attest KEY",
		Short: "Prove that a key is in this TPM and never leaves it",
		Long: `attest has an attestation key (AK) of the TPM say that a key was born in this TPM, cannot leave it, and is bound to its
policy. With --pcr it states PCRs too. Any TPM can do it.

Who verifies must know by other means that the AK is of a real TPM: see ` + "`tpm2-p11 attest identity`" + `.`,
		Example: `  tpm2-p11 key attest web --nonce 7d0f…c2 --out web.evidence
  tpm2-p11 key attest web --nonce-file challenge --pcr sha256:0,1,2,7 --out web.evidence`,
		Args: exactly("KEY"), ValidArgsFunction: a.completeKeys,
		RunE: a.verb(func(ctx context.Context, args []string) error {
			n, err := nonce.qualifying(a)
			if err != nil {
				return err
			}
			attestationKey, err := ak.key()
			if err != nil {
				return err
			}
			var banks []provider.Bank
			for _, s := range pcrs {
				bank, indices, err := policy.ParseSelection(s)
				if err != nil {
					return usageError{err}
				}
				banks = append(banks, provider.Bank{Hash: bank, PCRs: indices})
			}
			k, err := a.find(args[0])
			if err != nil {
				return err
			}
			k.pin = k.pinOf(pin)
			var evidence provider.Evidence
			err = a.authorised(ctx, k, func(auth provider.Auth) error {
				evidence, err = k.token.TPM().AttestKey(ctx, attestationKey, k.entry.Object, auth, n, banks)
				return err
			})
			if err != nil {
				return explainEndorsement(err)
			}
			data, err := attest.MarshalEvidence(evidence)
			if err != nil {
				return err
			}
			return a.deliver(map[string]any{
				"evidence": json.RawMessage(data), "ak_name": evidence.AK.Name().String(), "name": evidence.Key.Name().String(),
			}, out, data, 0o644)
		}),
	}
	f := c.Flags()
	nonce.register(c)
	ak.register(c)
	f.StringArrayVar(&pcrs, "pcr", nil, "state these `PCRS` too, as sha256:0,1,2,7; may be repeated for other banks")
	f.StringVarP(&out, "out", "o", "", "output `FILE` (default: standard output)")
	pinFlag(c, &pin)
	return c
}

// authorised calls do with what certifying a key takes: its authValue, unless it has a policy and no use for one.
func (a *app) authorised(ctx context.Context, k target, do func(provider.Auth) error) error {
	if k.entry.Object.Public.Attributes().AdminWithPolicy {
		return do(provider.Auth{Label: k.entry.Label})
	}
	var own *secret.Bytes
	if k.entry.OwnPIN {
		var err error
		if own, err = a.pin(ctx, k.pin.flag, k.pin.file, "the PIN of key "+k.entry.Label); err != nil {
			return err
		}
		defer own.Wipe()
	}
	return a.withLogin(ctx, k.token, k.pin, func() error {
		auth, err := k.token.Auth(k.entry, own)
		if err != nil {
			return err
		}
		defer auth.Value.Wipe()
		return do(auth)
	})
}

// qualifying is a nonce that fits into a TPM's statements.
func (n *nonceFlags) qualifying(a *app) ([]byte, error) {
	nonce, err := n.read(a)
	if err != nil {
		return nil, err
	}
	if len(nonce) == 0 {
		return nil, withHint(usagef("the nonce is missing"), "give the verifier's by --nonce HEX or --nonce-file FILE")
	}
	if len(nonce) > provider.MaxQualifyingData {
		return nil, usagef("a nonce of %d bytes: at most %d fit into a TPM's statement", len(nonce), provider.MaxQualifyingData)
	}
	return nonce, nil
}

// akFlags choose an attestation key.
type akFlags struct{ kind, hierarchy string }

func (f *akFlags) register(c *cobra.Command) {
	c.Flags().StringVar(&f.kind, "ak", string(provider.P256), "type of the attestation key: p256 or rsa2048")
	c.Flags().StringVar(&f.hierarchy, "ak-hierarchy", "endorsement", "its hierarchy: endorsement or owner")
	choices(c, "ak", string(provider.P256), string(provider.RSA2048))
	choices(c, "ak-hierarchy", "endorsement", "owner")
}

func (f *akFlags) key() (k provider.AttestationKey, err error) {
	switch k.Type = provider.KeyType(f.kind); k.Type {
	case provider.P256, provider.RSA2048:
	default:
		return k, usagef("--ak %s: there is p256 and rsa2048", f.kind)
	}
	switch f.hierarchy {
	case "endorsement":
		k.Hierarchy = tpm2.TPMRHEndorsement
	case "owner":
		k.Hierarchy = tpm2.TPMRHOwner
	default:
		return k, usagef("--ak-hierarchy %s: there is endorsement and owner", f.hierarchy)
	}
	return k, nil
}

func keyVerifyAttestationCommand(a *app) *cobra.Command {
	var nonce nonceFlags
	var akName, publicKey, digest string
	var pcrs []string
	var c *cobra.Command
	c = &cobra.Command{
		Use:   "verify-attestation FILE",
		Short: "Verify what key attest wrote, without a TPM",
		Long: `verify-attestation checks that a key was born in a TPM and never leaves it, on the word of an attestation key (AK) that
is trusted by its Name. Exit code 0 means that this holds, and what the flags ask for.`,
		Example: `  tpm2-p11 key verify-attestation web.evidence --ak-name 000b51f0… --nonce 7d0f…c2
  tpm2-p11 key verify-attestation web.evidence --ak-name 000b51f0… --nonce-file challenge --public-key web.csr.pub \
    --policy-digest 3f1a… --pcr sha256:7=e3b0…`,
		Args: exactly("FILE"),
		RunE: a.verb(func(_ context.Context, args []string) error {
			if err := filled(c); err != nil {
				return err
			}
			p := attest.KeyPolicy{}
			var err error
			if p.Nonce, err = nonce.qualifying(a); err != nil {
				return err
			}
			if akName == "" {
				return withHint(usagef("--ak-name is missing: whose word is to be trusted?"), "`tpm2-p11 attest identity` prints a TPM's, `tpm2-p11 attest challenge` has it proved")
			}
			if p.AK, err = parseHex("--ak-name", akName); err != nil {
				return err
			}
			if digest != "" {
				if p.AuthPolicy, err = parseHex("--policy-digest", digest); err != nil {
					return err
				}
			}
			if p.PCRs, err = parsePCRValues(pcrs); err != nil {
				return err
			}
			if p.PublicKey, err = a.subjectPublicKeyInfo(publicKey); err != nil {
				return err
			}
			data, err := a.read("FILE", args[0], attest.MaxEvidence)
			if err != nil {
				return err
			}
			evidence, err := attest.ParseEvidence(data)
			if err == nil {
				err = attest.VerifyKey(evidence, p)
			}
			if err != nil {
				return explainEvidence(fmt.Errorf("%s: %w", inputName(args[0]), err))
			}
			return a.printEvidence(evidence)
		}),
	}
	f := c.Flags()
	nonce.register(c)
	f.StringVar(&akName, "ak-name", "", "Name of the trusted attestation key in `HEX`")
	f.StringVar(&publicKey, "public-key", "", "expected public key: `KEY` of the store, or a file with a public key or certificate")
	f.StringVar(&digest, "policy-digest", "", "expected policy digest of the key in `HEX` (auth_policy of `key show --json`)")
	f.StringArrayVar(&pcrs, "pcr", nil, "expected value of a PCR, as `BANK:N=HEX`; those that are given, and no others, must be stated; may be repeated")
	return c
}

// parsePCRValues reads "sha256:7=…", nil for none.
func parsePCRValues(texts []string) (values []provider.PCRValues, err error) {
	banks := map[tpm2.TPMIAlgHash]map[uint][]byte{}
	for _, s := range texts {
		name, value, _ := strings.Cut(s, "=")
		bank, indices, err := policy.ParseSelection(name)
		if err != nil {
			return nil, usageError{err}
		}
		hash, err := bank.Hash()
		if err != nil {
			return nil, err
		}
		v, err := hex.DecodeString(value)
		if err != nil || len(indices) != 1 || len(v) != hash.Size() {
			return nil, usagef("--pcr %s: write it as BANK:N=HEX, with %d hex digits", s, 2*hash.Size())
		}
		if banks[bank] == nil {
			banks[bank] = map[uint][]byte{}
			values = append(values, provider.PCRValues{Hash: bank, Values: banks[bank]})
		}
		if banks[bank][indices[0]] != nil {
			return nil, usagef("--pcr %s is given twice", name)
		}
		banks[bank][indices[0]] = v
	}
	return values, nil
}

// explainEvidence says what to do about refused evidence.
func explainEvidence(err error) error {
	switch {
	case errors.Is(err, attest.ErrAK):
		return withHint(err, "it is another TPM's, or was made with another --ak or --ak-hierarchy")
	case errors.Is(err, attest.ErrNonce):
		return withHint(err, "it was made for another challenge, maybe an earlier one")
	}
	return err
}

func (a *app) printEvidence(e provider.Evidence) error {
	public := e.Key.Attributes()
	answer := struct {
		Valid      bool                         `json:"valid"`
		Name       string                       `json:"name"`
		Type       string                       `json:"type"`
		Attributes []string                     `json:"attributes"`
		AuthPolicy string                       `json:"auth_policy,omitempty"`
		Enforced   bool                         `json:"policy_enforced"`
		AKName     string                       `json:"ak_name"`
		PCRs       map[string]map[string]string `json:"pcrs,omitempty"`
	}{
		Valid: true, Name: e.Key.Name().String(), Type: typeName(e.Key), Attributes: attributeNames(public),
		AuthPolicy: hex.EncodeToString(e.Key.AuthPolicy()), Enforced: len(e.Key.AuthPolicy()) > 0 && !public.UserWithAuth,
		AKName: e.AK.Name().String(),
	}
	for _, bank := range e.PCRs {
		if answer.PCRs == nil {
			answer.PCRs = map[string]map[string]string{}
		}
		values := map[string]string{}
		for i, v := range bank.Values {
			values[strconv.FormatUint(uint64(i), 10)] = hex.EncodeToString(v)
		}
		answer.PCRs[policy.BankName(bank.Hash)] = values
	}
	return a.print(answer, func(w io.Writer) {
		fmt.Fprintln(w, paint(w, green, "the key was born in the attestation key's TPM and never leaves it"))
		fmt.Fprintf(w, "%-12s %s\n", "type", answer.Type)
		fmt.Fprintf(w, "%-12s %s\n", "Name", answer.Name)
		fmt.Fprintf(w, "%-12s %s\n", "attributes", strings.Join(answer.Attributes, " "))
		enforced := "none"
		if answer.Enforced {
			enforced = answer.AuthPolicy
		} else if answer.AuthPolicy != "" {
			enforced = answer.AuthPolicy + " (not enforced)"
		}
		fmt.Fprintf(w, "%-12s %s\n", "policy", enforced)
		printPCRs(w, answer.PCRs)
	})
}
