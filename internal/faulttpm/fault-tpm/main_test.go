package main

import (
	"bufio"
	"context"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/tpm2-p11/tpm2-p11/internal/tpmtest"
)

func TestAFaultFromTheCommandLine(t *testing.T) {
	t.Parallel()
	tpm := tpmtest.Start(t)
	ctx, stop := context.WithCancel(t.Context())
	out, in := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, []string{"-tpm", tpm.Socket(), "-listen", tpm.Socket() + "f", "-code", "0x17b", "-after", "1", "-times", "1", "-fault", "answer=0x922"}, in)
		in.Close()
	}()
	said := bufio.NewScanner(out)
	if !said.Scan() || said.Text() != "listening at swtpm:path="+tpm.Socket()+"f" {
		t.Fatalf("it said %q", said.Text())
	}
	conn, err := net.Dial("unix", tpm.Socket()+"f")
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []byte{16, 10, 16} {
		if _, err := conn.Write([]byte{0x80, 0x01, 0, 0, 0, 12, 0, 0, 0x01, 0x7b, 0, 4}); err != nil {
			t.Fatal(err)
		}
		answer := make([]byte, want)
		if _, err := io.ReadFull(conn, answer); err != nil || answer[5] != want {
			t.Errorf("answer %d: %x, %v", i, answer, err)
		}
	}
	conn.Close()
	stop()
	if !said.Scan() || said.Text() != "3 commands" {
		t.Errorf("it said %q", said.Text())
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestCommandLinesThatAreRefused(t *testing.T) {
	t.Parallel()
	place := []string{"-tpm", "a", "-listen", t.TempDir() + "/f"}
	for want, args := range map[string][]string{
		"-tpm and -listen":       nil,
		"nothing besides":        append(place, "more"),
		"no fault is called":     append(place, "-fault", "burn"),
		"nothing follows it":     append(place, "-fault", "drop=3"),
		`fault "flip=x"`:         append(place, "-fault", "flip=x"),
		`fault "delay=3"`:        append(place, "-fault", "delay=3"),
		`fault "answer"`:         append(place, "-fault", "answer"),
		"not defined":            {"-colour", "red"},
		"no such file or direct": {"-tpm", "a", "-listen", t.TempDir() + "/none/f"},
	} {
		if err := run(t.Context(), args, io.Discard); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", args, err, want)
		}
	}
}
