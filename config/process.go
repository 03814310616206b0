package config

import (
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// process is what a configuration depends on in the process that reads it.
type process struct {
	secure bool                // AT_SECURE: it has rights that its caller has not
	euid   int                 // effective user
	getenv func(string) string // asked through env only
	etc    string              // "/etc"
	state  string              // "/var/lib"
}

func thisProcess() process {
	return process{secure: secure(), euid: os.Geteuid(), getenv: getenv, etc: "/etc", state: "/var/lib"}
}

// secure tells a setuid, setgid or capability-bearing process as the dynamic linker does: by AT_SECURE (getauxval(3)).
// A process that cannot know counts as one.
func secure() bool {
	if os.Getuid() != os.Geteuid() || os.Getgid() != os.Getegid() {
		return true
	}
	const atSecure = 23
	auxv, err := unix.Auxv()
	if err != nil {
		return true
	}
	for _, entry := range auxv {
		if entry[0] == atSecure {
			return entry[1] != 0
		}
	}
	return true
}

// env is an environment variable, "" in a secure process.
func (p process) env(name string) string {
	if p.secure {
		return ""
	}
	return p.getenv(name)
}

// userFolder is one of the XDG base directories, "" when there is none. Relative ones do not count (XDG Base Directory
// Specification).
func (p process) userFolder(variable, underHome string) string {
	if folder := p.env(variable); filepath.IsAbs(folder) {
		return folder
	}
	if home := p.env("HOME"); filepath.IsAbs(home) {
		return filepath.Join(home, underHome)
	}
	return ""
}

// defaults is the configuration without a file.
func (p process) defaults() Config {
	return Config{
		Log:    "syslog",
		Verify: "rsa",
		Forked: "use",
		Limits: defaultLimits(),
		Tokens: []Token{{Store: p.defaultStore(), Approved: defaultApproved()}},
	}
}

// defaultApproved is where approved policies are looked for beside the store: a machine's own folder, and where systemd has
// the signatures of the image that was booted.
func defaultApproved() []string {
	return []string{
		"/etc/tpm2-p11/approved.d", "/etc/systemd/tpm2-pcr-signature.json",
		"/run/systemd/tpm2-pcr-signature.json", "/usr/lib/systemd/tpm2-pcr-signature.json",
	}
}

// defaultStore is the system's folder for root and for processes without a user's folder.
func (p process) defaultStore() string {
	if p.euid != 0 {
		if folder := p.userFolder("XDG_DATA_HOME", ".local/share"); folder != "" {
			return filepath.Join(folder, "tpm2-p11")
		}
	}
	return filepath.Join(p.state, "tpm2-p11")
}
