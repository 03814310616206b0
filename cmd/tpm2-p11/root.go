package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

func rootCommand(a *app) *cobra.Command {
	var version bool
	root := &cobra.Command{
		Use:   "tpm2-p11",
		Short: "Private keys that never leave a TPM 2.0",
		Long: `tpm2-p11 makes and uses private keys inside a TPM 2.0.

The same keys are used by the PKCS#11 module tpm2-p11.so and by the Go package signer.
Wherever a KEY is named, its label, its CKA_ID in hex, its persistent handle (0x81000100)
or a PKCS#11 URI (pkcs11:token=…;object=…) will do.`,
		Example: `  tpm2-p11 init --no-pin
  tpm2-p11 key create web --pcr sha256:0,1,2,7
  echo hello | tpm2-p11 sign web --out hello.sig`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          noVerb,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if version {
				return a.printVersion()
			}
			return cmd.Help()
		},
	}
	root.Flags().BoolVar(&version, "version", false, "print the version")
	root.SetFlagErrorFunc(verbBeforeFlags)
	f := root.PersistentFlags()
	f.StringVar(&a.global.config, "config", "", "configuration `FILE` instead of the standard places")
	f.StringVar(&a.global.tpm, "tpm", "", "`ADDRESS` of the TPM: device:/dev/tpmrm0, swtpm:path=…, mssim:host=…,port=…")
	f.StringVar(&a.global.store, "store", "", "the store's `FOLDER`")
	f.StringVar(&a.global.token, "token", "", "`LABEL` of the token, where the configuration has several")
	f.BoolVar(&a.global.json, "json", false, "print one JSON object")
	f.BoolVarP(&a.global.verbose, "verbose", "v", false, "log to standard error what is done")
	root.AddCommand(
		initCommand(a), keyCommand(a), handlesCommand(a), pinCommand(a), lockoutCommand(a), pcrCommand(a), policyCommand(a),
		sealCommand(a), unsealCommand(a), signCommand(a), verifyCommand(a), decryptCommand(a), attestCommand(a), kmsCommand(a),
		serveCommand(a), doctorCommand(a), versionCommand(a), manCommand(a),
	)
	cobra.CheckErr(root.RegisterFlagCompletionFunc("token", a.completeTokens))
	return root
}

// addCompletion adds cobra's verb, which would show its help for a shell that it does not know. It writes where root does now.
func addCompletion(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		if c.Name() == "completion" {
			c.Args, c.RunE = noVerb, missingVerb
		}
	}
}

// group is a command that only holds verbs.
func group(use, short string, verbs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{
		Use: use, Short: short, Args: noVerb,
		RunE: missingVerb,
	}
	c.AddCommand(verbs...)
	return c
}

func missingVerb(cmd *cobra.Command, _ []string) error {
	return fmt.Errorf("the verb is missing: there is %s", strings.Join(verbNames(cmd), ", "))
}

func verbNames(cmd *cobra.Command) []string {
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	return names
}

// noVerb refuses what is not a verb of cmd.
func noVerb(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%q is no verb: there is %s", args[0], strings.Join(verbNames(cmd), ", "))
	}
	return nil
}

// verbBeforeFlags says of a flag that is not known which verb is not, where that comes first.
func verbBeforeFlags(cmd *cobra.Command, err error) error {
	if words := cmd.Flags().Args(); cmd.HasSubCommands() && len(words) > 0 {
		return noVerb(cmd, words)
	}
	return err
}

// exactly wants the named arguments.
func exactly(names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) < len(names) {
			return fmt.Errorf("%s is missing", names[len(args)])
		}
		if len(args) > len(names) {
			return fmt.Errorf("argument %q is one too many", args[len(names)])
		}
		return nil
	}
}
