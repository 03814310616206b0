package main

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/tpm2-p11/tpm2-p11/internal/version"
)

type versionJSON struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"` // of the source, where the build knows it
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func thisVersion() versionJSON {
	v := versionJSON{Version: version.Version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				v.Revision = s.Value
			}
		}
	}
	return v
}

func versionCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Example: "  tpm2-p11 version --json",
		Args:    exactly(),
		RunE: a.verb(func(context.Context, []string) error {
			return a.printVersion()
		}),
	}
}

func (a *app) printVersion() error {
	v := thisVersion()
	return a.print(v, func(w io.Writer) { fmt.Fprintf(w, "tpm2-p11 %s (%s, %s)\n", v.Version, v.Go, v.Platform) })
}
