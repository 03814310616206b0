package tests

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// transport is one of the ways from an application's calls to the TPM.
type transport struct {
	name   string
	config string // what the machine's configuration has besides
	// prepare makes ready what the application needs, and gives what its environment has besides. What it logs is added to log.
	prepare func(m *machine) (env []string, log func() string)
}

var transports = []transport{
	{name: "in process"},
	{name: "forked", config: "forked = \"all\"\n", prepare: forkFirst},
	through("sign", "decrypt", "unwrap", "manage"),
}

// forkFirst makes the application a forked child, which a helper serves.
func forkFirst(m *machine) (env []string, log func() string) {
	m.t.Helper()
	m.run("gcc", "-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-D_GNU_SOURCE", "-shared", "-fPIC", "-o", m.path("forkfirst.so"), m.source("forkfirst.c"), "-ldl")
	m.t.Cleanup(func() { m.killHelpers(true) })
	return []string{"LD_PRELOAD=" + m.path("forkfirst.so"), "FORK_FIRST=" + module}, func() string {
		m.helpersEnd()
		return ""
	}
}

// through serves the application by a service that lets it use the token for some purposes. All others keep the machine's own configuration.
func through(purposes ...string) transport {
	return transport{name: "socket", prepare: func(m *machine) (env []string, log func() string) {
		return serveBy(m, new(*service), purposes...)
	}}
}

// serveBy starts a service for an application, and gives it.
func serveBy(m *machine, by **service, purposes ...string) (env []string, log func() string) {
	m.t.Helper()
	conf := string(m.read("tpm2-p11.conf"))
	m.write("server.conf", conf+fmt.Sprintf("\n[[access]]\nusers = [\"%d\"]\npurposes = [\"%s\"]\n", os.Geteuid(), strings.Join(purposes, `", "`)))
	m.write("client.conf", fmt.Sprintf("socket = %q\nlog = \"stderr\"\n", m.path("socket")))
	s := &service{machine: m}
	*by = s
	s.begin()
	m.t.Cleanup(s.end)
	return []string{"TPM2_P11_CONF=" + m.path("client.conf")}, func() string {
		s.end()
		return s.log.String()
	}
}

// over runs the rest of a test over each transport.
func over(t *testing.T, ways []transport, run func(t *testing.T, by transport)) {
	t.Helper()
	for _, by := range ways {
		t.Run(by.name, func(t *testing.T) {
			t.Parallel()
			run(t, by)
		})
	}
}
