package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/tpm2-p11/tpm2-p11/attest"
)

const documentSigner = "the Nitro hypervisor's PKI, not the TPM's own key"

func attestShowCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "show FILE",
		Short: "Show what an attestation document states, without verifying it",
		Long: `show reads a NitroTPM attestation document, raw, in base64 or in hex, and prints what it states. It verifies nothing:
anybody can write such a document. A byte string is shown as text where it is text, else in hex.`,
		Example: `  tpm2-p11 attest show document.cbor
  tpm2-p11 attest document | tpm2-p11 attest show - --json`,
		Args: exactly("FILE"),
		RunE: a.verb(func(_ context.Context, args []string) error {
			document, err := a.readDocument("FILE", args[0])
			if err != nil {
				return err
			}
			claims, err := attest.Parse(document)
			if err != nil {
				return fmt.Errorf("%s: %w", inputName(args[0]), err)
			}
			shown := describeClaims(claims)
			return a.print(shown, func(w io.Writer) {
				fmt.Fprintln(w, paint(w, yellow, "nothing here was verified: `tpm2-p11 attest verify` does that"))
				shown.text(w)
			})
		}),
	}
}

// readDocument reads a document: raw, in hex or in base64.
func (a *app) readDocument(flag, path string) ([]byte, error) {
	data, err := a.read(flag, path, maxInput)
	if err != nil {
		return nil, err
	}
	text := bytes.Join(bytes.Fields(data), nil)
	if b, err := hex.DecodeString(string(text)); err == nil && len(b) > 0 {
		return b, nil
	}
	if b, err := base64.StdEncoding.DecodeString(string(text)); err == nil && len(b) > 0 {
		return b, nil
	}
	return data, nil
}

// claimsJSON is a document as --json shows it. Its names are stable.
type claimsJSON struct {
	SignedBy    string            `json:"signed_by"`
	Verified    bool              `json:"verified"`
	ModuleID    string            `json:"module_id"`
	Instance    string            `json:"instance"`
	Timestamp   time.Time         `json:"timestamp"`
	Digest      string            `json:"digest"`
	PCRs        map[string]string `json:"pcrs"`
	PublicKey   *publicKeyJSON    `json:"public_key"`
	UserData    *bytesJSON        `json:"user_data"`
	Nonce       *bytesJSON        `json:"nonce"`
	Certificate certificateJSON   `json:"certificate"`
	CABundle    []certificateJSON `json:"cabundle"`
}

type publicKeyJSON struct {
	Hex  string `json:"hex"`
	Type string `json:"type,omitempty"` // of a DER SubjectPublicKeyInfo
}

type certificateJSON struct {
	Subject   string    `json:"subject"`
	Issuer    string    `json:"issuer"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
	SHA256    string    `json:"sha256"`
}

func describeClaims(c *attest.Claims) *claimsJSON {
	j := &claimsJSON{
		SignedBy: documentSigner,
		ModuleID: c.ModuleID, Instance: c.Instance(), Timestamp: c.Timestamp, Digest: c.Digest,
		PCRs: map[string]string{}, UserData: newBytesJSON(c.UserData), Nonce: newBytesJSON(c.Nonce),
		Certificate: describeCertificate(c.Certificate),
	}
	for i, v := range c.PCRs {
		j.PCRs[strconv.Itoa(i)] = hex.EncodeToString(v)
	}
	if c.PublicKey != nil {
		j.PublicKey = &publicKeyJSON{Hex: hex.EncodeToString(c.PublicKey)}
		if key, err := x509.ParsePKIXPublicKey(c.PublicKey); err == nil {
			j.PublicKey.Type = publicTypeName(key)
		}
	}
	for _, issuer := range c.CABundle {
		j.CABundle = append(j.CABundle, describeCertificate(issuer))
	}
	return j
}

func describeCertificate(c *x509.Certificate) certificateJSON {
	sum := sha256.Sum256(c.Raw)
	return certificateJSON{c.Subject.String(), c.Issuer.String(), c.NotBefore, c.NotAfter, hex.EncodeToString(sum[:])}
}

func (j *claimsJSON) text(w io.Writer) {
	line := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%-12s %s\n", name, fmt.Sprintf(format, args...))
	}
	line("signed by", "%s", j.SignedBy)
	line("instance", "%s", j.Instance)
	line("module id", "%s", j.ModuleID)
	line("made at", "%s", j.Timestamp.Format("2006-01-02 15:04:05.000 MST"))
	line("nonce", "%v", j.Nonce)
	line("user data", "%v", j.UserData)
	switch {
	case j.PublicKey == nil:
		line("public key", "-")
	case j.PublicKey.Type != "":
		line("public key", "%s %s", j.PublicKey.Type, j.PublicKey.Hex)
	default:
		line("public key", "%s", j.PublicKey.Hex)
	}
	line("certificate", "%v", j.Certificate)
	for i := len(j.CABundle) - 1; i >= 0; i-- {
		line("  issued by", "%v", j.CABundle[i])
	}
	for i := range len(j.PCRs) {
		line("PCR"+strconv.Itoa(i), "%s", j.PCRs[strconv.Itoa(i)])
	}
}

// String is the subject and the time of validity.
func (c certificateJSON) String() string {
	const minutes = "2006-01-02 15:04"
	subject := c.Subject
	if !isText([]byte(subject)) { // whoever wrote the document may mean the terminal
		subject = strconv.QuoteToASCII(subject)
	}
	return fmt.Sprintf("%s, %s to %s", subject, c.NotBefore.UTC().Format(minutes), c.NotAfter.UTC().Format(minutes))
}
