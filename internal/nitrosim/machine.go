package nitrosim

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/tpm2-p11/tpm2-p11/internal/nitrosim/nsm"
)

// Hardware is the TPM itself (package reference).
type Hardware interface {
	// Transmit carries out a command.
	Transmit(command []byte) (response []byte, err error)
	// Attest carries out the attestation command: answer gets the data of the
	// command's NV index and gives what is written at its start.
	Attest(command []byte, answer func(index []byte) []byte) (response []byte, err error)
	// Reset is a power cycle and TPM2_Startup(CLEAR).
	Reset() error
}

// Options say what is emulated.
type Options struct {
	Authority *nsm.Authority   // signs the documents
	Now       func() time.Time // the documents' clock
	Latency   time.Duration    // added to every command
	Measured  bool             // PCRs as a firmware leaves them, not as a power cycle does
	Unlisted  bool             // TPM2_GetCapability does not list the attestation command
}

// Machine is the TPM of the emulated instance, for one user at a time.
type Machine struct {
	hardware Hardware
	Options
}

// New boots a machine whose TPM is started up. It needs the SHA-384 bank.
func New(h Hardware, o Options) (*Machine, error) {
	m := &Machine{h, o}
	if _, err := m.pcrs(); err != nil {
		return nil, fmt.Errorf("reading the SHA-384 bank of PCRs, which documents state: %w", err)
	}
	return m, m.measure()
}

// Reset boots the machine again.
func (m *Machine) Reset() error {
	if err := m.hardware.Reset(); err != nil {
		return err
	}
	return m.measure()
}

const (
	ccGetCapability = 0x17a
	headerSize      = 10
)

// Transmit carries out a command.
func (m *Machine) Transmit(command []byte) ([]byte, error) {
	time.Sleep(m.Latency)
	if len(command) < headerSize {
		return m.hardware.Transmit(command)
	}
	switch binary.BigEndian.Uint32(command[6:]) {
	case CCAttest:
		return m.attest(command)
	case ccGetCapability:
		response, err := m.hardware.Transmit(command)
		if err == nil && !m.Unlisted {
			response = listAttest(command, response)
		}
		return response, err
	}
	return m.hardware.Transmit(command)
}

func (m *Machine) attest(command []byte) ([]byte, error) {
	pcrs, err := m.pcrs()
	if err != nil {
		return nil, err
	}
	now := m.Now()
	if err := m.Authority.Renew(now); err != nil {
		return nil, err
	}
	return m.hardware.Attest(command, func(index []byte) []byte {
		return m.Authority.Answer(index, pcrs, now)
	})
}
