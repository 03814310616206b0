package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxSize bounds a configuration file, in bytes.
const maxSize = 1 << 20

// Load reads a file; an empty path looks in the standard places ($TPM2_P11_CONF, $XDG_CONFIG_HOME, /etc) and gives the
// defaults when there is none. In a process with AT_SECURE the environment and the user's folders are ignored. There, and
// for root, the file must belong to root or the effective user and not be writable by others.
func Load(path string) (Config, error) { return thisProcess().load(path) }

func (p process) load(path string) (Config, error) {
	if path != "" {
		return p.loadFile(path)
	}
	if path = p.env("TPM2_P11_CONF"); path != "" {
		c, err := p.loadFile(path)
		if err != nil {
			return Config{}, fmt.Errorf("$TPM2_P11_CONF: %w", err)
		}
		return c, nil
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
	text, err := p.readFile(path)
	if err != nil {
		return Config{}, err
	}
	return p.parse(path, text)
}

func (p process) readFile(path string) ([]byte, error) {
	// Without O_NONBLOCK a named pipe would make the host wait.
	flags := os.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK
	if p.secure {
		flags |= unix.O_NOFOLLOW
	}
	f, err := os.OpenFile(path, flags, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if err := p.trust(info); err != nil {
		return nil, &Error{Path: path, Err: err}
	}
	text, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxSize {
		return nil, &Error{Path: path, Err: fmt.Errorf("larger than %d bytes", maxSize)}
	}
	return text, nil
}

// trust refuses a file through which somebody else would rule a process with more rights than theirs.
func (p process) trust(info fs.FileInfo) error {
	if !info.Mode().IsRegular() {
		return errors.New("not a regular file")
	}
	if !p.secure && p.euid != 0 {
		return nil
	}
	owner := info.Sys().(*syscall.Stat_t).Uid
	if owner != 0 && owner != uint32(p.euid) {
		return fmt.Errorf("belongs to user %d, who could rule this process: chown it to root", owner)
	}
	if mode := info.Mode().Perm(); mode&0o022 != 0 {
		return fmt.Errorf("can be written by others (mode %04o): chmod go-w it", mode)
	}
	return nil
}
