package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/tpm2-p11/tpm2-p11/internal/trusted"
)

// Load reads a file; an empty path looks in the standard places ($TPM2_P11_CONF, $XDG_CONFIG_HOME, /etc) and gives the
// defaults when there is none. In a process with AT_SECURE the environment and the user's folders are ignored. There, and
// for root, the file must belong to root or the effective user and not be writable by others. Beside an error there is a Config with
// nothing but Log: what a file that is wrong elsewhere says of it, so that the error can be told there.
func Load(path string) (Config, error) { return thisProcess().load(path) }

// Default is the configuration without a file.
func Default() Config { return thisProcess().defaults() }

func (p process) load(path string) (Config, error) {
	if path != "" {
		return p.loadFile(path)
	}
	if path = p.env("TPM2_P11_CONF"); path != "" {
		c, err := p.loadFile(path)
		if err != nil {
			err = fmt.Errorf("$TPM2_P11_CONF: %w", err)
		}
		return c, err
	}
	for _, path := range p.places() {
		// A folder that is closed to us, like the home of a confined service, is not there for us.
		if _, err := os.Lstat(path); err != nil {
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.ENOTDIR) {
				continue
			}
			return Config{}, err
		}
		return p.loadFile(path)
	}
	return p.defaults(), nil
}

// places are where a configuration file is looked for when none is named.
func (p process) places() []string {
	system := filepath.Join(p.etc, "tpm2-p11", "tpm2-p11.conf")
	if folder := p.userFolder("XDG_CONFIG_HOME", ".config"); folder != "" {
		return []string{filepath.Join(folder, "tpm2-p11", "tpm2-p11.conf"), system}
	}
	return []string{system}
}

func (p process) loadFile(path string) (Config, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return Config{}, err
	}
	text, err := trusted.Read(path, trusted.MaxText, p.rules())
	if err != nil {
		return Config{}, err
	}
	return p.parse(path, text)
}

// rules refuse a file through which somebody else would rule a process with more rights than theirs.
func (p process) rules() trusted.Rules {
	if !p.secure && p.euid != 0 {
		return trusted.Rules{}
	}
	return trusted.Rules{Closed: trusted.NotWritable, Owned: true, NoFollow: p.secure}
}
