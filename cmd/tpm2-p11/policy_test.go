package main

import (
	"strings"
	"testing"
)

// On a build machine, without a TPM, a policy is read, explained and hashed.
func TestAPolicyIsExplainedAndHashedWithoutATPM(t *testing.T) {
	t.Parallel()
	m := offline(t)
	m.write("web.toml", `hash = "sha256"
[policy]
all = [
  { any = [ { pcr = { bank = "sha256", "7" = "`+strings.Repeat("ab", 32)+`" } }, { pin = true } ] },
  { clock = { before = 86400000 } },
]
`)
	want := "all of:\n  one of:\n    sha256 PCR 7 is " + strings.Repeat("ab", 32) +
		"\n    the PIN is given\n  the TPM's clock, which runs while it has power, has not reached 86400000 ms\n"
	if got := m.run("policy", "show", "@web.toml"); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	if got := m.run("policy", "digest", "@web.toml"); len(got) != 65 {
		t.Errorf("digest: %q", got)
	}
	m.write("bad.toml", "all = [\n  { pin = true },\n  { pim = true },\n]\n")
	m.refused(exitFailed, "bad.toml:3: ", "", "policy", "show", "@bad.toml")
	m.write("now.toml", "pcr = { bank = \"sha256\", indices = [7] }\n")
	m.refused(exitFailed, "asks for current values", "", "policy", "digest", "@now.toml")
}
