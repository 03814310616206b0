package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/tpm2-p11/tpm2-p11/internal/secret"
	"github.com/tpm2-p11/tpm2-p11/internal/trusted"
	"github.com/tpm2-p11/tpm2-p11/keystore"
)

// terminal is where a person answers prompts.
type terminal interface {
	// Secret asks without echo.
	Secret(ctx context.Context, prompt string) (*secret.Bytes, error)
	// Line asks for a line.
	Line(ctx context.Context, prompt string) (string, error)
	Close() error
}

// readPIN reads a PIN from a file, "-" being standard input. One line end after it is not part of it.
func (a *app) readPIN(flag, path string) (*secret.Bytes, error) {
	if path != "-" {
		pin, err := trusted.ReadSecret(path, trusted.Rules{Closed: trusted.NotPublic, Pipes: true})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", flag, err)
		}
		return pin, nil
	}
	text, err := a.read(flag, path, trusted.MaxSecret)
	if err != nil {
		return nil, err
	}
	pin, err := trusted.Line(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %s: %w", flag, inputName(path), err)
	}
	return pin, nil
}

// pin gives the secret of a file, or of a prompt where no file is named.
func (a *app) pin(ctx context.Context, flag, path, prompt string) (*secret.Bytes, error) {
	if path != "" {
		return a.readPIN(flag, path)
	}
	t, err := a.ask()
	if err != nil {
		return nil, withHint(usagef("%s is needed and there is no terminal to ask for it", prompt), "give it by %s FILE (- is standard input)", flag)
	}
	defer t.Close()
	return t.Secret(ctx, prompt+": ")
}

// newPIN is pin for a token's new PIN, which a person types twice; none, where that is allowed, is empty.
func (a *app) newPIN(ctx context.Context, flag, path, prompt string, none bool) (*secret.Bytes, error) {
	rule := fmt.Sprintf("%d to %d bytes", keystore.MinPIN, keystore.MaxPIN)
	if none {
		rule += ", empty for none"
	}
	first, err := a.pin(ctx, flag, path, prompt+" ("+rule+")")
	if err != nil || none && first.Len() == 0 {
		return first, err
	}
	if n := first.Len(); n < keystore.MinPIN || n > keystore.MaxPIN {
		first.Wipe()
		return nil, fmt.Errorf("%s: %w: it has %d bytes", prompt, keystore.ErrPINLength, n)
	}
	if path != "" {
		return first, nil
	}
	again, err := a.pin(ctx, flag, "", prompt+" again")
	if err != nil {
		first.Wipe()
		return nil, err
	}
	defer again.Wipe()
	if !bytes.Equal(first.Bytes(), again.Bytes()) {
		first.Wipe()
		return nil, errors.New("the two PINs are not the same")
	}
	return first, nil
}

// confirm asks before something that cannot be undone, unless yes was given.
func (a *app) confirm(ctx context.Context, yes bool, question string) error {
	if yes {
		return nil
	}
	t, err := a.ask()
	if err != nil {
		return withHint(usagef("this cannot be undone and there is no terminal to ask"), "add --yes if you mean it")
	}
	defer t.Close()
	answer, err := t.Line(ctx, question+" [y/N] ")
	if err != nil {
		return err
	}
	if answer != "y" && answer != "yes" {
		return errors.New("nothing was done")
	}
	return nil
}

// tty is the process's controlling terminal.
type tty struct{ f *os.File }

func openTerminal() (terminal, error) {
	f, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	return tty{f}, nil
}

func (t tty) Close() error { return t.f.Close() }

func (t tty) Secret(ctx context.Context, prompt string) (*secret.Bytes, error) {
	fd := int(t.f.Fd())
	before, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, err
	}
	silent := *before
	silent.Lflag = silent.Lflag&^unix.ECHO | unix.ICANON | unix.ISIG
	silent.Iflag |= unix.ICRNL
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &silent); err != nil {
		return nil, err
	}
	// An interrupt must not leave the terminal without echo.
	defer unix.IoctlSetTermios(fd, unix.TCSETS, before)
	defer fmt.Fprintln(t.f)
	b, err := t.wait(ctx, prompt, t.line)
	if err != nil {
		return nil, err
	}
	return secret.From(b), nil
}

// errEnded is a prompt that was answered with the end of the input, Ctrl-D.
var errEnded = errors.New("the input ended at the prompt: nothing was entered")

// line reads to the end of a line, which is not part of it.
func (t tty) line() ([]byte, error) {
	var buf [maxLine]byte
	defer clear(buf[:])
	for n := 0; n < len(buf); {
		more, err := t.f.Read(buf[n:])
		n += more
		switch end := bytes.IndexByte(buf[:n], '\n'); {
		case end >= 0:
			return bytes.Clone(buf[:end]), nil
		case err == io.EOF && n > 0:
			return bytes.Clone(buf[:n]), nil
		case err == io.EOF:
			return nil, errEnded
		case err != nil:
			return nil, err
		}
	}
	return nil, fmt.Errorf("a line of more than %d bytes", maxLine)
}

// maxLine is what a terminal keeps of a line, in bytes.
const maxLine = 4096

func (t tty) Line(ctx context.Context, prompt string) (string, error) {
	b, err := t.wait(ctx, prompt, t.line)
	return string(bytes.TrimSpace(b)), err
}

// wait prompts and reads, and stops waiting when ctx ends.
func (t tty) wait(ctx context.Context, prompt string, read func() ([]byte, error)) ([]byte, error) {
	if _, err := fmt.Fprint(t.f, prompt); err != nil {
		return nil, err
	}
	type answer struct {
		b   []byte
		err error
	}
	c := make(chan answer, 1)
	go func() {
		b, err := read()
		c <- answer{b, err}
	}()
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case got := <-c:
		return got.b, got.err
	}
}
