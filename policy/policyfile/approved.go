package policyfile

import (
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/google/go-tpm/tpm2"

	"github.com/tpm2-p11/tpm2-p11/internal/place"
	"github.com/tpm2-p11/tpm2-p11/policy"
)

// ErrNotApproved is of a file that ParseApproved understands, and that approves nothing: it has a policy alone.
var ErrNotApproved = errors.New("there is no [[approved]] in it")

var errTooMany = fmt.Errorf("a file has %d approved policies at most", MaxApproved)

// ParseApproved reads a file of approved policies: one that Parse reads, or systemd's tpm2-pcr-signature.json. One without any
// is ErrNotApproved. It has at most MaxSize bytes and MaxApproved approved policies.
func ParseApproved(name string, text []byte) ([]policy.Approved, error) {
	d, err := decode(name, text)
	if err != nil {
		return nil, err
	}
	if d.isSystemd() {
		return d.systemd()
	}
	f, err := d.file()
	if err == nil && len(f.Approved) == 0 {
		err = d.errorf("", "%w", ErrNotApproved)
	}
	return f.Approved, err
}

// approved reads the list at a place of the file.
func (d *document) approved(at string, value any) ([]policy.Approved, error) {
	list, ok := asTables(value)
	if !ok || len(list) == 0 {
		return nil, d.errorf(at, "approved is written [[approved]], and is not empty")
	}
	if len(list) > MaxApproved {
		return nil, d.errorf(at, "%w, not %d", errTooMany, len(list))
	}
	var all []policy.Approved
	for i, table := range list {
		a, err := d.oneApproved(place.Element(at, i), table)
		if err != nil {
			return nil, err
		}
		all = append(all, a)
	}
	return all, nil
}

func (d *document) oneApproved(at string, table map[string]any) (a policy.Approved, err error) {
	node := make(map[string]any)
	for _, name := range sorted(table) {
		text, isText := table[name].(string)
		member := place.Join(at, name)
		switch {
		case name == "name" && isText && text != "":
			a.Name = text
		case name == "sig" && isText:
			if a.Signature, err = base64.StdEncoding.DecodeString(text); err != nil || len(a.Signature) == 0 {
				return a, d.errorf(member, "sig is a signature in Base64")
			}
		case name == "policy":
			a.Policy, err = d.policy(member, table[name])
		case isKind(name):
			node[name] = table[name]
		default:
			return a, d.errorf(member, "%q is not known here, or not what it should be (known: name, sig, policy, %s)", name, strings.Join(policy.Kinds(), ", "))
		}
		if err != nil {
			return a, err
		}
	}
	if len(node) > 0 && a.Policy.IsZero() {
		a.Policy, err = d.policy(at, node)
	} else if len(node) > 0 {
		err = d.errorf(at, "an approved policy is there once")
	}
	switch {
	case err != nil:
	case a.Name == "":
		err = d.errorf(at, "an approved policy has a name")
	case a.Policy.IsZero():
		err = d.errorf(at, "approved policy %q requires nothing", a.Name)
	case a.Policy.NeedsApproval():
		err = d.errorf(at, "approved policy %q asks for approval itself", a.Name)
	}
	return a, err
}

// fits tells whether what was written will be read.
func fits(text []byte, approved int) ([]byte, error) {
	if len(text) > MaxSize || approved > MaxApproved {
		return nil, fmt.Errorf("%d approved policies of %d bytes together are more than a file may hold, %d of %d: write several files", approved, len(text), MaxApproved, MaxSize)
	}
	return text, nil
}

// EncodeApproved writes approved policies as ParseApproved reads them, one a line.
func EncodeApproved(list []policy.Approved) ([]byte, error) {
	type approved struct {
		Name   string        `json:"name"`
		Policy policy.Policy `json:"policy"`
		Sig    []byte        `json:"sig,omitempty"`
	}
	text := fmt.Appendf(nil, "{\"version\":%d,\"approved\":[\n", Version)
	for i, a := range list {
		if i > 0 {
			text = append(text, ",\n"...)
		}
		line, err := json.Marshal(approved{a.Name, a.Policy, a.Signature})
		if err != nil {
			return nil, err
		}
		text = append(text, line...)
	}
	return fits(append(text, "\n]}\n"...), len(list))
}

// systemdEntry is an element of a bank in systemd's file.
type systemdEntry struct {
	PCRs []uint `json:"pcrs"`
	Pkfp string `json:"pkfp"` // SHA-256 of the signer's RSAPublicKey, DER
	Pol  string `json:"pol"`  // the policy digest, SHA-256
	Sig  string `json:"sig"`  // RSASSA PKCS #1 v1.5 with SHA-256 over pol
}

// isSystemd tells a file whose members are PCR banks.
func (d *document) isSystemd() bool {
	for name := range d.tree {
		if _, err := policy.ParseBank(name); err != nil {
			return false
		}
	}
	return len(d.tree) > 0
}

// systemd reads {"sha256":[{"pcrs":[11],"pkfp":"…","pol":"…","sig":"…"}]}. Banks that policies do not use are passed over.
func (d *document) systemd() ([]policy.Approved, error) {
	var all []policy.Approved
	for _, name := range sorted(d.tree) {
		bank, _ := policy.ParseBank(name) // all members are banks
		list, ok := d.tree[name].([]any)
		if !ok {
			return nil, d.errorf(name, "%s is a list", name)
		}
		if bank == tpm2.TPMAlgSHA1 {
			continue
		}
		if len(all)+len(list) > MaxApproved {
			return nil, d.errorf(name, "%w, not %d", errTooMany, len(all)+len(list))
		}
		for i := range list {
			a, err := d.systemdEntry(name, place.Element(name, i), list[i])
			if err != nil {
				return nil, err
			}
			a.Name = fmt.Sprintf("%s %s[%d]", filepath.Base(d.name), name, i)
			all = append(all, a)
		}
	}
	return all, nil
}

func (d *document) systemdEntry(bank, at string, tree any) (a policy.Approved, err error) {
	table, ok := tree.(map[string]any)
	if !ok {
		return a, d.errorf(at, "it is no table of pcrs, pkfp, pol and sig")
	}
	if a.Policy, err = d.policy(at, map[string]any{"pcr": map[string]any{"bank": bank, "indices": table["pcrs"], "policy": table["pol"]}}); err != nil {
		return a, err
	}
	sig, _ := table["sig"].(string)
	if a.Signature, err = base64.StdEncoding.DecodeString(sig); err != nil || len(a.Signature) == 0 {
		return a, d.errorf(place.Join(at, "sig"), "sig is a signature in Base64")
	}
	return a, nil
}

// EncodeSystemd writes approved policies as systemd's tpm2-pcr-signature.json: each is the PCRs of one bank, approved for
// no purpose in particular (an empty ref) by an RSA key, in SHA-256.
func EncodeSystemd(list []policy.Approved, signer policy.Signer) ([]byte, error) {
	key, err := signer.Key()
	if err != nil {
		return nil, err
	}
	rsaKey, ok := key.(*rsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("systemd's files have room for signatures of RSA keys, not of %T", key)
	}
	print := sha256.Sum256(x509.MarshalPKCS1PublicKey(rsaKey))
	banks := make(map[string][]systemdEntry)
	for _, a := range list {
		pcr, ok := alone(a.Policy)
		if !ok {
			return nil, fmt.Errorf("systemd's files have room for the PCRs of one bank, and %q is %s", a.Name, a.Policy)
		}
		digest, err := a.Policy.Digest(tpm2.TPMAlgSHA256)
		if err != nil {
			return nil, err
		}
		if !signer.Verify(digest, nil, a.Signature) {
			return nil, fmt.Errorf("systemd's files have room for signatures over policy digests of SHA-256 without a ref, and that of %q is another one", a.Name)
		}
		bank := policy.BankName(pcr.Bank)
		banks[bank] = append(banks[bank], systemdEntry{
			PCRs: pcr.Indices(), Pkfp: fmt.Sprintf("%x", print), Pol: fmt.Sprintf("%x", digest), Sig: base64.StdEncoding.EncodeToString(a.Signature),
		})
	}
	text, err := json.Marshal(banks)
	if err != nil {
		return nil, err
	}
	return fits(append(text, '\n'), len(list))
}

// alone is the one PCR node that a policy is.
func alone(p policy.Policy) (policy.PCR, bool) {
	root := p.Root
	if all, ok := root.(policy.All); ok && len(all) == 1 {
		root = all[0]
	}
	pcr, ok := root.(policy.PCR)
	return pcr, ok
}
