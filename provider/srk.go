package provider

import (
	"bytes"
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2"
)

// SRK is the storage root key that wraps our keys and salts our sessions. Without Handle it is not
// persistent: it is made anew for each operation that needs it.
type SRK struct {
	Handle Handle
	Public Public
}

func (s *SRK) equal(other *SRK) bool {
	if s == nil || other == nil {
		return s == other
	}
	return s.Handle == other.Handle && bytes.Equal(s.Public.name, other.Public.name)
}

// Where an SRK of ours is persisted. The handles above are for keys.
const (
	firstSRKHandle Handle = 0x81000001
	lastSRKHandle  Handle = 0x810000FF
)

// srkTemplate is the ECC P-256 storage key of the TSS2 key format: unlike the one of the TCG's provisioning
// guidance its unique field is empty, which makes it another key.
var srkTemplate = tpm2.TPMTPublic{
	Type:    tpm2.TPMAlgECC,
	NameAlg: tpm2.TPMAlgSHA256,
	ObjectAttributes: tpm2.TPMAObject{
		FixedTPM:            true,
		FixedParent:         true,
		SensitiveDataOrigin: true,
		UserWithAuth:        true,
		NoDA:                true,
		Restricted:          true,
		Decrypt:             true,
	},
	Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
		Symmetric: tpm2.TPMTSymDefObject{
			Algorithm: tpm2.TPMAlgAES,
			KeyBits:   tpm2.NewTPMUSymKeyBits(tpm2.TPMAlgAES, tpm2.TPMKeyBits(128)),
			Mode:      tpm2.NewTPMUSymMode(tpm2.TPMAlgAES, tpm2.TPMAlgCFB),
		},
		Scheme:  tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgNull},
		CurveID: tpm2.TPMECCNistP256,
		KDF:     tpm2.TPMTKDFScheme{Scheme: tpm2.TPMAlgNull},
	}),
	Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{}),
}

// loadedKey is a storage key whose Name was checked on this connection.
type loadedKey struct {
	handle Handle
	public Public
}

func (s *loadedKey) entity() entity { return entity{s.handle, s.public.name} }

// UseSRK pins the SRK for this TPM, and not for those that share it: sessions are salted to it, keys load under it, and
// another key in its place is ErrParentChanged. Without it the operations that need an SRK find one by the template's Name (no persisting).
func (t *TPM) UseSRK(s SRK) { t.pinned.Store(&s) }

// ProvisionSRK finds the SRK (ECC P-256, the TSS2 key format's template) among the persistent handles by its Name,
// or makes it and persists it at 0x81000001, or the next free handle below 0x81000100. The SRK that was pinned before does
// not count.
func (t *TPM) ProvisionSRK(ctx context.Context) (SRK, error) {
	srk, err := t.provisionSRK(ctx, nil)
	if err != nil {
		return SRK{}, fmt.Errorf("provision the storage root key: %w", err)
	}
	return srk, nil
}

// RestoreSRK is ProvisionSRK for an SRK that somebody took from its handle: it comes back there, or to the first of ProvisionSRK's handles
// that is free. Where the TPM makes another key, since it was cleared or is another one, that is ErrParentChanged and nothing is persisted.
func (t *TPM) RestoreSRK(ctx context.Context, lost SRK) (SRK, error) {
	srk, err := t.provisionSRK(ctx, &lost)
	if err != nil {
		return SRK{}, fmt.Errorf("restore the storage root key: %w", err)
	}
	return srk, nil
}

// provisionSRK provides whatever SRK the TPM makes, or none but the one that was lost.
func (t *TPM) provisionSRK(ctx context.Context, lost *SRK) (SRK, error) {
	var srk SRK
	err := t.do(ctx, func(ctx context.Context, c *connection) (err error) {
		c.forgetSRK()
		c.pinned = nil
		if srk, err = c.findSRK(ctx); err != nil {
			return err
		}
		if lost != nil {
			if err := checkSRK(*lost, srk.Public); err != nil {
				return err
			}
		}
		if srk.Handle != 0 {
			return nil
		}
		return c.withPrimary(ctx, func(primary *loadedKey) error {
			taken, err := c.persistentHandles(ctx)
			if err != nil {
				return err
			}
			h := firstFree(taken, firstSRKHandle)
			if lost != nil && lost.Handle != 0 && !slices.Contains(taken, lost.Handle) {
				h = lost.Handle // which another tool may have chosen, above those of ours
			} else if h > lastSRKHandle {
				return fmt.Errorf("%w: all of 0x%08X to 0x%08X", ErrHandleTaken, uint32(firstSRKHandle), uint32(lastSRKHandle))
			}
			if err := c.evictControl(ctx, primary.entity(), h); err != nil {
				return err
			}
			srk.Handle, c.found = h, nil
			return nil
		})
	})
	return srk, err
}

// findSRK finds the SRK by the Name that its template gives in this TPM. Its Handle is 0 when it is not persistent.
func (c *connection) findSRK(ctx context.Context) (SRK, error) {
	handles, err := c.persistentHandles(ctx)
	if err != nil {
		return SRK{}, err
	}
	var candidates []SRK
	for _, h := range handles {
		p, err := c.readPublic(ctx, h)
		if errors.Is(err, ErrUnsupported) { // a foreign object that we cannot read is not ours
			continue
		}
		if err != nil {
			return SRK{}, err
		}
		if isSRK(p) {
			candidates = append(candidates, SRK{h, p})
		}
	}
	var srk SRK
	err = c.withPrimary(ctx, func(primary *loadedKey) error {
		srk.Public = primary.public
		return nil
	})
	if errors.Is(err, ErrHierarchyAuth) && len(candidates) == 1 {
		return candidates[0], nil // who may not make the SRK can still use the only key that looks like it
	}
	if err != nil {
		return SRK{}, err
	}
	for _, have := range candidates {
		if bytes.Equal(have.Public.name, srk.Public.name) {
			return have, nil
		}
	}
	return srk, nil
}

// isSRK tells whether a public area is the template's, but for its point.
func isSRK(p Public) bool {
	area := p.area
	if area.Type != tpm2.TPMAlgECC {
		return false
	}
	area.Unique = srkTemplate.Unique
	return bytes.Equal(tpm2.Marshal(area), tpm2.Marshal(srkTemplate))
}

// withSRK calls f with the SRK. The first use on a connection checks its Name, before anything secret is sent.
func (c *connection) withSRK(ctx context.Context, f func(*loadedKey) error) error {
	if c.srk != nil {
		return f(c.srk)
	}
	var want SRK
	if c.pinned != nil {
		want = *c.pinned
	} else {
		if c.found == nil {
			found, err := c.findSRK(ctx)
			if err != nil {
				return fmt.Errorf("find the storage root key: %w", err)
			}
			c.found = &found
		}
		want = *c.found
	}
	if want.Handle == 0 {
		return c.withPrimary(ctx, func(primary *loadedKey) error {
			if err := checkSRK(want, primary.public); err != nil {
				return err
			}
			// Within f nothing needs to make it a second time.
			c.srk = primary
			defer func() { c.srk = nil }()
			return f(primary)
		})
	}
	have, err := c.readPublic(ctx, want.Handle)
	if errors.Is(err, ErrNoObject) {
		return fmt.Errorf("%w: there is none at 0x%08X", ErrParentChanged, uint32(want.Handle))
	}
	if err != nil {
		return fmt.Errorf("storage root key: %w", err)
	}
	if err := checkSRK(want, have); err != nil {
		return err
	}
	c.srk = &loadedKey{want.Handle, have}
	return f(c.srk)
}

func checkSRK(want SRK, have Public) error {
	if subtle.ConstantTimeCompare(want.Public.name, have.name) == 1 {
		return nil
	}
	return fmt.Errorf("%w: its Name is %v, it was %v", ErrParentChanged, have.name, want.Public.name)
}

// forgetSRK drops what was made with the SRK of another time.
func (c *connection) forgetSRK() {
	if c.session != nil {
		c.end(context.Background(), c.session)
	}
	c.endPolicy(context.Background())
	c.srk, c.found, c.session = nil, nil, nil
}

// withPrimary makes the SRK as a transient object, calls f and flushes it.
func (c *connection) withPrimary(ctx context.Context, f func(*loadedKey) error) error {
	return c.withPrimaryOf(ctx, "storage root key", tpm2.TPMRHOwner, srkTemplate, f)
}

// withPrimaryOf makes a primary key of a hierarchy as a transient object, calls f and flushes it.
func (c *connection) withPrimaryOf(ctx context.Context, what string, hierarchy Handle, template tpm2.TPMTPublic, f func(*loadedKey) error) error {
	var primary *loadedKey
	err := c.asHierarchy(ctx, hierarchy, c.tpm.given(hierarchy), func(auth authorization) (err error) {
		primary, err = c.createPrimary(ctx, hierarchy, auth, template)
		return err
	})
	if err != nil {
		return fmt.Errorf("make the %s: %w", what, err)
	}
	defer c.flush(ctx, primary.handle)
	return f(primary)
}

// createPrimary is TPM2_CreatePrimary (Part 3, section 24.1) with an empty authValue.
func (c *connection) createPrimary(ctx context.Context, hierarchy Handle, auth authorization, template tpm2.TPMTPublic) (*loadedKey, error) {
	p := put2B(nil, []byte{0, 0, 0, 0}) // no authValue, no data
	p = put2B(p, tpm2.Marshal(template))
	p = put2B(p, nil) // outsideInfo
	p = put32(p, 0)   // creationPCR
	r, err := c.run(ctx, command{
		code:   tpm2.TPMCCCreatePrimary,
		in:     []entity{permanent(hierarchy)},
		auths:  []authorization{auth},
		params: p,
		loads:  true,
	})
	if err != nil {
		return nil, err
	}
	public, err := ParsePublic(r.sized())
	if err == nil {
		err = checkCreated(template, public.area)
	}
	if err != nil {
		c.flush(ctx, r.handle)
		return nil, err
	}
	return &loadedKey{r.handle, public}, nil
}
