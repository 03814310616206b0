//go:build nitrosim

// Command nitro-sim is an attestable EC2 instance's TPM on a laptop, and the KMS
// that believes it.
package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/tpm2-p11/tpm2-p11/internal/version"
)

func main() {
	root := runCommand()
	root.Version = version.Version
	root.AddCommand(kmsCommand(), statsCommand(), extendCommand(), resetCommand())
	root.CompletionOptions.DisableDefaultCmd = true
	root.SilenceErrors, root.SilenceUsage = true, true
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	if err := root.Execute(); err != nil {
		fmt.Fprintln(os.Stderr, "nitro-sim:", err)
		if _, is := err.(usageError); is {
			os.Exit(2)
		}
		os.Exit(1)
	}
}

// arguments wants n of them.
func arguments(n int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if err := cobra.ExactArgs(n)(c, args); err != nil {
			return usageError{err}
		}
		return nil
	}
}

// usageError is a command that was given wrong; the exit code is 2.
type usageError struct{ error }
