package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// manCommand is a verb for who makes packages, and for make install.
func manCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "man",
		Short:   "Print the manual page",
		Long:    "man prints tpm2-p11(1), in man's own form.",
		Example: "  tpm2-p11 man >tpm2-p11.1",
		Hidden:  true,
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var page strings.Builder
			manual(&page, cmd.Root())
			_, err := io.WriteString(a.out, page.String())
			return err
		},
	}
}

// manual writes tpm2-p11(1) for man(7): what the helps of all verbs say, one after another.
func manual(w *strings.Builder, root *cobra.Command) {
	fmt.Fprintf(w, ".TH TPM2-P11 1 \"\" \"tpm2-p11 %s\" \"User Commands\"\n", roff(thisVersion().Version))
	fmt.Fprintf(w, ".SH NAME\ntpm2-p11 \\- %s\n.SH SYNOPSIS\n.B tpm2-p11\n.I verb\n.RI [ flags ]\n.SH DESCRIPTION\n", roff(strings.ToLower(root.Short[:1])+root.Short[1:]))
	manText(w, root.Long)
	manExample(w, root.Example)
	w.WriteString(".SH FLAGS OF ALL VERBS\n")
	manFlags(w, root.PersistentFlags())
	w.WriteString(".SH VERBS\n")
	manVerbs(w, root)
	w.WriteString(".SH EXIT STATUS\n0 when it succeeded, 1 when it failed, 2 when it was called in a wrong way.\n")
	w.WriteString(".SH FILES\n")
	for _, f := range [][2]string{
		{"$TPM2_P11_CONF, $XDG_CONFIG_HOME/tpm2-p11/tpm2-p11.conf, /etc/tpm2-p11/tpm2-p11.conf", "The configuration: the first one found. The installed sample says what may be in it."},
		{"/var/lib/tpm2-p11, $XDG_DATA_HOME/tpm2-p11", "The store, of root and of others."},
	} {
		fmt.Fprintf(w, ".TP\n%s\n%s\n", roff(f[0]), roff(f[1]))
	}
	w.WriteString(".SH SEE ALSO\n.UR https://github.com/tpm2-p11/tpm2-p11\n.UE\n")
}

// manVerbs writes the verbs below a command.
func manVerbs(w *strings.Builder, c *cobra.Command) {
	for _, verb := range c.Commands() {
		switch {
		case !verb.IsAvailableCommand() || verb.Name() == "help" || verb.Name() == "completion":
		case verb.HasAvailableSubCommands():
			manVerbs(w, verb)
		default:
			fmt.Fprintf(w, ".SS \"%s\"\n", roff(verb.UseLine()))
			text := verb.Long
			if text == "" {
				text = verb.Short + "."
			}
			manText(w, text)
			manFlags(w, verb.NonInheritedFlags())
			manExample(w, verb.Example)
		}
	}
}

// manText writes paragraphs. Those with indented lines are set as they stand.
func manText(w *strings.Builder, text string) {
	for _, paragraph := range strings.Split(text, "\n\n") {
		w.WriteString(".PP\n")
		if strings.Contains("\n"+paragraph, "\n ") {
			fmt.Fprintf(w, ".nf\n%s\n.fi\n", roff(paragraph))
		} else {
			w.WriteString(roff(paragraph) + "\n")
		}
	}
}

func manExample(w *strings.Builder, text string) {
	if text != "" {
		fmt.Fprintf(w, ".PP\n.EX\n%s\n.EE\n", roff(text))
	}
}

func manFlags(w *strings.Builder, flags *pflag.FlagSet) {
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		value, usage := pflag.UnquoteUsage(f)
		name := "--" + f.Name
		if f.Shorthand != "" {
			name = "-" + f.Shorthand + ", " + name
		}
		fmt.Fprintf(w, ".TP\n\\fB%s\\fR", roff(name))
		if value != "" {
			fmt.Fprintf(w, " \\fI%s\\fR", roff(value))
		}
		fmt.Fprintf(w, "\n%s", roff(usage))
		if f.DefValue != "" && f.Value.Type() == "string" {
			fmt.Fprintf(w, " (default %s)", roff(f.DefValue))
		}
		w.WriteString("\n")
	})
}

// roff is a text that man(7) takes as it is, in ASCII.
func roff(text string) string {
	var b strings.Builder
	begins := true // a line
	for _, r := range text {
		switch {
		case begins && (r == '.' || r == '\''):
			fmt.Fprintf(&b, `\&%c`, r)
		case r == '\\':
			b.WriteString(`\e`)
		case r == '-':
			b.WriteString(`\-`)
		case r == '`' || r == '"' || r > '~':
			fmt.Fprintf(&b, `\[u%04X]`, r)
		default:
			b.WriteRune(r)
		}
		begins = r == '\n'
	}
	return b.String()
}
