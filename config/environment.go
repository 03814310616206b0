package config

import (
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
)

// variables are what this package reads from the environment.
var variables = []string{"TPM2_P11_CONF", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "HOME"}

// kept is the environment of KeepEnvironment.
var kept atomic.Pointer[map[string]string]

// KeepEnvironment makes what the environment says now hold for the process's life. A library needs it: servers overwrite the
// memory of their environment to show a title there.
func KeepEnvironment() {
	values := make(map[string]string)
	for _, name := range variables {
		if value, ok := os.LookupEnv(name); ok {
			values[name] = strings.Clone(value)
		}
	}
	kept.Store(&values)
}

// Environment lists, as NAME=VALUE, what another process needs to read the same configuration. It is empty in a secure process.
func Environment() []string {
	p := thisProcess()
	var list []string
	for _, name := range variables {
		value := p.env(name)
		if value == "" {
			continue
		}
		// The other process may have another current folder.
		if absolute, err := filepath.Abs(value); name == "TPM2_P11_CONF" && err == nil {
			value = absolute
		}
		list = append(list, name+"="+value)
	}
	return list
}

func getenv(name string) string {
	if values := kept.Load(); values != nil {
		return (*values)[name]
	}
	return os.Getenv(name)
}
