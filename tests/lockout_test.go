package tests

import (
	"encoding/json"
	"fmt"
)

// lockoutCounter is the TPM's count of failed authorisations, by the command.
func (m *machine) lockoutCounter() int {
	m.t.Helper()
	var state struct {
		Counter *int `json:"counter"`
	}
	if err := json.Unmarshal([]byte(m.tpm2p11("lockout", "show", "--json").stdout), &state); err != nil || state.Counter == nil {
		m.t.Fatalf("lockout show --json has no counter: %v", err)
	}
	return *state.Counter
}

// maxTries sets how many failed authorisations lock the TPM.
func (m *machine) maxTries(n int) {
	m.t.Helper()
	m.run("tpm2_dictionarylockout", "--setup-parameters", fmt.Sprintf("--max-tries=%d", n), "--recovery-time=3600", "--lockout-recovery-time=3600")
}
