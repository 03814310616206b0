package tests

import "testing"

// host compiles one of testdata's C programs, an application that loads the module.
func (m *machine) host(name string) string {
	m.t.Helper()
	m.run("gcc", "-std=gnu11", "-g", "-O1", "-Wall", "-Wextra", "-Werror", "-D_GNU_SOURCE", "-pthread", "-o", m.path(name), m.source(name+".c"), "-ldl")
	return m.path(name)
}

// runOver runs a C program over each of the ways to a token that has the keys "web" and "mail".
func runOver(t *testing.T, program string) {
	t.Helper()
	over(t, transports, func(t *testing.T, by transport) {
		m := newMachine(t, by.config)
		oneKey(m)
		m.tpm2p11("key", "create", "mail", "--use", "decrypt")
		before := m.tally()
		host := m.host(program)
		end := func() string { return "" }
		if by.prepare != nil {
			var env []string
			env, end = by.prepare(m)
			m.env = append(m.env, env...)
		}
		m.run(host, module)
		end()
		m.undisturbed(before, false)
	})
}

// A C application asks for lengths, gives too little room, and gets everything wrong that a C caller can. Nothing is written where it must not be.
func TestBuffersOfACApplication(t *testing.T) {
	t.Parallel()
	runOver(t, "buffers")
}

// Each function of the standard, with each argument wrong in each way, answers what the standard says; the table of functions tells which.
func TestConformance(t *testing.T) {
	t.Parallel()
	runOver(t, "conformance")
}

// A server signs and forks. Its children are told that Cryptoki is not initialised, at once; the server signs on.
func TestForkingServer(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	oneKey(m)
	m.run(m.host("fork"), module)
}

// Loading and unloading for a thousand times leaks nothing: not in the process, not in the TPM.
func TestAThousandLives(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	oneKey(m)
	before := m.tpm.Count(t)
	m.run(m.host("rounds"), module)
	if after := m.tpm.Count(t); after != before {
		t.Errorf("the TPM holds %v after, %v before", after, before)
	}
}
