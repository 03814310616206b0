package provider_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/internal/faulttpm"
	"github.com/tpm2-p11/tpm2-p11/internal/secret"
	"github.com/tpm2-p11/tpm2-p11/internal/wiretap"
	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// consented is data that the owner's consent opens, and an owner who gives it.
func consented(t *testing.T) (*bench, *provider.TPM, *wiretap.Dialer, func() error) {
	t.Helper()
	b := newStore(t)
	p := policy.Policy{Root: policy.Secret{Hierarchy: tpm2.TPMRHOwner}}
	sealed, err := b.Seal(t.Context(), secret.From([]byte("the data")), provider.Template{AuthPolicy: digestOf(t, p)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	b.hierarchyAuth(t, tpm2.TPMRHOwner, "owner's")
	b.Release()
	owner, wire := b.client(t, provider.WithOwnerAuth(pin("owner's")))
	owner.UseSRK(b.srk)
	return b, owner, wire, func() error {
		data, err := owner.Unseal(t.Context(), sealed, provider.Auth{Policy: p})
		if err == nil && string(data.Bytes()) != "the data" {
			t.Errorf("it is %q", data.Bytes())
		}
		return err
	}
}

// code is a response's code.
func code(t *testing.T, response []byte, err error) uint32 {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return binary.BigEndian.Uint32(response[6:])
}

// Who sees the handle of a session in which the owner consented cannot use it: it takes the session's key.
func TestAConsentServesItsSessionOnly(t *testing.T) {
	t.Parallel()
	_, owner, wire, unseal := consented(t)
	for range 2 { // in a new session, and in one that was kept
		tried := false
		wire.Inject(faulttpm.Once(tpm2.TPMCCUnseal).Do(func(_ context.Context, command []byte, send func() ([]byte, error)) ([]byte, error) {
			tried = true
			theirs := bytes.Clone(command[:22])              // up to the handles of object and session
			theirs = append(theirs, 0, 0, 0x01, 0, 0)        // no nonce, continueSession, no HMAC
			binary.BigEndian.PutUint32(theirs[2:], 27)       // in all
			binary.BigEndian.PutUint32(theirs[14:], 27-14-4) // of the authorisation
			answer, err := wire.Aside(theirs)
			if code(t, answer, err) == 0 {
				t.Error("somebody else read the data")
			}
			return send()
		}))
		if err := unseal(); err != nil || !tried {
			t.Errorf("%v", err)
		}
	}
	wire.Inject(nil)
	wire.Reset()
	if err := unseal(); err != nil {
		t.Error(err)
	}
	if wire.Count(ccStart) != 0 || wire.Count(tpm2.TPMCCGetRandom) != 0 {
		t.Errorf("a session that is known is asked again: %x", wire.Codes())
	}
	owner.Release()
}

// The owner consents in the session that was started here, and not in one of somebody between, who gives its handle as the new one's.
func TestNobodyElsesSessionGetsTheConsent(t *testing.T) {
	t.Parallel()
	b, owner, wire, unseal := consented(t)
	start := func(symmetric ...byte) []byte { // TPM2_StartAuthSession of an unsalted policy session
		c := []byte{0x80, 0x01, 0, 0, 0, 0, 0, 0, 0x01, 0x76, 0x40, 0, 0, 7, 0x40, 0, 0, 7, 0, 32}
		c = append(c, make([]byte, 32)...)
		c = append(append(c, 0, 0, 1), symmetric...)
		c = append(c, 0, 0x0B)
		binary.BigEndian.PutUint32(c[2:], uint32(len(c)))
		return c
	}
	isPolicy := func(command []byte) bool { // of TPM2_StartAuthSession, behind a nonce and a salt
		if faulttpm.Code(command) != ccStart {
			return false
		}
		r := command[18:]
		for range 2 {
			r = r[2+int(binary.BigEndian.Uint16(r)):]
		}
		return tpm2.TPMSE(r[0]) == tpm2.TPMSEPolicy
	}
	var real, theirs []byte // handles
	substitute := func(symmetric ...byte) faulttpm.Fault {
		return func(_ context.Context, command []byte, send func() ([]byte, error)) ([]byte, error) {
			if !isPolicy(command) {
				return send()
			}
			return wire.Aside(start(symmetric...))
		}
	}
	for name, fault := range map[string]faulttpm.Fault{
		"a session without a key": substitute(0, 0x10),
		"one that could encrypt":  substitute(0, 6, 0, 128, 0, 0x43),
		"one, and the new one answers for it": func(_ context.Context, command []byte, send func() ([]byte, error)) ([]byte, error) {
			switch {
			case isPolicy(command):
				answer, err := send()
				if code(t, answer, err) != 0 {
					t.Fatalf("%x", answer)
				}
				real = bytes.Clone(answer[10:14])
				nonce := bytes.Clone(answer[14:])
				another, err := wire.Aside(start(0, 0x10))
				if code(t, another, err) != 0 {
					t.Fatalf("%x", another)
				}
				theirs = bytes.Clone(another[10:14])
				return slices.Concat(another[:14], nonce), nil
			case faulttpm.Code(command) == tpm2.TPMCCGetRandom:
				return wire.Aside(bytes.Replace(command, theirs, real, 1))
			case faulttpm.Code(command) == tpm2.TPMCCPolicySecret:
				answer, err := send()
				if code(t, answer, err) == 0 {
					t.Error("the owner consented in somebody else's session")
				}
				return answer, err
			}
			return send()
		},
	} {
		real = nil
		wire.Reset()
		wire.Inject(fault)
		err := unseal()
		wire.Inject(nil)
		if err == nil || real != nil && !errors.Is(err, provider.ErrIntegrity) || real == nil && wire.Count(tpm2.TPMCCPolicySecret) > 0 {
			t.Errorf("%s: %v, commands %x", name, err, wire.Codes())
		}
		if err := unseal(); err != nil {
			t.Errorf("after %s: %v", name, err)
		}
		if real != nil {
			flush := append([]byte{0x80, 0x01, 0, 0, 0, 14, 0, 0, 0x01, 0x65}, real...)
			if answer, err := wire.Aside(flush); code(t, answer, err) != 0 {
				t.Errorf("%x", answer)
			}
		}
		owner.Release()
	}
	if n := b.machine.Count(t).Sessions; n != 0 {
		t.Errorf("%d sessions are left", n)
	}
}
