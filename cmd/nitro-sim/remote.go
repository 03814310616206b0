//go:build nitrosim

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/tpm2-p11/tpm2-p11/internal/nitrosim/control"
)

// remote finds a running emulator.
type remote struct{ socket, control string }

func (r *remote) flags(c *cobra.Command) {
	c.Flags().StringVar(&r.socket, "socket", "", "the emulator's unix socket")
	c.Flags().StringVar(&r.control, "control", "", "its control socket (default: the socket's path with "+control.Suffix+")")
}

func (r *remote) call(request control.Request) (control.Reply, error) {
	path := r.control
	if path == "" {
		path = r.socket + control.Suffix
	}
	if r.socket == "" && r.control == "" {
		return control.Reply{}, usageError{errors.New("give the emulator's --socket PATH")}
	}
	return control.Call(path, request)
}

func statsCommand() *cobra.Command {
	var r remote
	var asJSON bool
	c := &cobra.Command{
		Use:     "stats",
		Short:   "Show how often each command was sent, and what clients hold",
		Example: "  nitro-sim stats --socket /tmp/tpm --json",
		Args:    arguments(0),
		RunE: func(c *cobra.Command, _ []string) error {
			reply, err := r.call(control.Request{Do: "stats"})
			if err != nil {
				return err
			}
			if asJSON {
				encoder := json.NewEncoder(c.OutOrStdout())
				encoder.SetIndent("", "  ")
				return encoder.Encode(reply.Stats)
			}
			printStats(c.OutOrStdout(), reply.Stats)
			return nil
		},
	}
	r.flags(c)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func printStats(w io.Writer, s *control.Stats) {
	for _, name := range slices.Sorted(maps.Keys(s.Commands)) {
		fmt.Fprintf(w, "%8d  %s\n", s.Commands[name], name)
	}
	fmt.Fprintf(w, "%8d  in all\n", s.Total)
	fmt.Fprintf(w, "contexts: %d saved, %d loaded, %d flushed\n", s.Saves, s.Loads, s.Flushes)
	fmt.Fprintf(w, "held: %d objects, %d sessions, %d saved sessions, by %d connections\n",
		s.Objects, s.Sessions, s.SavedSessions, s.Connections)
}

func extendCommand() *cobra.Command {
	var r remote
	request := control.Request{Do: "extend"}
	var event string
	c := &cobra.Command{
		Use:     "extend PCR",
		Short:   "Extend a PCR by the hash of an event",
		Example: `  nitro-sim extend 7 --bank sha384 --event "another policy" --socket /tmp/tpm`,
		Args:    arguments(1),
		RunE: func(_ *cobra.Command, args []string) error {
			pcr, err := strconv.ParseUint(args[0], 10, 8)
			if err != nil {
				return usageError{fmt.Errorf("PCR %q is not a number", args[0])}
			}
			request.PCR, request.Event = uint(pcr), []byte(event)
			_, err = r.call(request)
			return err
		},
	}
	r.flags(c)
	c.Flags().StringVar(&request.Bank, "bank", "", "sha1, sha256, sha384 or sha512 (default: all)")
	c.Flags().StringVar(&event, "event", "", "the text that was measured")
	return c
}

func resetCommand() *cobra.Command {
	var r remote
	c := &cobra.Command{
		Use:     "reset",
		Short:   "Reset the TPM and boot again; persistent keys and NV stay",
		Example: "  nitro-sim reset --socket /tmp/tpm",
		Args:    arguments(0),
		RunE: func(*cobra.Command, []string) error {
			_, err := r.call(control.Request{Do: "reset"})
			return err
		},
	}
	r.flags(c)
	return c
}
