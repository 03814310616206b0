// Command fault-tpm stands between a TPM emulator's socket and whoever uses it, and injects a fault:
//
//	go run ./internal/faulttpm/fault-tpm -tpm /run/swtpm -listen /tmp/faulty -code 0x15d -after 2 -times 1 -fault answer=0x922
//	tpm2-p11 --tpm swtpm:path=/tmp/faulty sign web --in file
//
// Without -code all commands meet it, without -times all after the first ones of -after. It ends with SIGINT or SIGTERM, and tells
// then how many commands went through.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/internal/faulttpm"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "fault-tpm:", err)
		os.Exit(1)
	}
}

// run serves until ctx ends.
func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("fault-tpm", flag.ContinueOnError)
	flags.SetOutput(out)
	tpm := flags.String("tpm", "", "the TPM emulator's socket, a `PATH`")
	listen := flags.String("listen", "", "where to listen, a `PATH`")
	text := flags.String("fault", "", "the `FAULT`: drop, lose, stall, answer=RC, delay=DURATION, flip=N, truncate=N, shorten=N, oversize=N, followed=N, random=SEED")
	code := flags.Uint("code", 0, "the command `CODE` that meets it, as 0x15d for TPM2_Sign; 0 for all")
	after := flags.Int("after", 0, "how many of these pass before")
	times := flags.Int("times", 0, "how many then meet it; 0 for all")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *tpm == "" || *listen == "" || flags.NArg() != 0 {
		return fmt.Errorf("-tpm and -listen are needed, and nothing besides flags")
	}
	var fault faulttpm.Fault
	if *text != "" {
		f, err := faulttpm.ParseFault(*text)
		if err != nil {
			return err
		}
		fault = faulttpm.When{Code: tpm2.TPMCC(*code), After: *after, Times: *times}.Do(f)
	}
	p, err := faulttpm.Listen(*listen, *tpm)
	if err != nil {
		return err
	}
	p.Inject(fault)
	fmt.Fprintf(out, "listening at %s\n", p.Address())
	<-ctx.Done()
	p.Close()
	fmt.Fprintf(out, "%d commands\n", len(p.Exchanges()))
	return nil
}
