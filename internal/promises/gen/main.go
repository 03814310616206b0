// Command gen writes docs/RELIABILITY.md. `go generate` runs it in the folder of internal/promises.
package main

import (
	"fmt"
	"os"

	"github.com/tpm2-p11/tpm2-p11/internal/promises"
)

func main() {
	if err := os.WriteFile("../../docs/RELIABILITY.md", []byte(promises.Page()), 0o644); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
