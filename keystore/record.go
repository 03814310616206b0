package keystore

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/tpm2-p11/tpm2-p11/internal/stamp"
	"github.com/tpm2-p11/tpm2-p11/keystore/tss2"
	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// Problem is a file of the store that cannot be used, and why.
type Problem struct {
	File string
	Err  error
}

// A key's files.
const (
	pemSuffix     = ".pem"
	sidecarSuffix = ".json"
	certSuffix    = ".crt"
)

// record is what a key's files say.
type record struct {
	id       string
	listed   bool    // there is an entry
	entry    Entry   // but for what depends on the token
	side     sidecar // as in the file, or made from the PEM
	hasSide  bool
	sideErr  error // why the file could not be read; the key is what its PEM says, and is not changed
	problems []Problem
}

// files are the stamps of a key's files.
type files struct{ pem, side, cert stamp.Stamp }

func (f files) same(now files) bool {
	return f.pem.Same(now.pem) && f.side.Same(now.side) && f.cert.Same(now.cert)
}

// filesOf looks at a key's files.
func (d *dir) filesOf(id string) files {
	return files{pem: d.stat(id + pemSuffix), side: d.stat(id + sidecarSuffix), cert: d.stat(id + certSuffix)}
}

// readRecord reads a key's files, by means of a buffer. What cannot be understood is among the record's problems.
func readRecord(d *dir, id string, buffer []byte) (record, files) {
	r := record{id: id}
	var f files
	sideText, err := r.file(d, id+sidecarSuffix, buffer, &f.side)
	if err == nil && sideText != nil {
		if r.side, err = parseSidecar(sideText); err != nil {
			r.problem(id+sidecarSuffix, err)
		}
	}
	r.hasSide, r.sideErr = err == nil && sideText != nil, err
	if errors.Is(err, ErrNewer) {
		return r, f // it may say what must be known before the key is used
	}
	// The PEM after the sidecar, since a key's files come in this order.
	pemText, err := r.file(d, id+pemSuffix, buffer, &f.pem)
	if err != nil {
		return r, f
	}
	certText, certErr := r.file(d, id+certSuffix, nil, &f.cert)
	switch {
	case pemText != nil:
		err = r.fromPEM(pemText, time.Unix(0, f.pem.Modified))
	case r.hasSide && r.side.Public != nil:
		err = r.fromLink()
	case r.hasSide && r.side.Secret != nil && r.side.Secret.Public:
		err = r.fromPublic()
	case r.hasSide && r.side.State == Ready:
		r.problem(id+sidecarSuffix, fmt.Errorf("%w: its key, %s, is missing", ErrCorrupt, id+pemSuffix))
	case r.sideErr == nil && !r.hasSide && certText != nil:
		r.problem(id+certSuffix, fmt.Errorf("%w: its key, %s, is missing", ErrCorrupt, id+pemSuffix))
	}
	if err != nil || !r.listed || certErr != nil || certText == nil {
		return r, f
	}
	if r.entry.Certificates, err = parseChain(certText, r.entry.Object.Public); err != nil {
		r.problem(id+certSuffix, err)
	}
	return r, f
}

// file reads one file; no content and no error when there is none.
func (r *record) file(d *dir, name string, buffer []byte, s *stamp.Stamp) ([]byte, error) {
	text, seen, err := d.read(name, buffer)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		r.problem(name, err)
		return nil, err
	}
	*s = seen
	if text == nil {
		text = []byte{}
	}
	return text, nil
}

func (r *record) problem(file string, err error) {
	r.problems = append(r.problems, Problem{File: file, Err: err})
}

func (r *record) fromPEM(text []byte, modified time.Time) error {
	file := r.id + pemSuffix
	key, err := tss2.Decode(text)
	var policyErr *tss2.PolicyError
	if err != nil && !errors.As(err, &policyErr) {
		err = fmt.Errorf("%w: %w", ErrCorrupt, err)
		r.problem(file, err)
		return err
	}
	name := key.Object.Public.Name()
	if key.Sealed && r.hasSide && r.side.Secret != nil && bytes.Equal(r.side.Name, name) {
		r.list(key.Object, key.Policy, policyErr)
		return nil
	}
	if key.Sealed && r.sideErr != nil {
		return r.sideErr // a secret's, as far as can be seen: the sidecar is the problem, and one is enough
	}
	// Sealed data without its own sidecar is nothing, nor is a secret's sidecar with another PEM.
	if err := checkUsable(key.Object.Public); err != nil {
		r.problem(file, err)
		return err
	}
	if r.hasSide && (!bytes.Equal(r.side.Name, name) || r.side.Secret != nil) {
		r.problem(r.id+sidecarSuffix, fmt.Errorf("%w: it is another key's (name %x, the PEM's is %x) and is ignored",
			ErrCorrupt, []byte(r.side.Name), []byte(name)))
		r.hasSide = false
	}
	if !r.hasSide {
		if r.side, err = r.sidecarOf(key, modified); err != nil {
			r.problem(file, err)
			return err
		}
	}
	r.list(key.Object, key.Policy, policyErr)
	r.entry.Approved = key.Approved
	return nil
}

// sidecarOf makes the sidecar of a PEM that has none. A key that is under the TPM's dictionary-attack protection has an
// authValue that somebody chose; one that is not has the token's secret.
func (r *record) sidecarOf(key tss2.Key, created time.Time) (sidecar, error) {
	public := key.Object.Public
	pub, err := public.Key()
	if err != nil {
		return sidecar{}, err
	}
	id, err := defaultCKAID(pub)
	if err != nil {
		return sidecar{}, err
	}
	s := sidecar{
		Version: formatVersion, Name: hexText(public.Name()), Label: plainLabel(r.id), CKAID: id, State: Ready,
		Auth: authToken, Created: created.UTC(),
	}
	switch {
	case key.EmptyAuth:
		s.Auth = authEmpty
	case !public.Attributes().NoDA:
		s.Auth = authOwn
	}
	return s, nil
}

func plainLabel(stem string) string {
	return strings.Map(func(r rune) rune {
		if !isPlainText(string(r)) {
			return '_'
		}
		return r
	}, strings.ToValidUTF8(stem, "_"))
}

func (r *record) fromLink() error {
	public, err := provider.ParsePublic(r.side.Public)
	if err == nil {
		err = checkUsable(public)
	}
	if err != nil {
		r.problem(r.id+sidecarSuffix, err)
		return err
	}
	r.list(provider.Object{Public: public}, policy.Policy{}, nil)
	return nil
}

// fromPublic is public data, or a certificate of nobody's.
func (r *record) fromPublic() error {
	r.list(provider.Object{}, policy.Policy{}, nil)
	if r.side.Secret.Kind != SecretCertificate {
		return nil
	}
	c, err := parseCertificate(r.side.Secret.Plain)
	if err != nil {
		r.listed = false
		r.problem(r.id+sidecarSuffix, err)
		return err
	}
	r.entry.Certificates = []*x509.Certificate{c}
	return nil
}

func parseCertificate(der []byte) (*x509.Certificate, error) {
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("%w: a certificate: %w", ErrCorrupt, err)
	}
	return c, nil
}

// list makes the entry.
func (r *record) list(o provider.Object, fromPEM policy.Policy, policyErr *tss2.PolicyError) {
	s := r.side
	o.Handle = s.usableAt()
	r.listed = true
	r.entry = Entry{
		ID: r.id, Label: s.Label, CKAID: s.CKAID, Subject: s.Subject, Object: o, OwnPIN: s.Auth == authOwn, EmptyAuth: s.Auth == authEmpty,
		State: s.State, Created: s.Created,
	}
	if part := s.Secret; part != nil {
		info := part.SecretInfo
		r.entry.Secret, r.entry.sealed, r.entry.plain = &info, part.Sealed, part.Plain
	}
	r.entry.Policy, r.entry.PolicyErr = choosePolicy(o.Public, s.Policy, fromPEM, policyErr)
}

// choosePolicy takes the sidecar's policy, which has the PCR values, if it gives the key's policy digest, else the PEM's.
func choosePolicy(public provider.Public, side, fromPEM policy.Policy, policyErr *tss2.PolicyError) (policy.Policy, error) {
	if len(public.AuthPolicy()) == 0 {
		return policy.Policy{}, nil
	}
	for _, p := range []policy.Policy{side, fromPEM} {
		if !p.IsZero() && givesDigest(p, public) {
			return p, nil
		}
	}
	if public.Attributes().UserWithAuth {
		return policy.Policy{}, nil
	}
	if policyErr != nil {
		return policy.Policy{}, fmt.Errorf("%w: %w", ErrPolicyUnknown, policyErr)
	}
	return policy.Policy{}, fmt.Errorf("%w: no file says what gives its policy digest, %x", ErrPolicyUnknown, public.AuthPolicy())
}

func givesDigest(p policy.Policy, public provider.Public) bool {
	digest, err := p.Digest(public.Area().NameAlg)
	return err == nil && bytes.Equal(digest, public.AuthPolicy())
}

// parseChain reads a PEM chain and refuses one whose leaf does not have the key's public key.
func parseChain(text []byte, public provider.Public) ([]*x509.Certificate, error) {
	var chain []*x509.Certificate
	for rest := text; len(bytes.TrimSpace(rest)) > 0; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil || block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("%w: it is not a chain of PEM certificates", ErrCorrupt)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%w: certificate %d: %w", ErrCorrupt, len(chain)+1, err)
		}
		chain = append(chain, c)
	}
	if len(chain) == 0 {
		return nil, fmt.Errorf("%w: there is no certificate in it", ErrCorrupt)
	}
	if err := checkLeaf(chain[0], public); err != nil {
		return nil, err
	}
	return chain, nil
}

func checkLeaf(leaf *x509.Certificate, public provider.Public) error {
	key, err := public.Key()
	if err != nil {
		return err
	}
	if !samePublic(key, leaf.PublicKey) {
		return fmt.Errorf("%w: the first certificate, of %q, is for another public key: the key's own comes first, then its issuers'", ErrInvalid, leaf.Subject.String())
	}
	return nil
}

func encodeChain(chain []*x509.Certificate) []byte {
	var text []byte
	for _, c := range chain {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return text
}
