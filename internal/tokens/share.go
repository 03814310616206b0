package tokens

import (
	"context"
	"errors"
	"log/slog"
	"slices"

	"github.com/tpm2-p11/tpm2-p11/config"
	"github.com/tpm2-p11/tpm2-p11/keystore"
	"github.com/tpm2-p11/tpm2-p11/provider"
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

// Next opens the tokens of another configuration while these may be in use still. A TPM that both use in the same way is one, with its
// queue, and closed with these tokens alone. One that they use in different ways is let go often from now on, since it may have one user at
// a time.
func (s *Set) Next(c config.Config, more ...provider.Option) (*Set, error) {
	var both []*provider.TPM
	next, err := openWith(c, more, func(address string) *provider.TPM {
		i := slices.IndexFunc(s.Config.Tokens, func(t config.Token) bool { return t.TPM == address })
		switch {
		case i < 0:
			return nil
		case alike(s.Config, c, address):
			return s.Tokens[i].TPM()
		}
		both = append(both, s.Tokens[i].TPM())
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, t := range both {
		t.TakeTurns()
		for _, its := range next.tpms {
			if its.String() == t.String() {
				its.TakeTurns()
			}
		}
	}
	return next, nil
}

// alike tells whether two configurations use a TPM in the same way. Where they name files with authorisations, these may have changed.
func alike(one, other config.Config, address string) bool {
	named := func(t config.Token) bool {
		return t.TPM == address && (t.OwnerAuthFile != "" || t.EndorsementAuthFile != "")
	}
	return one.Log == other.Log && one.Debug == other.Debug && one.Verify == other.Verify &&
		!slices.ContainsFunc(one.Tokens, named) && !slices.ContainsFunc(other.Tokens, named)
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
