package provider

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/internal/secret"
)

// authValue is a secret as the TPM keeps it: without trailing zeros (TPM 2.0 Part 1, section 17.6.4.3). Zeros inside count.
func authValue(s *secret.Bytes) []byte { return bytes.TrimRight(s.Bytes(), "\x00") }

var hierarchyNames = map[Handle]string{tpm2.TPMRHOwner: "owner", tpm2.TPMRHLockout: "lockout", tpm2.TPMRHEndorsement: "endorsement"}

// asHierarchy calls use with the authorization of a hierarchy. A value that is not empty never travels: it keys an HMAC
// session, which is salted, lest who listens try guesses at the value on what went by.
func (c *connection) asHierarchy(ctx context.Context, h Handle, auth *secret.Bytes, use func(authorization) error) error {
	value := authValue(auth)
	a := authorization{value: value}
	var err error
	switch {
	case len(value) == 0:
	case h == tpm2.TPMRHLockout || c.srk != nil || c.pinned != nil && c.pinned.Handle != 0:
		a.session, err = c.hmacSession(ctx)
	default:
		// The SRK is yet to be found: a key of the null hierarchy, which takes no authorisation, is as good against listeners.
		err = c.withPrimaryOf(ctx, "salting key", tpm2.TPMRHNull, srkTemplate, func(salt *loadedKey) (err error) {
			a.session, err = c.startSession(ctx, tpm2.TPMSEHMAC, crypto.SHA256, salt)
			return err
		})
		if err == nil {
			defer c.end(ctx, a.session)
		}
	}
	if err != nil {
		return err
	}
	return hierarchyError(h, use(a))
}

// hierarchyError tells a hierarchy's refused authorization from an object's.
func hierarchyError(h Handle, err error) error {
	if errors.Is(err, ErrAuth) || isCode(err, tpm2.TPMRCAuthUnavailable) {
		return &HierarchyError{hierarchyNames[h], err}
	}
	return err
}

// HierarchyError is an ErrHierarchyAuth.
type HierarchyError struct {
	Hierarchy string // "owner", "lockout" or "endorsement"
	Cause     error  // what the TPM said; an ErrAuth here is not about an object, and is not unwrapped
}

func (e *HierarchyError) Error() string {
	return fmt.Sprintf("%v: %s hierarchy: %v", ErrHierarchyAuth, e.Hierarchy, e.Cause)
}

// Unwrap gives ErrHierarchyAuth.
func (e *HierarchyError) Unwrap() error { return ErrHierarchyAuth }

// end flushes a session unless its use ended it, and forgets its key.
func (c *connection) end(ctx context.Context, s *session) {
	if _, ok := c.live[s.handle]; ok {
		c.flush(ctx, s.handle)
	}
	s.wipe()
}

// ResetLockout clears the dictionary-attack lockout (TPM2_DictionaryAttackLockReset, Part 3, section 25.2) with the
// lockout hierarchy's auth value. A wrong value shuts the lockout hierarchy for a time, so it is tried once.
func (t *TPM) ResetLockout(ctx context.Context, lockoutAuth *secret.Bytes) error {
	err := t.doOnce(ctx, func(ctx context.Context, c *connection) error {
		return c.asHierarchy(ctx, tpm2.TPMRHLockout, lockoutAuth, func(auth authorization) error {
			_, err := c.run(ctx, command{
				code:  tpm2.TPMCCDictionaryAttackLockReset,
				in:    []entity{permanent(tpm2.TPMRHLockout)},
				auths: []authorization{auth},
			})
			return err
		})
	})
	if err != nil {
		return fmt.Errorf("reset the lockout: %w", err)
	}
	return nil
}
