package tests

import "encoding/json"

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
