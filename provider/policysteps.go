package provider

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/policy"
)

// policyNV is TPM2_PolicyNV (Part 3, section 23.9).
func (c *connection) policyNV(ctx context.Context, s *session, step policy.NVStep) error {
	return c.withPolicyIndex(ctx, step.Index, step.Name, func(x nvIndex, by entity, auth authorization) error {
		_, err := c.run(ctx, command{
			code:   tpm2.TPMCCPolicyNV,
			in:     []entity{by, x.entity(), permanent(s.handle)},
			auths:  []authorization{auth},
			params: put16(put16(put2B(nil, step.Value), step.Offset), uint16(step.Op)),
		})
		return err
	})
}

// policyAuthorizeNV is TPM2_PolicyAuthorizeNV (Part 3, section 23.22).
func (c *connection) policyAuthorizeNV(ctx context.Context, s *session, step policy.AuthorizeNVStep) error {
	return c.withPolicyIndex(ctx, step.Index, step.Name, func(x nvIndex, by entity, auth authorization) error {
		_, err := c.run(ctx, command{
			code:  tpm2.TPMCCPolicyAuthorizeNV,
			in:    []entity{by, x.entity(), permanent(s.handle)},
			auths: []authorization{auth},
		})
		return err
	})
}

// errOtherIndex: an NV index is not the one that the policy means.
var errOtherIndex = fmt.Errorf("%w", ErrPolicy)

// withPolicyIndex calls use with the index that a policy means, and who may read it.
func (c *connection) withPolicyIndex(ctx context.Context, h Handle, name []byte, use func(x nvIndex, by entity, auth authorization) error) error {
	x, err := c.nvReadPublic(ctx, h)
	switch {
	case errors.Is(err, ErrNoObject):
		return fmt.Errorf("%w: NV index 0x%08X is gone", errOtherIndex, uint32(h))
	case err != nil:
		return err
	case !bytes.Equal(x.name, name):
		return fmt.Errorf("%w: %v is another one: its Name is %v, the policy's %x", errOtherIndex, x, x.name, name)
	}
	return c.asReader(ctx, x, func(by entity, auth authorization) error { return use(x, by, auth) })
}

func isSecret(step policy.Step) bool {
	_, is := step.(policy.SecretStep)
	return is
}

// policySecret is TPM2_PolicySecret (Part 3, section 23.4) without expiration or policyRef. The session's nonceTPM, which the TPM compares,
// ties the consent to the session that was started here: it was proven, and no other one has that nonce.
func (c *connection) policySecret(ctx context.Context, s *session, step policy.SecretStep) error {
	return c.asHierarchy(ctx, step.Hierarchy, c.tpm.given(step.Hierarchy), func(auth authorization) error {
		p := put2B(nil, s.nonceTPM)
		p = put2B(p, nil) // cpHashA
		p = put2B(p, nil) // policyRef
		p = put32(p, 0)   // expiration
		_, err := c.run(ctx, command{
			code:   tpm2.TPMCCPolicySecret,
			in:     []entity{permanent(step.Hierarchy), permanent(s.handle)},
			auths:  []authorization{auth},
			params: p,
		})
		return err
	})
}

// tickets are the TPM's words that it verified a signature, by what was signed. They survive its resets, but not TPM2_Clear.
type tickets map[[sha256.Size]byte][]byte

// maxTickets bounds what is kept; with more everything is forgotten.
const maxTickets = 64

// policyAuthorize is TPM2_PolicyAuthorize (Part 3, section 23.16). The signature was verified in software before.
func (c *connection) policyAuthorize(ctx context.Context, s *session, step policy.AuthorizeStep) error {
	name := step.Signer.Name()
	digest := policy.ApprovalDigest(step.Approved, step.Ref)
	what := sha256.Sum256(append(append(bytes.Clone(name), digest...), step.Signature...))
	for {
		ticket, kept := c.tpm.tickets[what]
		if !kept {
			var err error
			if ticket, err = c.verifyApproval(ctx, step.Signer, digest, step.Signature); err != nil {
				return err
			}
			if len(c.tpm.tickets) >= maxTickets || c.tpm.tickets == nil {
				c.tpm.tickets = make(tickets)
			}
			c.tpm.tickets[what] = ticket
		}
		p := put2B(nil, step.Approved)
		p = put2B(p, step.Ref)
		p = put2B(p, name)
		p = append(p, ticket...)
		_, err := c.run(ctx, command{code: tpm2.TPMCCPolicyAuthorize, in: []entity{permanent(s.handle)}, params: p})
		if !kept || !isParameter(codeOf(err), tpm2.TPMRCValue, 4) {
			return err
		}
		delete(c.tpm.tickets, what) // of before a TPM2_Clear
	}
}

// verifyApproval has the TPM verify a signature (TPM2_VerifySignature, Part 3, section 20.1), and gives its ticket. The key
// is loaded in the owner hierarchy, since in the null hierarchy the ticket would be empty.
func (c *connection) verifyApproval(ctx context.Context, signer policy.Signer, digest, signature []byte) ([]byte, error) {
	tpmSignature, err := signer.TPMSignature(signature)
	if err != nil {
		return nil, err
	}
	p := put2B(nil, nil) // no private area
	p = put2B(p, signer.Area())
	p = put32(p, uint32(tpm2.TPMRHOwner))
	r, err := c.run(ctx, command{code: tpm2.TPMCCLoadExternal, params: p, loads: true})
	if err != nil {
		return nil, fmt.Errorf("load the signer's public key: %w", err)
	}
	defer c.flush(ctx, r.handle)
	name := r.sized()
	if err := r.end(); err != nil || !bytes.Equal(name, signer.Name()) {
		return nil, fmt.Errorf("%w: TPM2_LoadExternal: Name %x", ErrIntegrity, name)
	}
	r, err = c.run(ctx, command{
		code:   tpm2.TPMCCVerifySignature,
		in:     []entity{{r.handle, name}},
		params: append(put2B(nil, digest), tpmSignature...),
	})
	if err != nil {
		return nil, err
	}
	ticket := bytes.Clone(r.b)
	r.u16()
	r.u32()
	r.sized()
	return ticket, r.end()
}
