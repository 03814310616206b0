package main

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/tpm2-p11/tpm2-p11/internal/trusted"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// maxInput bounds what is read into memory: no certificate, key or ciphertext comes near it.
const maxInput = 1 << 20

// reader opens what a flag names; "" and "-" are standard input, which only one flag may read.
func (a *app) reader(flag, path string) (io.ReadCloser, error) {
	if path != "" && path != "-" {
		return os.Open(path)
	}
	if a.stdin != "" && a.stdin != flag {
		return nil, usagef("%s and %s both read standard input", a.stdin, flag)
	}
	a.stdin = flag
	return io.NopCloser(a.in), nil
}

// read reads at most max bytes of what a flag names.
func (a *app) read(flag, path string, max int) ([]byte, error) {
	r, err := a.reader(flag, path)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b, err := trusted.ReadAll(r, max)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", inputName(path), err)
	}
	return b, nil
}

func inputName(path string) string {
	if path == "" || path == "-" {
		return "standard input"
	}
	return path
}

// parseHandle reads a persistent handle, "0x81000100".
func parseHandle(s string) (provider.Handle, error) {
	digits, ok := strings.CutPrefix(strings.ToLower(s), "0x")
	n, err := strconv.ParseUint(digits, 16, 32)
	if !ok || err != nil {
		return 0, usagef("%q is not a handle: write it as 0x81000100", s)
	}
	if n>>24 != 0x81 {
		return 0, usagef("%s is not a persistent handle: they go from 0x81000000, those of the owner to 0x817fffff", s)
	}
	return provider.Handle(n), nil
}

func formatHandle(h provider.Handle) string {
	if h == 0 {
		return ""
	}
	return fmt.Sprintf("0x%08x", uint32(h))
}
