package p11

// SeedRandom is C_SeedRandom. The TPM's generator takes no seed from applications.
func (m *Module) SeedRandom(h SessionHandle, seed []byte) error {
	if _, err := m.session(h); err != nil {
		return err
	}
	return CKR_RANDOM_SEED_NOT_SUPPORTED
}

// GenerateRandom is C_GenerateRandom: n bytes of the TPM's generator, of which Dispatch takes no more than fit into a message.
func (m *Module) GenerateRandom(h SessionHandle, n uint64) (random []byte, err error) {
	s, err := m.session(h)
	if err != nil {
		return nil, err
	}
	defer s.lib.report("C_GenerateRandom", &err)
	if n == 0 {
		return nil, nil
	}
	return s.slot.token.TPM().Random(s.lib.ctx, int(n))
}
