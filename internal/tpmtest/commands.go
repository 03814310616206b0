package tpmtest

import (
	"crypto"
	_ "crypto/sha1" // the banks' hashes, for Extend
	_ "crypto/sha256"
	_ "crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

var banks = map[string]struct {
	alg  tpm2.TPMAlgID
	hash crypto.Hash
}{
	"sha1":   {tpm2.TPMAlgSHA1, crypto.SHA1},
	"sha256": {tpm2.TPMAlgSHA256, crypto.SHA256},
	"sha384": {tpm2.TPMAlgSHA384, crypto.SHA384},
	"sha512": {tpm2.TPMAlgSHA512, crypto.SHA512},
}

// Extend extends one PCR of one bank ("sha1", "sha256", "sha384", "sha512") by
// the hash of an event.
func (p *TPM) Extend(t testing.TB, bank string, pcr uint, event []byte) {
	t.Helper()
	b, ok := banks[bank]
	if !ok {
		t.Fatalf("extending PCR %d: unknown bank %q", pcr, bank)
	}
	h := b.hash.New()
	h.Write(event)
	err := withClient(p.Socket(), func(c *client) error {
		_, err := tpm2.PCRExtend{
			PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(pcr), Auth: tpm2.PasswordAuth(nil)},
			Digests: tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{
				{HashAlg: b.alg, Digest: h.Sum(nil)},
			}},
		}.Execute(c)
		return err
	})
	if err != nil {
		t.Fatalf("extending PCR %d of %s: %v", pcr, bank, err)
	}
}

// SetClock sets the TPM's clock, in milliseconds, forward (TPM2_ClockSet, which
// the owner may).
func (p *TPM) SetClock(t testing.TB, to uint64) {
	t.Helper()
	command := []byte{0x80, 0x02, 0, 0, 0, 35, 0, 0, 0x01, 0x28, 0x40, 0, 0, 1, 0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0}
	p.send(t, "setting the TPM's clock", binary.BigEndian.AppendUint64(command, to))
}

// SetMaxTries sets how many wrong authorisations lock the TPM, of which it
// forgives one an hour (TPM2_DictionaryAttackParameters).
func (p *TPM) SetMaxTries(t testing.TB, n uint32) {
	t.Helper()
	command := []byte{0x80, 0x02, 0, 0, 0, 39, 0, 0, 0x01, 0x3a, 0x40, 0, 0, 0x0a, 0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0}
	for _, parameter := range []uint32{n, 3600, 3600} {
		command = binary.BigEndian.AppendUint32(command, parameter)
	}
	p.send(t, "setting the TPM's tries", command)
}

// send has the TPM carry out a command.
func (p *TPM) send(t testing.TB, what string, command []byte) {
	t.Helper()
	err := withClient(p.Socket(), func(c *client) error {
		answer, err := c.Send(command)
		if err == nil && binary.BigEndian.Uint32(answer[6:]) != 0 {
			err = fmt.Errorf("response code %x", answer[6:10])
		}
		return err
	})
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// Counts are the handles that live in a TPM.
type Counts struct{ Sessions, Transient, Persistent int }

// Count reads the TPM's counts of handles. Sessions are the loaded and the
// saved ones together.
func (p *TPM) Count(t testing.TB) Counts {
	t.Helper()
	c, err := p.count()
	if err != nil {
		t.Fatalf("counting the TPM's handles: %v", err)
	}
	return c
}

// count reads the counts, or says that somebody holds the TPM.
func (p *TPM) count() (Counts, error) {
	c, err := countAt(p.Socket())
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, syscall.EAGAIN) { // EAGAIN: the queue of clients is full
		err = fmt.Errorf("another client still holds the TPM (close it before): %w", err)
	}
	return c, err
}

// Kinds of handles, by the first of each.
const (
	loadedSessions tpm2.TPMHandle = 0x02000000 // TPM_HT_LOADED_SESSION
	savedSessions  tpm2.TPMHandle = 0x03000000 // TPM_HT_SAVED_SESSION
	transients     tpm2.TPMHandle = 0x80000000
	persistents    tpm2.TPMHandle = 0x81000000
)

func countAt(socket string) (n Counts, err error) {
	err = withClient(socket, func(c *client) error {
		for _, kind := range []struct {
			first tpm2.TPMHandle
			count *int
		}{
			{loadedSessions, &n.Sessions}, {savedSessions, &n.Sessions}, {transients, &n.Transient}, {persistents, &n.Persistent},
		} {
			handles, err := handlesOf(c, kind.first)
			if err != nil {
				return err
			}
			*kind.count += len(handles)
		}
		return nil
	})
	return n, err
}

// FailedTries is how many wrong authorisations the TPM has counted
// (TPM_PT_LOCKOUT_COUNTER).
func (p *TPM) FailedTries(t testing.TB) (n int) {
	t.Helper()
	err := withClient(p.Socket(), func(c *client) error {
		r, err := tpm2.GetCapability{Capability: tpm2.TPMCapTPMProperties, Property: uint32(tpm2.TPMPTLockoutCounter), PropertyCount: 1}.Execute(c)
		if err != nil {
			return err
		}
		properties, err := r.CapabilityData.Data.TPMProperties()
		if err == nil && len(properties.TPMProperty) != 1 {
			err = errors.New("it does not tell")
		}
		if err == nil {
			n = int(properties.TPMProperty[0].Value)
		}
		return err
	})
	if err != nil {
		t.Fatalf("the TPM's lockout counter: %v", err)
	}
	return n
}

func handlesOf(c *client, first tpm2.TPMHandle) ([]tpm2.TPMHandle, error) {
	r, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: uint32(first), PropertyCount: 254}.Execute(c)
	if err != nil {
		return nil, err
	}
	handles, err := r.CapabilityData.Data.Handles()
	if err != nil {
		return nil, err
	}
	return handles.Handle, nil
}

// Flush unloads what programs that were killed left loaded, as a resource manager would.
func (p *TPM) Flush(t testing.TB) {
	t.Helper()
	err := withClient(p.Socket(), func(c *client) error {
		for _, kind := range []tpm2.TPMHandle{loadedSessions, savedSessions, transients} {
			handles, err := handlesOf(c, kind)
			if err != nil {
				return err
			}
			for _, h := range handles {
				if _, err := (tpm2.FlushContext{FlushHandle: h}).Execute(c); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatalf("unloading what is in the TPM: %v", err)
	}
}

// Use runs commands of another program, which leaves loaded what it loads.
func (p *TPM) Use(t testing.TB, work func(transport.TPM) error) {
	t.Helper()
	if err := withClient(p.Socket(), func(c *client) error { return work(c) }); err != nil {
		t.Fatalf("another program's commands: %v", err)
	}
}
