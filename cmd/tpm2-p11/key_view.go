package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"encoding/hex"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/tpm2-p11/tpm2-p11/internal/tokens"
	"github.com/tpm2-p11/tpm2-p11/keystore"
	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// keyJSON is a key as --json shows it. Its names are stable.
type keyJSON struct {
	Token       string         `json:"token,omitempty"` // of a list of several tokens
	Label       string         `json:"label"`
	CKAID       string         `json:"cka_id"`
	URI         string         `json:"uri"`
	Type        string         `json:"type"`
	Use         []string       `json:"use"`
	Handle      string         `json:"handle,omitempty"`
	Name        string         `json:"name"`
	State       string         `json:"state"`
	PIN         string         `json:"pin"` // none, token, own
	Policy      *policy.Policy `json:"policy,omitempty"`
	Enforced    bool           `json:"policy_enforced"`
	Certificate string         `json:"certificate,omitempty"` // the leaf's subject
	Until       *time.Time     `json:"certificate_until,omitempty"`
	Created     *time.Time     `json:"created,omitempty"`
	File        string         `json:"file"`
}

func describe(t *keystore.Token, e keystore.Entry) keyJSON {
	attributes := e.Object.Public.Attributes()
	k := keyJSON{
		Label:  e.Label,
		CKAID:  hex.EncodeToString(e.CKAID),
		URI:    tokens.Key{Token: t, Entry: e}.URI(),
		Type:   typeName(e.Object.Public),
		Use:    []string{},
		Handle: formatHandle(e.Object.Handle),
		Name:   hex.EncodeToString(e.Object.Public.Name()),
		State:  string(e.State),
		PIN:    pinKind(e),
		File:   e.ID,
	}
	if attributes.SignEncrypt {
		k.Use = append(k.Use, "sign")
	}
	switch {
	case attributes.Decrypt && e.Object.Public.Area().Type == tpm2.TPMAlgECC:
		k.Use = append(k.Use, "derive")
	case attributes.Decrypt:
		k.Use = append(k.Use, "decrypt")
	}
	if !e.Policy.IsZero() {
		k.Policy = &e.Policy
	}
	k.Enforced = len(e.Object.Public.AuthPolicy()) > 0 && !attributes.UserWithAuth
	if len(e.Certificates) > 0 {
		k.Certificate, k.Until = e.Certificates[0].Subject.String(), &e.Certificates[0].NotAfter
	}
	if !e.Created.IsZero() {
		k.Created = &e.Created
	}
	return k
}

// secretJSON is a secret key or data object as --json shows it. Its names are stable.
type secretJSON struct {
	Token   string         `json:"token,omitempty"` // of a list of several tokens
	Label   string         `json:"label"`
	CKAID   string         `json:"cka_id,omitempty"`
	Type    string         `json:"type"` // aes128, aes192, aes256, generic, hmac-sha256 and others, data
	Use     []string       `json:"use"`
	Length  int            `json:"length"`
	Sealed  bool           `json:"sealed"` // false for public data
	State   string         `json:"state"`
	PIN     string         `json:"pin"`
	Policy  *policy.Policy `json:"policy,omitempty"`
	Created *time.Time     `json:"created,omitempty"`
	File    string         `json:"file"`
}

func describeSecret(e keystore.Entry) secretJSON {
	_, public := e.PublicData()
	k := secretJSON{
		Label: e.Label, CKAID: hex.EncodeToString(e.CKAID), Type: e.Secret.String(), Use: []string{}, Length: e.Secret.Length,
		Sealed: !public, State: string(e.State), PIN: pinKind(e), File: e.ID,
	}
	for _, u := range e.Secret.Use {
		k.Use = append(k.Use, string(u))
	}
	if !e.Policy.IsZero() {
		k.Policy = &e.Policy
	}
	if !e.Created.IsZero() {
		k.Created = &e.Created
	}
	return k
}

// pinKind says whose PIN a key takes.
func pinKind(e keystore.Entry) string {
	switch {
	case e.AsksOwnPIN():
		return "own"
	case e.AsksPIN():
		return "token"
	}
	return "none"
}

// typeName is the key's type as --type takes it.
func typeName(p provider.Public) string {
	key, err := p.Key()
	if err != nil {
		return p.Describe()
	}
	if name := publicTypeName(key); name != "" {
		return name
	}
	return p.Describe()
}

// publicTypeName is typeName for a key outside the TPM, "" for one that is neither RSA nor ECDSA.
func publicTypeName(key crypto.PublicKey) string {
	switch key := key.(type) {
	case *rsa.PublicKey:
		return "rsa" + strconv.Itoa(key.N.BitLen())
	case *ecdsa.PublicKey:
		return strings.ToLower(strings.ReplaceAll(key.Curve.Params().Name, "-", ""))
	}
	return ""
}

// values are what a policy wants of PCRs.
var values = regexp.MustCompile(`( digest | policy |=)[0-9a-f]{64,}`)

// policySummary is a policy in a table's cell.
func policySummary(e keystore.Entry) string {
	public := e.Object.Public
	if len(public.AuthPolicy()) == 0 {
		return "-"
	}
	summary := "unknown"
	if !e.Policy.IsZero() {
		summary = values.ReplaceAllString(e.Policy.String(), "")
	}
	if public.Attributes().UserWithAuth {
		summary += " (not enforced)"
	}
	return summary
}

// place is where a key is, in words.
func (k keyJSON) place() string {
	if k.Handle == "" {
		return "wrapped in the store"
	}
	return "at " + k.Handle
}
