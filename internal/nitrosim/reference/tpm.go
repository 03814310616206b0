//go:build nitrosim

package reference

import (
	"errors"
	"fmt"

	"github.com/google/go-tpm-tools/simulator"
)

// ErrFailure is a TPM in failure mode: only a new process helps.
var ErrFailure = errors.New("the TPM is in failure mode")

var errEmpty = errors.New("an empty command")

const rcNVRange = 0x146

// TPM is the process's TPM. It is not safe for concurrent use.
type TPM struct{ simulator *simulator.Simulator }

// PowerOn gives the process's TPM, fresh from manufacture and after
// TPM2_Startup(CLEAR). It blocks while another one is on.
func PowerOn() (*TPM, error) {
	s, err := simulator.Get()
	if err != nil {
		return nil, fmt.Errorf("starting the TPM: %w", err)
	}
	return &TPM{s}, nil
}

// Transmit carries out a command that the reference implementation knows.
func (t *TPM) Transmit(command []byte) ([]byte, error) {
	if len(command) == 0 {
		return nil, errEmpty
	}
	if _, err := t.simulator.Write(command); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFailure, err)
	}
	response := make([]byte, maxResponse)
	n, err := t.simulator.Read(response)
	return response[:n], err
}

// Reset is a TPM Reset: an orderly shutdown, a power cycle and
// TPM2_Startup(CLEAR).
func (t *TPM) Reset() error { return t.simulator.Reset() }

// PowerOff ends the TPM and what is in it.
func (t *TPM) PowerOff() error { return t.simulator.Close() }
