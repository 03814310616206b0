// Package tokens opens what a configuration describes: a TPM for each address, a token for each store, and the log; and
// finds keys in it by the names that people give them.
package tokens

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"

	"github.com/tpm2-p11/tpm2-p11/config"
	"github.com/tpm2-p11/tpm2-p11/internal/secret"
	"github.com/tpm2-p11/tpm2-p11/keystore"
	"github.com/tpm2-p11/tpm2-p11/provider"
	"github.com/tpm2-p11/tpm2-p11/provider/transport"
)

// Set is a configuration's tokens, in its order. Nothing touches a TPM before it is used. Safe for concurrent use.
type Set struct {
	Config config.Config
	Tokens []*keystore.Token
	Logger *slog.Logger

	tpms  []*provider.TPM // that it opened
	auths []*secret.Bytes // of hierarchies
}

// Open opens a configuration's tokens, in whatever state their stores are (keystore.Token.Check). Those with one TPM address share its queue and connection, and
// each pins an SRK of its own (provider.TPM.Share).
//
// An owner_auth_file or endorsement_auth_file that this process may not read is passed over: few uses need it, and
// they fail with provider.ErrHierarchyAuth then. More options are for every TPM.
func Open(c config.Config, more ...provider.Option) (*Set, error) {
	return openWith(c, more, func(string) *provider.TPM { return nil })
}

// openWith takes the TPMs that shared gives, and opens those that it does not.
func openWith(c config.Config, more []provider.Option, shared func(address string) *provider.TPM) (*Set, error) {
	s := &Set{Config: c, Logger: newLogger(c.Log, c.Debug)}
	tpms := make(map[string]*provider.TPM)
	for _, t := range c.Tokens {
		tpm := tpms[t.TPM]
		if tpm == nil {
			tpm = shared(t.TPM)
		}
		if tpm == nil {
			var err error
			if tpm, err = s.openTPM(t.TPM, more); err != nil {
				line := t.Line
				if errors.Is(err, transport.ErrAddress) {
					line = t.TPMLine
				}
				return nil, errors.Join(s.errorf(line, "%w", err), s.Close())
			}
		}
		tpms[t.TPM] = tpm
		token, err := keystore.Open(s.options(t, tpm))
		if err != nil {
			return nil, errors.Join(err, s.Close())
		}
		s.Tokens = append(s.Tokens, token)
	}
	return s, nil
}

// Check tells why Open would refuse a configuration that can be read: a TPM's address that is none, say. It writes no log.
func Check(c config.Config) error {
	c.Log = "off"
	s, err := Open(c)
	if err != nil {
		return err
	}
	return s.Close()
}

func (s *Set) options(t config.Token, tpm *provider.TPM) keystore.Options {
	return keystore.Options{Dir: t.Store, TPM: tpm, Logger: s.Logger, Policy: t.Policy, Approved: t.Approved}
}

func (s *Set) openTPM(address string, more []provider.Option) (*provider.TPM, error) {
	dialer, err := transport.Parse(address)
	if err != nil {
		return nil, err
	}
	options := []provider.Option{provider.WithLogger(s.Logger), provider.WithVerify(provider.Verify(s.Config.Verify))}
	// Tokens of one TPM that name a file name the same one.
	files := make(map[string]string)
	for _, t := range s.Config.Tokens {
		if t.TPM == address {
			files["owner"] = cmp.Or(files["owner"], t.OwnerAuthFile)
			files["endorsement"] = cmp.Or(files["endorsement"], t.EndorsementAuthFile)
		}
	}
	for hierarchy, with := range map[string]func(*secret.Bytes) provider.Option{"owner": provider.WithOwnerAuth, "endorsement": provider.WithEndorsementAuth} {
		if files[hierarchy] == "" {
			continue
		}
		auth, err := readHierarchyAuth(hierarchy, files[hierarchy], s.Logger)
		if err != nil {
			return nil, err
		}
		s.auths = append(s.auths, auth)
		options = append(options, with(auth))
	}
	tpm := provider.New(dialer, append(options, more...)...)
	s.tpms = append(s.tpms, tpm)
	return tpm, nil
}

// Release lets go of the TPMs that nothing uses now, for all tokens that share them; the next use opens them again.
func (s *Set) Release() {
	for _, t := range s.tpms {
		t.Release()
	}
}

// Close logs every token out and closes the TPMs. The Set is of no use afterwards; closing it again does nothing.
func (s *Set) Close() error {
	var failed []error
	for _, t := range s.Tokens {
		t.Logout()
	}
	for _, t := range s.tpms {
		failed = append(failed, t.Close())
	}
	for _, a := range s.auths {
		a.Wipe()
	}
	return errors.Join(failed...)
}

// errorf is an error about a line of the configuration; without a file it stands alone.
func (s *Set) errorf(line int, format string, arguments ...any) error {
	err := fmt.Errorf(format, arguments...)
	if s.Config.Path == "" {
		return err
	}
	return &config.Error{Path: s.Config.Path, Line: line, Err: err}
}
