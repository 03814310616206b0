package tokens

import (
	"context"
	"errors"
	"log/slog"

	"github.com/tpm2-p11/tpm2-p11/config"
	"github.com/tpm2-p11/tpm2-p11/keystore"
)

// Again opens the same tokens for another application: logins and log are its own, TPMs and their queues are shared. Closing what it
// gives closes no TPM.
func (s *Set) Again(log *slog.Logger) (*Set, error) {
	again := &Set{Config: s.Config, Logger: log}
	for i, t := range s.Tokens {
		token, err := keystore.Open(again.options(s.Config.Tokens[i], t.TPM()))
		if err != nil {
			return nil, errors.Join(err, again.Close())
		}
		again.Tokens = append(again.Tokens, token)
	}
	return again, nil
}

// TakeTurns makes the TPMs be let go often, since another process uses them too.
func (s *Set) TakeTurns() {
	for _, t := range s.tpms {
		t.TakeTurns()
	}
}

// Hold lets go of the TPMs and keeps every operation waiting until resume is called. Running operations end first; a TPM that is
// still busy when ctx ends stays in use.
func (s *Set) Hold(ctx context.Context) (resume func()) {
	var held []func()
	for _, t := range s.tpms {
		leave, err := t.Hold(ctx)
		if err != nil {
			s.Logger.Warn("a TPM is in use over a fork", "tpm", t.String(), "reason", err.Error())
			continue
		}
		held = append(held, leave)
	}
	return func() {
		for _, leave := range held {
			leave()
		}
	}
}

// NewLogger is the log that a configuration asks for.
func NewLogger(c config.Config) *slog.Logger { return newLogger(c.Log, c.Debug) }
