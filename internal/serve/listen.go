package serve

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// firstPassed is the descriptor at which systemd passes sockets (sd_listen_fds(3)).
const firstPassed = 3

// Listen gives the socket that systemd passed, or makes one at path. Its folder must be nobody else's to write to. Everybody may
// connect where others is set: who may use what is then decided by who they are.
func Listen(path string, others bool) (*net.UnixListener, error) {
	if isPassed() {
		return passed()
	}
	return makeSocket(path, others)
}

// isPassed tells that the socket, and its mode, are systemd's.
func isPassed() bool {
	return os.Getenv("LISTEN_PID") == strconv.Itoa(os.Getpid()) && os.Getenv("LISTEN_FDS") != ""
}

// Admit lets everybody connect to the socket that Listen made at path, or its own user alone: after a change of the configuration.
func Admit(path string, others bool) error {
	if isPassed() {
		return nil
	}
	mode := fs.FileMode(0o600)
	if others {
		mode = 0o666
	}
	return os.Chmod(path, mode)
}

func makeSocket(path string, others bool) (*net.UnixListener, error) {
	if err := checkFolder(filepath.Dir(path)); err != nil {
		return nil, err
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	// Nobody can connect before the mode is right.
	before := syscall.Umask(0o177)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	syscall.Umask(before)
	if err != nil {
		return nil, err
	}
	if others {
		if err := Admit(path, true); err != nil {
			l.Close()
			return nil, err
		}
	}
	return l, nil
}

func passed() (*net.UnixListener, error) {
	if n := os.Getenv("LISTEN_FDS"); n != "1" {
		return nil, fmt.Errorf("systemd passes %s sockets: one is served", n)
	}
	syscall.CloseOnExec(firstPassed)
	f := os.NewFile(firstPassed, "listener")
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("the socket that systemd passes: %w", err)
	}
	unixListener, ok := l.(*net.UnixListener)
	if !ok {
		l.Close()
		return nil, errors.New("the socket that systemd passes is no unix socket")
	}
	unixListener.SetUnlinkOnClose(false)
	return unixListener, nil
}

// checkFolder refuses a folder in which somebody else could put another socket, or in whose place another folder.
func checkFolder(folder string) error {
	if err := checkOwn(folder, 0); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the socket's folder: %w: make it, as root's or the server's user's (RuntimeDirectory= in a systemd unit)", err)
	} else if err != nil {
		return err
	}
	resolved, err := filepath.EvalSymlinks(folder)
	if err != nil {
		return err
	}
	for _, inner := range []string{folder, resolved} {
		for inner != filepath.Dir(inner) {
			inner = filepath.Dir(inner)
			// In a sticky folder nobody replaces what is another's.
			if err := checkOwn(inner, fs.ModeSticky); err != nil {
				return fmt.Errorf("around the socket's folder: %w", err)
			}
		}
	}
	return nil
}

// checkOwn refuses a folder that belongs to somebody else, and one that others may write to unless its mode has a bit.
func checkOwn(folder string, unless fs.FileMode) error {
	info, err := os.Stat(folder)
	if err != nil {
		return err
	}
	owner := info.Sys().(*syscall.Stat_t).Uid
	switch {
	case !info.IsDir():
		return fmt.Errorf("%s is no folder", folder)
	case owner != 0 && owner != uint32(os.Geteuid()):
		return fmt.Errorf("the folder %s belongs to user %d: chown it to root or to the server's user", folder, owner)
	case info.Mode().Perm()&0o022 != 0 && info.Mode()&unless == 0:
		return fmt.Errorf("the folder %s can be written by others (mode %04o): chmod go-w it", folder, info.Mode().Perm())
	}
	return nil
}

// removeStale removes a socket that nobody listens on any more.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s is there already, and is no socket", path)
	}
	conn, err := net.Dial("unix", path)
	switch {
	case err == nil:
		conn.Close()
		return fmt.Errorf("%s is served already", path)
	case !errors.Is(err, syscall.ECONNREFUSED): // EAGAIN, of a server that has many to take
		return fmt.Errorf("%s may be served already: %w", path, err)
	}
	return os.Remove(path)
}
