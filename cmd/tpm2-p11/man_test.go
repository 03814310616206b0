package main

import (
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// The manual page has every verb and every flag of it, and nothing that man(7) would take for a request of its own.
func TestTheManualPageHasAllThatTheHelpsHave(t *testing.T) {
	t.Parallel()
	m := offline(t)
	page := m.run("man")
	plain := strings.ReplaceAll(page, `\-`, "-")
	var verbs func(*cobra.Command)
	verbs = func(c *cobra.Command) {
		if c.HasAvailableSubCommands() {
			for _, verb := range c.Commands() {
				if verb.Name() != "help" && verb.IsAvailableCommand() {
					verbs(verb)
				}
			}
			return
		}
		_, section, found := strings.Cut(plain, ".SS \""+strings.ReplaceAll(roff(c.UseLine()), `\-`, "-")+"\"\n")
		if !found {
			t.Errorf("%s is not in it", c.CommandPath())
			return
		}
		section, _, _ = strings.Cut(section, ".SS ")
		for _, line := range strings.Split(c.NonInheritedFlags().FlagUsages(), "\n") {
			if name := regexp.MustCompile(`--[a-z-]+`).FindString(line); name != "" && name != "--help" && !strings.Contains(section, name) {
				t.Errorf("%s %s is not in it", c.CommandPath(), name)
			}
		}
	}
	verbs(rootCommand(new(app)))
	macros := regexp.MustCompile(`^\.(TH|SH|SS|PP|TP|B|I|RI|nf|fi|EX|EE|UR|UE)\b`)
	for _, line := range strings.Split(page, "\n") {
		if (strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'")) && !macros.MatchString(line) {
			t.Errorf("man would not know %q", line)
		}
	}
	contains(t, "the page", page, `echo hello | tpm2\-p11 sign web \-\-out hello.sig`, ".SH EXIT STATUS")
}
