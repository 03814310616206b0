package provider

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// MaxQualifyingData is the longest nonce that every TPM puts into a statement, in bytes.
const MaxQualifyingData = 32

// Statement is something that a TPM says and its AK signed.
type Statement struct {
	Attest    []byte // TPMS_ATTEST
	Signature []byte // TPMT_SIGNATURE
}

// Evidence is what an AK says of a key and of PCRs, together with what is needed to understand it. Package attest
// verifies it.
type Evidence struct {
	AK          Public
	AKHierarchy Handle
	Key         Public
	// Certify is of TPM2_Certify. It is empty for keys with a policy: certifying takes the ADMIN role, which their
	// policies do not give.
	Certify Statement
	// Audit is, for those, of TPM2_GetSessionAuditDigest, in whose session the TPM did nothing but TPM2_ReadPublic of the
	// key. Parent, a primary storage key of the owner hierarchy, is then the key's: its Name is part of the key's
	// qualified Name, which no key that was merely shown to the TPM has.
	Audit  Statement
	Parent Public
	// Quote is of TPM2_Quote over the PCRs, empty when none were asked for.
	Quote Statement
	PCRs  []PCRValues
}

// PCRValues are values of PCRs in one bank.
type PCRValues struct {
	Hash   tpm2.TPMIAlgHash
	Values map[uint][]byte
}

// AttestKey has an AK say that a key is in this TPM and, if PCRs are named, what their values are. The nonce, of at most
// MaxQualifyingData bytes, is in every statement. a is needed for keys without a policy alone.
func (t *TPM) AttestKey(ctx context.Context, k AttestationKey, o Object, a Auth, nonce []byte, pcrs []Bank) (e Evidence, err error) {
	template, err := k.resolve()
	switch {
	case err != nil:
	case len(nonce) == 0 || len(nonce) > MaxQualifyingData:
		err = fmt.Errorf("%w: a nonce of %d bytes: it has 1 to %d", ErrUnsupported, len(nonce), MaxQualifyingData)
	default:
		err = t.do(ctx, func(ctx context.Context, c *connection) error {
			e = Evidence{AKHierarchy: k.Hierarchy, Key: o.Public}
			if o.Public.Attributes().AdminWithPolicy {
				if e.Parent, err = c.parentOf(ctx, o); err != nil {
					return err
				}
			}
			return c.withPrimaryOf(ctx, "attestation key", k.Hierarchy, template, func(ak *loadedKey) error {
				e.AK = ak.public
				if err := c.stateKey(ctx, ak, o, a, nonce, &e); err != nil {
					return err
				}
				return c.statePCRs(ctx, ak, nonce, pcrs, &e)
			})
		})
	}
	if err != nil {
		return Evidence{}, a.wrap("attest key", err)
	}
	return e, nil
}

func (c *connection) stateKey(ctx context.Context, ak *loadedKey, o Object, a Auth, nonce []byte, e *Evidence) error {
	if o.Public.Attributes().AdminWithPolicy {
		return c.withObject(ctx, o, func(object entity) (err error) {
			e.Audit, err = c.auditReadPublic(ctx, ak, object, nonce)
			return err
		})
	}
	a.Policy.Root = nil // userWithAuth: the authValue decides
	return c.withObject(ctx, o, func(object entity) error {
		return c.authorise(ctx, o.Public, a, tpm2.TPMCCCertify, crypt{}, func(auths []authorization) (err error) {
			e.Certify, err = c.certify(ctx, ak, object, auths, nonce)
			return err
		})
	})
}

// nullScheme is a TPMT_SIG_SCHEME that leaves the scheme to the key.
var nullScheme = put16(nil, uint16(tpm2.TPMAlgNull))

// certify is TPM2_Certify (Part 3, section 18.2).
func (c *connection) certify(ctx context.Context, ak *loadedKey, object entity, auths []authorization, nonce []byte) (Statement, error) {
	r, err := c.run(ctx, command{
		code:   tpm2.TPMCCCertify,
		in:     []entity{object, ak.entity()},
		auths:  append(auths, authorization{}),
		params: append(put2B(nil, nonce), nullScheme...),
	})
	if err != nil {
		return Statement{}, err
	}
	return r.statement()
}

// auditReadPublic reads an object's public area in an audit session, and has the session's digest signed by
// TPM2_GetSessionAuditDigest (Part 3, section 18.5).
func (c *connection) auditReadPublic(ctx context.Context, ak *loadedKey, object entity, nonce []byte) (Statement, error) {
	s, err := c.startSession(ctx, tpm2.TPMSEHMAC, crypto.SHA256, nil)
	if err != nil {
		return Statement{}, err
	}
	defer c.end(ctx, s)
	s.reused = true
	if _, err := c.run(ctx, command{
		code:  tpm2.TPMCCReadPublic,
		in:    []entity{object},
		auths: []authorization{{session: s, audit: true}},
	}); err != nil {
		return Statement{}, err
	}
	r, err := c.run(ctx, command{
		code:   tpm2.TPMCCGetSessionAuditDigest,
		in:     []entity{permanent(tpm2.TPMRHEndorsement), ak.entity(), permanent(s.handle)},
		auths:  []authorization{{}, {}},
		params: append(put2B(nil, nonce), nullScheme...),
	})
	if err != nil {
		return Statement{}, hierarchyError(tpm2.TPMRHEndorsement, err)
	}
	return r.statement()
}

// statement takes TPM2B_ATTEST and TPMT_SIGNATURE.
func (r *response) statement() (Statement, error) {
	s := Statement{Attest: bytes.Clone(r.sized()), Signature: bytes.Clone(r.b)}
	return s, r.err
}

// QualifiedName is the qualified Name of an object below a primary key of a hierarchy, each the parent of the next, or of
// the primary itself when none is below (Part 1, "Qualified Name").
func QualifiedName(hierarchy Handle, primary Public, below ...Public) (Name, error) {
	name := Name(put32(nil, uint32(hierarchy)))
	for _, p := range append([]Public{primary}, below...) {
		hash, err := p.area.NameAlg.Hash()
		if err != nil {
			return nil, fmt.Errorf("%w: name algorithm: %w", ErrUnsupported, err)
		}
		h := hash.New()
		h.Write(name)
		h.Write(p.name)
		name = h.Sum(put16(nil, uint16(p.area.NameAlg)))
	}
	return name, nil
}

// parentOf finds the parent of an object among the primary keys of the owner hierarchy: the SRK, or one that is
// persistent.
func (c *connection) parentOf(ctx context.Context, o Object) (parent Public, err error) {
	var qualified Name
	if err := c.withObject(ctx, o, func(object entity) error {
		r, err := c.run(ctx, command{code: tpm2.TPMCCReadPublic, in: []entity{object}})
		if err != nil {
			return err
		}
		r.sized() // public area
		r.sized() // Name
		qualified = bytes.Clone(r.sized())
		return r.end()
	}); err != nil {
		return Public{}, err
	}
	isParent := func(p Public) bool {
		q, err := QualifiedName(tpm2.TPMRHOwner, p, o.Public)
		return err == nil && bytes.Equal(q, qualified)
	}
	if err := c.withSRK(ctx, func(srk *loadedKey) error {
		parent = srk.public
		return nil
	}); err == nil && isParent(parent) {
		return parent, nil
	}
	handles, err := c.persistentHandles(ctx)
	if err != nil {
		return Public{}, err
	}
	for _, h := range handles {
		p, err := c.readPublic(ctx, h)
		if errors.Is(err, ErrUnsupported) {
			continue
		}
		if err != nil {
			return Public{}, err
		}
		if p.IsStorageKey() && isParent(p) {
			return p, nil
		}
	}
	return Public{}, fmt.Errorf("%w: the key's parent is not a primary key of the owner hierarchy that is persistent", ErrUnsupported)
}
