// Command tpm2-p11 makes, lists and uses private keys that never leave a TPM 2.0.
//
// It only reads arguments, asks, calls packages keystore, signer and provider,
// and prints; every verb has --help with an example and --json.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	// The first signal cancels what runs, so that the TPM is left clean; the second ends the process.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	go func() {
		<-ctx.Done()
		stop()
	}()
	a := &app{in: os.Stdin, out: os.Stdout, err: os.Stderr, ask: openTerminal}
	os.Exit(a.run(ctx, os.Args[1:]))
}
