package serve

import (
	"log/slog"
	"reflect"
	"sync"

	"github.com/tpm2-p11/tpm2-p11/config"
	"github.com/tpm2-p11/tpm2-p11/internal/tokens"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// Source opens the configuration's tokens for one client after another. They share TPMs, with their queues, and nothing else. A
// configuration that changed holds for the clients that come after the change. Safe for concurrent use.
type Source struct {
	load    func() (config.Config, error)
	shared  bool
	options []provider.Option

	mu      sync.Mutex
	current *tokens.Set
	past    []*tokens.Set // of configurations that clients may still use
}

// NewSource reads the configuration by load, each time anew. shared tells that another process uses the same TPMs. Options are for
// every TPM.
func NewSource(load func() (config.Config, error), shared bool, options ...provider.Option) *Source {
	return &Source{load: load, shared: shared, options: options}
}

// OpenFor gives a function that gives the tokens as one client has them, with a log that is made of the configuration's. Closing them is
// the client's affair.
func (s *Source) OpenFor(logger func(*slog.Logger) *slog.Logger) func() (*tokens.Set, error) {
	return func() (*tokens.Set, error) { return s.open(logger) }
}

func (s *Source) open(logger func(*slog.Logger) *slog.Logger) (*tokens.Set, error) {
	c, err := s.load()
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == nil || !reflect.DeepEqual(s.current.Config, c) {
		open := tokens.Open
		if s.current != nil {
			open = s.current.Next
		}
		set, err := open(c, s.options...)
		if err != nil {
			return nil, err
		}
		if s.current != nil {
			s.past = append(s.past, s.current)
		}
		if s.shared {
			set.TakeTurns()
		}
		s.current = set
	}
	return s.current.Again(logger(s.current.Logger))
}

// Close closes the TPMs.
func (s *Source) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, set := range append(s.past, s.current) {
		if set != nil {
			_ = set.Close()
		}
	}
	s.past, s.current = nil, nil
}
