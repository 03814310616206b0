package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tpm2-p11/tpm2-p11/config"
	"github.com/tpm2-p11/tpm2-p11/internal/tokens"
	"github.com/tpm2-p11/tpm2-p11/keystore"
)

// app is one run of the command: its streams, its global flags and what was opened for it.
type app struct {
	in       io.Reader
	out, err io.Writer
	ask      func() (terminal, error) // opens the terminal that prompts go to

	global  globalFlags
	set     *tokens.Set // nil until a verb needs it
	started bool        // a verb's body was reached: errors are no longer about usage
	stdin   string      // which flag reads standard input, "" for none
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
	cmd, err := root.ExecuteContextC(ctx)
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
	c, err := config.Load(a.global.config)
	if err != nil {
		return nil, err
	}
	if c, err = a.override(c); err != nil {
		return nil, err
	}
	set, err := tokens.Open(c)
	if err != nil {
		return nil, err
	}
	a.set = set
	return set, nil
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
	c.Tokens = slices.Clone(c.Tokens)
	if a.global.store != "" {
		if len(c.Tokens) > 1 {
			c.Tokens = slices.DeleteFunc(c.Tokens, func(t config.Token) bool { return t.Label != a.global.token })
		}
		if len(c.Tokens) != 1 {
			return c, usagef("--store with several tokens: it is not clear whose store it is without --token LABEL")
		}
		dir, err := filepath.Abs(a.global.store)
		if err != nil {
			return c, err
		}
		c.Tokens[0].Store = dir
		a.global.token = "" // it has chosen; the store may call itself otherwise
	}
	if a.global.tpm != "" {
		for i := range c.Tokens {
			c.Tokens[i].TPM = a.global.tpm
		}
	}
	return c, nil
}

// token is the token that --token, or being the only one, selects.
func (a *app) token() (*keystore.Token, error) {
	i, err := a.tokenIndex("")
	if err != nil {
		return nil, err
	}
	return a.set.Tokens[i], nil
}

// initialized is token, which must be initialised.
func (a *app) initialized() (*keystore.Token, error) {
	t, err := a.token()
	if err == nil && !t.Initialized() {
		return nil, fmt.Errorf("%s: %w", t.Dir(), keystore.ErrNotInitialized)
	}
	return t, err
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
			return 0, withHint(fmt.Errorf("two tokens are called %q", label), "choose by folder with --store DIR")
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
