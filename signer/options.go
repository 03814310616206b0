package signer

import (
	"log/slog"

	"github.com/tpm2-p11/tpm2-p11/config"
)

// Option changes how Open finds and opens a key.
type Option func(*options)

type options struct {
	config, tpm, store string
	socket             string
	pin                func() ([]byte, error)
	log                *slog.Logger
}

// WithConfig reads this configuration file instead of the standard places.
func WithConfig(path string) Option { return func(o *options) { o.config = path } }

// WithSocket uses the keys of the server at this socket, and no TPM. Without
// WithConfig no configuration is read then.
func WithSocket(path string) Option { return func(o *options) { o.socket = path } }

// WithTPM overrides the TPM's address. With it and without WithConfig no
// configuration is read: there is one token, at the default or given store.
func WithTPM(address string) Option { return func(o *options) { o.tpm = address } }

// WithStore overrides the store's folder. With it and without WithConfig no
// configuration is read: there is one token, on the default or given TPM.
func WithStore(dir string) Option { return func(o *options) { o.store = dir } }

// WithPIN gives the PIN when the token, or the key itself, asks for one. It is
// called at most once, by Open. The callback's slice is wiped after use. A
// pin-source in the key's URI goes before it.
func WithPIN(pin func() ([]byte, error)) Option { return func(o *options) { o.pin = pin } }

// WithLogger sets the log; default: none. Warnings are files of the store that
// cannot be used, when opening, and each use of the key that fails in the TPM.
func WithLogger(l *slog.Logger) Option { return func(o *options) { o.log = l } }

// configuration is what the options and the configuration file say together.
func (o options) configuration() (config.Config, error) {
	c := config.Default()
	if o.config != "" || o.tpm == "" && o.store == "" && o.socket == "" {
		var err error
		if c, err = config.Load(o.config); err != nil {
			return config.Config{}, err
		}
	}
	c, err := c.With(config.Override{TPM: o.tpm, Store: o.store})
	if err != nil {
		return config.Config{}, err
	}
	switch {
	case o.socket != "":
		c.Socket = o.socket
	case o.tpm != "" || o.store != "":
		c.Socket = "" // the program says where its keys are
	}
	c.Log = "off" // a library is quiet; WithLogger is the program's own
	return c, nil
}
