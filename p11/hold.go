package p11

import "context"

// TakeTurns makes the TPMs be let go often, since another process uses them too.
func (m *Module) TakeTurns() {
	if l, err := m.library(); err == nil {
		l.set.TakeTurns()
	}
}

// Hold lets go of the TPMs and keeps every operation waiting until resume is called; see tokens.Set.Hold.
func (m *Module) Hold(ctx context.Context) (resume func()) {
	l, err := m.library()
	if err != nil {
		return func() {}
	}
	return l.set.Hold(ctx)
}
