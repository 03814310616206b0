package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/term"

	"github.com/tpm2-p11/tpm2-p11/internal/trusted"
)

// print writes a verb's answer: v as JSON with --json, else what text writes.
func (a *app) print(v any, text func(w io.Writer)) error {
	if !a.global.json {
		text(a.out)
		return nil
	}
	e := json.NewEncoder(a.out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// note tells the user something beside the answer; never with --json, whose readers are programs.
func (a *app) note(format string, args ...any) {
	if !a.global.json {
		fmt.Fprintf(a.err, "note: "+format+"\n", args...)
	}
}

// warn tells of something that may be a mistake, with --json too.
func (a *app) warn(text string) error {
	if a.global.json {
		return json.NewEncoder(a.err).Encode(map[string]string{"warning": text})
	}
	_, err := fmt.Fprintf(a.err, "%s %s\n", paint(a.err, yellow, "warning:"), text)
	return err
}

// count is a number of things.
func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// table aligns rows under a heading.
func table(w io.Writer, heading []string, rows [][]string) {
	lines := bufio.NewWriter(w)
	t := tabwriter.NewWriter(lines, 0, 0, 2, ' ', 0)
	for _, row := range append([][]string{heading}, rows...) {
		fmt.Fprintln(t, strings.Join(row, "\t"))
	}
	t.Flush()
	lines.Flush()
}

// The colours of a terminal, as SGR parameters.
const (
	red    = "31"
	green  = "32"
	yellow = "33"
)

// paint colours s when w is a terminal and the user does not object (https://no-color.org).
func paint(w io.Writer, colour, s string) string {
	if !isTerminal(w) || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return s
	}
	return "\x1b[" + colour + "m" + s + "\x1b[0m"
}

func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// progress says on a terminal that what is still going on, once it took a second, until the returned function is called.
func (a *app) progress(ctx context.Context, what string) (done func()) {
	if !isTerminal(a.err) || a.global.json {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		begin, tick := time.Now(), time.NewTicker(time.Second)
		defer tick.Stop()
		shown := false
		for {
			select {
			case <-ctx.Done():
				if shown {
					fmt.Fprint(a.err, "\r\x1b[K")
				}
				return
			case <-tick.C:
				shown = true
				fmt.Fprintf(a.err, "\r%s … %d s", what, int(time.Since(begin).Seconds()))
			}
		}
	}()
	return func() { cancel(); <-finished }
}

// toStdout tells whether an output flag means standard output.
func toStdout(path string) bool { return path == "" || path == "-" }

// deliver hands over what a verb produced: data to the file out, or as the answer itself on standard output. With --json the
// answer is product, and with a file its name.
func (a *app) deliver(product map[string]any, out string, data []byte, mode os.FileMode) error {
	if !toStdout(out) {
		if err := writeFile(out, data, mode); err != nil {
			return err
		}
		if !a.global.json {
			return nil
		}
		product["file"] = out
	}
	if a.global.json {
		return a.print(product, nil)
	}
	_, err := a.out.Write(data)
	return err
}

// deliverText is deliver for a product that is JSON as it stands: on standard output it is the answer, --json or not.
func (a *app) deliverText(out string, text []byte) error {
	if toStdout(out) {
		_, err := a.out.Write(text)
		return err
	}
	return a.deliver(map[string]any{}, out, text, 0o644)
}

// binaryFits refuses to write bytes to a terminal.
func (a *app) binaryFits(path string) error {
	if toStdout(path) && !a.global.json && isTerminal(a.out) {
		return withHint(usagef("the answer is binary and standard output is a terminal"), "write it to a file with --out FILE, or use --json")
	}
	return nil
}

// writeFile replaces a file as a whole, with exactly this mode. A device or a pipe is written to.
func writeFile(path string, data []byte, mode os.FileMode) error {
	if fi, err := os.Stat(path); err == nil && !fi.Mode().IsRegular() {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = f.Write(data)
		return errors.Join(err, f.Close())
	}
	return trusted.Replace(path, data, mode)
}
