package policy

import (
	"bytes"
	"crypto"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/google/go-tpm/tpm2"
)

// Authorize requires any policy that a signer approved, now or later (TPM2_PolicyAuthorize). It is a policy's root, or
// the first node of an All there.
type Authorize struct {
	Signer Signer
	// File asks Resolve to read the signer's public key, once: it is part of the policy from then on.
	File string
	// Ref is the policyRef, which is signed with every policy: a signer approves for one purpose, or one generation. At
	// most MaxRef bytes.
	Ref string
}

// MaxRef is the longest policyRef in bytes (TPM2B_NONCE of SHA-256).
const MaxRef = 32

// AuthorizeNV requires the policy whose digest an NV index holds (TPM2_PolicyAuthorizeNV): whoever writes another
// one there revokes it at once, for every object with this node. It stands first where it is.
type AuthorizeNV struct {
	Index tpm2.TPMHandle // 0x01…
	// Name is the index's, once it was written; nil asks Resolve for it.
	Name []byte
}

// Approved is a policy that somebody approved.
type Approved struct {
	Name      string // what people call it: ami-2026-11-20
	Policy    Policy // resolved
	Signature []byte // by a Signer, as Sign makes it; nil for one that an NV index is to approve
}

// approver is a node that stands for the policies that somebody approved.
type approver interface {
	Node
	// filter says which approved policies count: with such a digest and such a signature.
	filter(now State, hash crypto.Hash) (func(digest, signature []byte) bool, error)
	// approval is the command that puts the approver's digest in place of an approved policy's.
	approval(digest, signature []byte) Step
	// unapproved says that no policy counts.
	unapproved(now State, of int) *UnsatisfiedError
}

func (a Authorize) walk(p *planner) error {
	if err := a.validate(); err != nil {
		return err
	}
	if a.Signer.IsZero() {
		return fmt.Errorf("signer %s: %w", a.File, ErrUnresolved)
	}
	return p.approved(a)
}

func (a AuthorizeNV) walk(p *planner) error {
	if err := checkIndex(a.Index); err != nil {
		return err
	}
	if a.Name == nil {
		return fmt.Errorf("NV index 0x%08x: its Name: %w", uint32(a.Index), ErrUnresolved)
	}
	return p.approved(a)
}

// approved walks through a policy that was approved, and puts the approver in its place.
func (p *planner) approved(n approver) error {
	if p.begun() {
		return fmt.Errorf("%w: %s stands first: nothing before it would count", ErrInvalid, n.text())
	}
	if p.guide == nil {
		p.add(n.approval(nil, nil))
		return nil
	}
	approved, err := p.guide.approve(n, p.hash())
	if err != nil {
		return err
	}
	if approved.Policy.IsZero() {
		p.add(n.approval(nil, nil))
		return nil
	}
	if err := approved.Policy.Root.walk(p); err != nil {
		return fmt.Errorf("approved policy %q: %w", approved.Name, err)
	}
	p.add(n.approval(p.digest.value, approved.Signature))
	return nil
}

// approve is the first approved policy that counts and that the state meets.
func (s State) approve(n approver, hash crypto.Hash) (Approved, error) {
	var all []Approved
	if s.Approved != nil {
		var err error
		if all, err = s.Approved(); err != nil {
			return Approved{}, err
		}
	}
	counts, err := n.filter(s, hash)
	if err != nil {
		return Approved{}, err
	}
	unmet := &UnsatisfiedError{Node: n}
	for _, a := range all {
		digest, err := a.digest(hash)
		if err != nil || !counts(digest, a.Signature) {
			continue
		}
		err = a.Policy.Check(s)
		if err == nil {
			return a, nil
		}
		if !isUnmet(err) {
			return Approved{}, fmt.Errorf("approved policy %q: %w", a.Name, err)
		}
		unmet.Branches = append(unmet.Branches, Branch{Name: a.Name, Err: err})
	}
	if len(unmet.Branches) == 0 {
		return Approved{}, n.unapproved(s, len(all))
	}
	return Approved{}, unmet
}

// digest is of a policy that could be approved: one that asks for no approval itself.
func (a Approved) digest(hash crypto.Hash) ([]byte, error) {
	if a.Policy.IsZero() {
		return nil, fmt.Errorf("%w: an approved policy that requires nothing", ErrInvalid)
	}
	for n := range a.Policy.nodes() {
		if _, nested := n.(approver); nested {
			return nil, fmt.Errorf("%w: an approved policy asks for approval itself", ErrInvalid)
		}
	}
	p := &planner{digest: &digest{hash: hash, value: make([]byte, hash.Size())}}
	if err := a.Policy.Root.walk(p); err != nil {
		return nil, err
	}
	return p.digest.value, nil
}

// Takes tells whether one of some approved policies bears the signature that a policy asks for.
func (p Policy) Takes(approved []Approved) bool {
	for n := range p.nodes() {
		a, ok := n.(Authorize)
		if !ok {
			continue
		}
		counts := a.Signer.verifier([]byte(a.Ref))
		for _, hash := range []crypto.Hash{crypto.SHA256, crypto.SHA384} {
			for _, one := range approved {
				digest, err := one.digest(hash)
				if err == nil && counts(digest, one.Signature) {
					return true
				}
			}
		}
	}
	return false
}

func (a Authorize) filter(State, crypto.Hash) (func(digest, signature []byte) bool, error) {
	return a.Signer.verifier([]byte(a.Ref)), nil
}

// filter reads the index: TPMT_HA, an algorithm and a digest.
func (a AuthorizeNV) filter(now State, hash crypto.Hash) (func(digest, signature []byte) bool, error) {
	x, err := now.namedIndex(a, a.Index, a.Name)
	if err != nil {
		return nil, err
	}
	return func(digest, _ []byte) bool { return bytes.Equal(x.Data, nvContent(hash, digest)) }, nil
}

// NoPolicy is what an NV index holds as the digest, of so many bytes, when it approves nothing: ones, to which no policy comes. Zeros
// would approve everybody, since every session begins with them.
func NoPolicy(size int) []byte { return bytes.Repeat([]byte{0xff}, size) }

// zeros tells the digest of a session that has run no command.
func zeros(digest []byte) bool { return bytes.Count(digest, []byte{0}) == len(digest) }

// nvContent is what an NV index holds that approves a policy's digest: TPMT_HA.
func nvContent(hash crypto.Hash, policyDigest []byte) []byte {
	alg := tpm2.TPMAlgSHA256
	if hash == crypto.SHA384 {
		alg = tpm2.TPMAlgSHA384
	}
	return append([]byte{byte(alg >> 8), byte(alg)}, policyDigest...)
}

func (a Authorize) approval(digest, signature []byte) Step {
	return AuthorizeStep{Approved: digest, Signer: a.Signer, Ref: []byte(a.Ref), Signature: signature}
}

func (a AuthorizeNV) approval([]byte, []byte) Step { return AuthorizeNVStep(a) }

func (a Authorize) unapproved(_ State, of int) *UnsatisfiedError {
	has := "no approved policy was found"
	if of > 0 {
		has = fmt.Sprintf("none of %d approved policies bears its signature", of)
	}
	return &UnsatisfiedError{Node: a, Wants: a.text(), Has: has}
}

// unapproved tells what was revoked from a policy that is not among those that were found, and from an index that lets everybody by.
func (a AuthorizeNV) unapproved(now State, of int) *UnsatisfiedError {
	unmet := &UnsatisfiedError{Node: a, Wants: "nothing", Has: fmt.Sprintf("what NV index 0x%08x approved was revoked", uint32(a.Index))}
	x, err := now.nv(a.Index)
	switch digest := x.Data[min(2, len(x.Data)):]; {
	case err != nil || bytes.Equal(digest, NoPolicy(len(digest))):
	case zeros(digest):
		unmet.Has = a.letsEverybodyBy()
	default:
		unmet.Wants = abbreviate(digest)
		unmet.Has = fmt.Sprintf("none of %d policies that were found has the digest in NV index 0x%08x", of, uint32(a.Index))
	}
	return unmet
}

func (a AuthorizeNV) letsEverybodyBy() string {
	return fmt.Sprintf("NV index 0x%08[1]x holds zeros, by which the TPM lets everybody use the key: `tpm2-p11 policy revoke 0x%08[1]x` ends that", uint32(a.Index))
}

func (a Authorize) resolve(now State, _ bool) (Node, error) {
	if err := a.validate(); err != nil || !a.Signer.IsZero() {
		return a, err
	}
	if now.File == nil {
		return nil, fmt.Errorf("signer %s: %w", a.File, ErrUnresolved)
	}
	text, err := now.File(a.File)
	if err != nil {
		return nil, fmt.Errorf("signer: %w", err)
	}
	if a.Signer, err = ParseSigner(text); err != nil {
		return nil, fmt.Errorf("%s: %w", a.File, err)
	}
	a.File = ""
	return a, nil
}

func (a AuthorizeNV) resolve(now State, _ bool) (Node, error) {
	if err := checkIndex(a.Index); err != nil || a.Name != nil {
		return a, err
	}
	x, err := now.unnamed(a.Index)
	if err != nil {
		return nil, err
	}
	if len(x.Data) > 2 && zeros(x.Data[2:]) {
		return nil, fmt.Errorf("%w: %s", ErrInvalid, a.letsEverybodyBy())
	}
	a.Name = bytes.Clone(x.Name)
	return a, nil
}

func (a Authorize) check(now State) error {
	if err := a.validate(); err != nil {
		return err
	}
	_, err := now.approve(a, now.hash())
	return err
}

func (a AuthorizeNV) check(now State) error {
	_, err := now.approve(a, now.hash())
	return err
}

func (a Authorize) validate() error {
	switch {
	case len(a.Ref) > MaxRef:
		return fmt.Errorf("%w: a ref has %d bytes at most, not %d", ErrInvalid, MaxRef, len(a.Ref))
	case a.Signer.IsZero() == (a.File == ""):
		return fmt.Errorf("%w: authorize names one signer", ErrInvalid)
	}
	return nil
}

func (a Authorize) children() []Node   { return nil }
func (a AuthorizeNV) children() []Node { return nil }

func (a Authorize) text() string {
	who := a.File
	if print, err := a.Signer.Fingerprint(); a.File == "" && err == nil {
		who = abbreviate(print)
	}
	if len(a.Ref) > 0 {
		return fmt.Sprintf("signed by %s for %q", who, a.Ref)
	}
	return "signed by " + who
}

func (a AuthorizeNV) text() string { return fmt.Sprintf("approved in nv 0x%08x", uint32(a.Index)) }

func (a Authorize) explain(w *explainer) {
	who := "whose public key is in " + a.File
	if print, err := a.Signer.Fingerprint(); a.File == "" && err == nil {
		who = fmt.Sprintf("whose public key has the SHA-256 %x", print)
	}
	what := ""
	if len(a.Ref) > 0 {
		what = fmt.Sprintf(", for %q", a.Ref)
	}
	w.line("one of the policies that were approved%s by the signer %s", what, who)
}

func (a AuthorizeNV) explain(w *explainer) {
	w.line("the policy whose digest is in NV index 0x%08x", uint32(a.Index))
}

func (a Authorize) appendJSON(b []byte) []byte {
	b = append(b, `{"authorize":{`...)
	switch plain, text := a.plain(); {
	case a.File != "":
		b = fmt.Appendf(b, `"signer":%s`, quoteJSON("file:"+a.File))
	case plain:
		b = fmt.Appendf(b, `"signer":%q`, base64.StdEncoding.EncodeToString(text))
	default:
		b = fmt.Appendf(b, `"public":"%x"`, a.Signer.area)
	}
	if len(a.Ref) > 0 {
		if quoted := quoteJSON(a.Ref); quoted != "" {
			b = fmt.Appendf(b, `,"ref":%s`, quoted)
		} else {
			b = appendHexMember(b, "ref_hex", []byte(a.Ref))
		}
	}
	return append(b, "}}"...)
}

// plain gives the DER public key, if the signer is the one that NewSigner makes of it.
func (a Authorize) plain() (bool, []byte) {
	key, err := a.Signer.Key()
	if err != nil {
		return false, nil
	}
	again, err := NewSigner(key)
	if err != nil || again != a.Signer {
		return false, nil
	}
	der, err := a.Signer.pkix()
	return err == nil, der
}

func (a AuthorizeNV) appendJSON(b []byte) []byte {
	b = fmt.Appendf(b, `{"authorize_nv":{"index":"0x%08x"`, uint32(a.Index))
	if a.Name != nil {
		b = appendHexMember(b, "name", a.Name)
	}
	return append(b, "}}"...)
}

// authorizeFromTree reads {signer="file:/etc/…/ci.pub.pem", ref="tls/v1"}; the signer may also be the public key itself, in PEM or
// its DER in Base64, or public="…", a public area in hexadecimal.
func authorizeFromTree(tree any, at path) (Node, error) {
	if !at.root {
		return nil, at.errorf("can only be a policy's root, or the first node of an all there")
	}
	table, ok := tree.(map[string]any)
	if !ok {
		return nil, at.errorf(`is a table {signer="file:…", …}, not %s`, describe(tree))
	}
	var a Authorize
	for _, name := range sorted(table) {
		at := at.member(name)
		text, _ := table[name].(string)
		if text == "" {
			return nil, at.errorf("is text, not %s", describe(table[name]))
		}
		var err error
		switch name {
		case "signer":
			err = a.setSigner(text)
		case "public":
			var area []byte
			if area, err = hex.DecodeString(text); err == nil {
				a.Signer, err = SignerOf(area)
			}
		case "ref":
			a.Ref = text
		case "ref_hex":
			var ref []byte
			ref, err = hex.DecodeString(text)
			a.Ref = string(ref)
		default:
			return nil, at.errorf("is not known (known: signer, public, ref, ref_hex)")
		}
		if err != nil {
			return nil, at.wrap(err)
		}
	}
	if err := a.validate(); err != nil {
		return nil, at.wrap(err)
	}
	return a, nil
}

func (a *Authorize) setSigner(text string) (err error) {
	if file, ok := strings.CutPrefix(text, "file:"); ok {
		a.File = file
		return nil
	}
	if strings.HasPrefix(text, "-----") {
		a.Signer, err = ParseSigner([]byte(text))
		return err
	}
	der, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return fmt.Errorf("%w: a signer is file:PATH, a public key in PEM or its DER in Base64", ErrInvalid)
	}
	a.Signer, err = parsePKIX(der)
	return err
}

func authorizeNVFromTree(tree any, at path) (Node, error) {
	table, err := indexTable(tree, at)
	return AuthorizeNV{Index: table.index, Name: table.name}, err
}
