package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/term"

	"github.com/tpm2-p11/tpm2-p11/internal/secret"
)

// maxPINFile bounds a PIN file; the PIN's own limits are the keystore's.
const maxPINFile = 4096

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
		if err := checkPINFile(path); err != nil {
			return nil, err
		}
	}
	b, err := a.read(flag, path, maxPINFile)
	if err != nil {
		return nil, err
	}
	defer clear(b)
	pin := bytes.TrimSuffix(bytes.TrimSuffix(b, []byte("\n")), []byte("\r"))
	if len(pin) == 0 {
		return nil, fmt.Errorf("%s: the PIN in %s is empty", flag, inputName(path))
	}
	if bytes.ContainsAny(pin, "\r\n\x00") {
		return nil, fmt.Errorf("%s: %s holds more than one line", flag, inputName(path))
	}
	return secret.From(pin), nil
}

// checkPINFile refuses a file that others can read or write.
func checkPINFile(path string) error {
	fi, err := os.Stat(path)
	if err != nil {
		return err
	}
	// What is not a regular file is a pipe or a descriptor of the shell's.
	if mode := fi.Mode(); mode.IsRegular() && mode.Perm()&0o026 != 0 {
		return withHint(fmt.Errorf("the PIN file %s is open to others (mode %04o)", path, mode.Perm()), "run `chmod 600 %s`", path)
	}
	return nil
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

// newPIN is pin for a new secret, which a person types twice.
func (a *app) newPIN(ctx context.Context, flag, path, prompt string) (*secret.Bytes, error) {
	if path != "" {
		return a.readPIN(flag, path)
	}
	first, err := a.pin(ctx, flag, "", prompt)
	if err != nil || first.Len() == 0 {
		return first, err
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
	state, err := term.GetState(fd)
	if err != nil {
		return nil, err
	}
	// An interrupt must not leave the terminal without echo.
	defer term.Restore(fd, state)
	defer fmt.Fprintln(t.f)
	b, err := t.wait(ctx, prompt, func() ([]byte, error) { return term.ReadPassword(fd) })
	if err != nil {
		return nil, err
	}
	return secret.From(b), nil
}

func (t tty) Line(ctx context.Context, prompt string) (string, error) {
	b, err := t.wait(ctx, prompt, func() ([]byte, error) {
		buf := make([]byte, 256)
		n, err := t.f.Read(buf)
		return bytes.TrimSpace(buf[:n]), err
	})
	return string(b), err
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
