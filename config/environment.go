package config

import (
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
)

// variables are what is read from the environment: here, and on the way to AWS KMS.
var variables = []string{
	"TPM2_P11_CONF", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "HOME",
	"AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN",
	"AWS_EC2_METADATA_SERVICE_ENDPOINT", "AWS_EC2_METADATA_DISABLED",
	"HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR",
}

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

// Getenv is one of the variables that this project reads, as KeepEnvironment kept it; "" for any in a secure process.
func Getenv(name string) string { return thisProcess().env(name) }

// Environment lists, as NAME=VALUE, what another process needs to read the same configuration and to ask AWS as the same principal.
// It is empty in a secure process.
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
