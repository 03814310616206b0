package promises

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/tpm2-p11/tpm2-p11/internal/faulttpm"
)

// What happens to the machine itself, by others who use its TPM.

// inject puts a fault on the wire.
func inject(w faulttpm.When, f faulttpm.Fault) func(*Machine) {
	return func(m *Machine) { m.Wire.Inject(w.Do(f)) }
}

func restart(m *Machine) { m.TPM.Restart(m.TB) }

// others runs TPM commands of another program, which leaves loaded what it loads.
func (m *Machine) others(work func(transport.TPM) error) {
	m.TB.Helper()
	m.TPM.Use(m.TB, work)
}

// later has done by End.
func (m *Machine) later(undo func()) { m.undo = append(m.undo, undo) }

// until repeats a command until the TPM refuses it with a response code, and gives how often it did not.
func until(code tpm2.TPMRC, command func(i int) error) (n int, err error) {
	for n = 0; n < 4096; n++ {
		if err := command(n); errors.Is(err, code) {
			return n, nil
		} else if err != nil {
			return n, err
		}
	}
	return n, errors.New("there is no end to the TPM's room")
}

// fillObjects loads public keys until no transient object has room.
func fillObjects(m *Machine) {
	var loaded []tpm2.TPMHandle
	m.others(func(t transport.TPM) error {
		_, err := until(tpm2.TPMRCObjectMemory, func(int) error {
			r, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHNull, InPublic: tpm2.New2B(tpm2.ECCSRKTemplate)}.Execute(t)
			if err == nil {
				loaded = append(loaded, r.ObjectHandle)
			}
			return err
		})
		return err
	})
	m.later(func() { m.flush(loaded) })
}

// startSession starts an HMAC session without salt, as many programs do.
func startSession(t transport.TPM) (tpm2.TPMHandle, error) {
	r, err := tpm2.StartAuthSession{
		TPMKey: tpm2.TPMRHNull, Bind: tpm2.TPMRHNull, NonceCaller: tpm2.TPM2BNonce{Buffer: make([]byte, 16)},
		SessionType: tpm2.TPMSEHMAC, Symmetric: tpm2.TPMTSymDef{Algorithm: tpm2.TPMAlgNull}, AuthHash: tpm2.TPMAlgSHA256,
	}.Execute(t)
	if err != nil {
		return 0, err
	}
	return tpm2.TPMHandle(r.SessionHandle), nil
}

// fillSessions starts sessions until none has room.
func fillSessions(m *Machine) {
	var started []tpm2.TPMHandle
	m.others(func(t transport.TPM) error {
		_, err := until(tpm2.TPMRCSessionMemory, func(int) error {
			h, err := startSession(t)
			if err == nil {
				started = append(started, h)
			}
			return err
		})
		return err
	})
	m.later(func() { m.flush(started) })
}

// fillHandles starts sessions and saves them, as a resource manager does, until there is no handle for another.
func fillHandles(m *Machine) {
	var started []tpm2.TPMHandle
	m.others(func(t transport.TPM) error {
		_, err := until(tpm2.TPMRCSessionHandles, func(int) error {
			h, err := startSession(t)
			if err != nil {
				return err
			}
			started = append(started, h)
			_, err = tpm2.ContextSave{SaveHandle: h}.Execute(t)
			return err
		})
		return err
	})
	m.later(func() { m.flush(started) })
}

func (m *Machine) flush(handles []tpm2.TPMHandle) {
	m.others(func(t transport.TPM) error {
		for _, h := range handles {
			if _, err := (tpm2.FlushContext{FlushHandle: h}).Execute(t); err != nil {
				return err
			}
		}
		return nil
	})
}

// fillNV makes an object persistent, at handles of another range than the product's, until none has room: emulators keep that
// room free of NV indices.
func fillNV(m *Machine) {
	const first = 0x81010000
	var object tpm2.NamedHandle
	var filled int
	m.others(func(t transport.TPM) error {
		r, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(tpm2.ECCSRKTemplate)}.Execute(t)
		if err != nil {
			return err
		}
		object = tpm2.NamedHandle{Handle: r.ObjectHandle, Name: r.Name}
		filled, err = until(tpm2.TPMRCNVSpace, func(i int) error { return evict(t, object, tpm2.TPMHandle(first+i)) })
		_, flushed := tpm2.FlushContext{FlushHandle: r.ObjectHandle}.Execute(t)
		return errors.Join(err, flushed)
	})
	m.later(func() {
		m.others(func(t transport.TPM) (err error) {
			for i := 0; i < filled && err == nil; i++ {
				h := tpm2.TPMHandle(first + i)
				err = evict(t, tpm2.NamedHandle{Handle: h, Name: object.Name}, h)
			}
			return err
		})
	})
}

// evict makes an object persistent, or takes a persistent one away.
func evict(t transport.TPM, object tpm2.NamedHandle, h tpm2.TPMHandle) error {
	_, err := tpm2.EvictControl{Auth: tpm2.TPMRHOwner, ObjectHandle: &object, PersistentHandle: h}.Execute(t)
	return err
}

// lockOut guesses at the auth value of an object of somebody else's until the TPM takes no more guesses.
func lockOut(m *Machine) {
	m.others(func(t transport.TPM) error {
		sealed, err := tpm2.CreatePrimary{
			PrimaryHandle: tpm2.TPMRHOwner,
			InSensitive: tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{
				UserAuth: tpm2.TPM2BAuth{Buffer: []byte("somebody's")},
				Data:     tpm2.NewTPMUSensitiveCreate(&tpm2.TPM2BSensitiveData{Buffer: []byte("data")}),
			}},
			InPublic: tpm2.New2B(tpm2.TPMTPublic{
				Type: tpm2.TPMAlgKeyedHash, NameAlg: tpm2.TPMAlgSHA256,
				ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, UserWithAuth: true},
			}),
		}.Execute(t)
		if err != nil {
			return err
		}
		_, err = until(tpm2.TPMRCLockout, func(int) error {
			_, err := tpm2.Unseal{ItemHandle: tpm2.AuthHandle{
				Handle: sealed.ObjectHandle, Name: sealed.Name, Auth: tpm2.PasswordAuth([]byte("a guess")),
			}}.Execute(t)
			if errors.Is(err, tpm2.TPMRCAuthFail) || errors.Is(err, tpm2.TPMRCRetry) {
				return nil
			}
			return err
		})
		_, flushed := tpm2.FlushContext{FlushHandle: sealed.ObjectHandle}.Execute(t)
		return errors.Join(err, flushed)
	})
}

// endLockout is TPM2_DictionaryAttackLockReset, which who has the lockout hierarchy's authorisation may do.
func endLockout(m *Machine) {
	m.others(func(t transport.TPM) error {
		answer, err := t.Send([]byte{0x80, 0x02, 0, 0, 0, 27, 0, 0, 0x01, 0x39, 0x40, 0, 0, 0x0A, 0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0})
		if err == nil && binary.BigEndian.Uint32(answer[6:]) != 0 {
			err = fmt.Errorf("response code %x", answer[6:10])
		}
		return err
	})
}

// clear is TPM2_Clear, which a new owner of the machine does.
func clear(m *Machine) {
	m.others(func(t transport.TPM) error {
		_, err := tpm2.Clear{AuthHandle: tpm2.TPMRHLockout}.Execute(t)
		return err
	})
}

// srkHandle is where storage root keys are.
const srkHandle tpm2.TPMHandle = 0x81000001

// replaceSRK puts a storage root key of its own in the place of the one that there was.
func replaceSRK(m *Machine) {
	m.others(func(t transport.TPM) error {
		public, err := tpm2.ReadPublic{ObjectHandle: srkHandle}.Execute(t)
		if err != nil {
			return err
		}
		if err := evict(t, tpm2.NamedHandle{Handle: srkHandle, Name: public.Name}, srkHandle); err != nil {
			return err
		}
		other, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(tpm2.ECCSRKTemplate)}.Execute(t)
		if err != nil {
			return err
		}
		err = evict(t, tpm2.NamedHandle{Handle: other.ObjectHandle, Name: other.Name}, srkHandle)
		_, flushed := tpm2.FlushContext{FlushHandle: other.ObjectHandle}.Execute(t)
		return errors.Join(err, flushed)
	})
}
