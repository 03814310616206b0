package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tpm2-p11/tpm2-p11/config"
	"github.com/tpm2-p11/tpm2-p11/internal/tokens"
	"github.com/tpm2-p11/tpm2-p11/keystore"
	"github.com/tpm2-p11/tpm2-p11/provider"
	"github.com/tpm2-p11/tpm2-p11/provider/transport"
)

// app is one run of the command: its streams, its global flags and what was opened for it.
type app struct {
	in       io.Reader
	out, err io.Writer
	ask      func() (terminal, error) // opens the terminal that prompts go to

	global  globalFlags
	loaded  config.Config // as the file has it, without the flags
	set     *tokens.Set   // nil until a verb needs it
	started bool          // a verb's body was reached: errors are no longer about usage
	stdin   string        // which flag reads standard input, "" for none
}

type globalFlags struct {
	config, tpm, store, token string
	json, verbose             bool
}

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

func (a *app) run(ctx context.Context, args []string) int {
	root := rootCommand(a)
	root.SetArgs(args)
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	addCompletion(root)
	cmd, err := root.ExecuteContextC(ctx)
	if errors.Is(err, provider.ErrAuth) {
		err = a.countTries(ctx, err)
	}
	if a.set != nil {
		err = errors.Join(err, a.set.Close())
	}
	if err == nil {
		return exitOK
	}
	if !a.started {
		err = usageError{err}
	}
	a.report(cmd, args, err)
	if a.loaded.Socket != "" && (errors.Is(err, provider.ErrUnavailable) || errors.Is(err, keystore.ErrNotInitialized) || errors.Is(err, fs.ErrPermission)) {
		a.note("the configuration's socket is for the module and Go programs: this command asks the TPM itself, and is at home where the service runs")
	}
	if errors.As(err, new(usageError)) {
		return exitUsage
	}
	return exitFailed
}

// verb adapts a verb's body to cobra.
func (a *app) verb(body func(ctx context.Context, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		a.started = true
		return body(cmd.Context(), args)
	}
}

// open reads the configuration and opens its tokens, once.
func (a *app) open() (*tokens.Set, error) {
	if a.set != nil {
		return a.set, nil
	}
	c, err := a.configuration()
	if err != nil {
		return nil, err
	}
	set, err := tokens.Open(c)
	if err != nil {
		return nil, err
	}
	a.set = set
	return set, nil
}

// configuration is what the file says and the global flags lay over it.
func (a *app) configuration() (config.Config, error) {
	c, err := config.Load(a.global.config)
	if a.global.config != "" && errors.Is(err, fs.ErrNotExist) {
		return c, withHint(err, "name another file, or leave out --config: no configuration is needed")
	}
	if a.global.config == "" && os.Getenv("TPM2_P11_CONF") != "" && errors.Is(err, fs.ErrNotExist) {
		return c, withHint(err, "set TPM2_P11_CONF to another file, or unset it: no configuration is needed")
	}
	if err != nil {
		return c, err
	}
	a.loaded = c
	return a.override(c)
}

// override lays the global flags over the configuration. With --store one token is left: the only one, or that of --token.
func (a *app) override(c config.Config) (config.Config, error) {
	switch {
	case a.global.verbose:
		c.Log, c.Debug = "stderr", true
	case c.Log == "syslog":
		// What a library's host would never see, the user of a command reads at once in its own errors.
		c.Log = "off"
	}
	if _, err := transport.Parse(a.global.tpm); err != nil {
		return c, usagef("--tpm: %w", err)
	}
	c, err := c.With(config.Override{TPM: a.global.tpm, Store: a.global.store, Token: a.global.token})
	if errors.Is(err, config.ErrSeveralTokens) {
		return c, withHint(usageError{err}, "choose one with --token LABEL")
	}
	if a.global.store != "" {
		a.global.token = "" // it has chosen; the store may call itself otherwise
	}
	return c, err
}

// token is the token that --token, or being the only one, selects.
func (a *app) token() (*keystore.Token, error) {
	i, err := a.tokenIndex("")
	if err != nil {
		return nil, err
	}
	return a.set.Tokens[i], nil
}

// tpm is the TPM of the selected tokens. Where they have several, one must be chosen.
func (a *app) tpm() (*provider.TPM, error) {
	slots, err := a.selected()
	if err != nil {
		return nil, err
	}
	first := a.set.Tokens[slots[0]].TPM()
	for _, i := range slots[1:] {
		if a.set.Tokens[i].TPM().String() != first.String() {
			t, err := a.token()
			if err != nil {
				return nil, err
			}
			return t.TPM(), nil
		}
	}
	return first, nil
}

// initialized is token, which must be initialised.
func (a *app) initialized() (*keystore.Token, error) {
	t, err := a.token()
	if err == nil {
		err = usable(t)
	}
	return t, err
}

// usable says why a store cannot be used, nil for one that can.
func usable(t *keystore.Token) error {
	err := t.Check()
	if errors.Is(err, keystore.ErrNotInitialized) {
		return fmt.Errorf("%s: %w", t.Dir(), keystore.ErrNotInitialized)
	}
	return err
}

// tokenIndex is the place of the token that --token, or else label, or else being the only one, selects.
func (a *app) tokenIndex(label string) (int, error) {
	set, err := a.open()
	if err != nil {
		return 0, err
	}
	if a.global.token != "" {
		label = a.global.token
	}
	if label == "" {
		if len(set.Tokens) == 1 {
			return 0, nil
		}
		return 0, withHint(usagef("the configuration has %d tokens (%s)", len(set.Tokens), strings.Join(a.tokenLabels(), ", ")),
			"choose one with --token LABEL")
	}
	found := -1
	for i := range set.Tokens {
		if a.tokenLabel(i) != label {
			continue
		}
		if found >= 0 {
			return 0, withHint(fmt.Errorf("two tokens are called %q", label), "choose by folder with --store FOLDER")
		}
		found = i
	}
	if found < 0 {
		return 0, withHint(fmt.Errorf("no token is called %q", label), "there is: %s", strings.Join(a.tokenLabels(), ", "))
	}
	return found, nil
}

// selected are the places of the tokens for verbs that can do with several: that of --token, or all.
func (a *app) selected() ([]int, error) {
	set, err := a.open()
	if err != nil {
		return nil, err
	}
	if a.global.token != "" {
		i, err := a.tokenIndex("")
		return []int{i}, err
	}
	all := make([]int, len(set.Tokens))
	for i := range all {
		all[i] = i
	}
	return all, nil
}

// tokenLabel is what a token calls itself, before init what the configuration calls it.
func (a *app) tokenLabel(i int) string {
	if l := a.set.Tokens[i].Label(); l != "" {
		return l
	}
	return a.set.Config.Tokens[i].Label
}

func (a *app) tokenLabels() []string {
	var labels []string
	for i, t := range a.set.Tokens {
		l := a.tokenLabel(i)
		if l == "" {
			l = "not initialised: " + t.Dir()
		}
		labels = append(labels, l)
	}
	return labels
}
