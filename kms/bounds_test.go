package kms

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func environmentOf(variables map[string]string) func(string) string {
	return func(name string) string { return variables[name] }
}

// A request with a secret by plain http stays on this machine, whatever a name resolves to, and passes no proxy.
func TestPlainHTTPDialsThisMachineAlone(t *testing.T) {
	t.Parallel()
	for endpoint, want := range map[string]struct{ confined, proxied bool }{
		"http://localhost:4599":   {confined: true},
		"http://127.0.0.1:4599":   {confined: true},
		"https://kms.example.com": {proxied: true},
		"":                        {proxied: true},
	} {
		c, err := Options{Endpoint: endpoint, AllowPlainHTTP: true, Getenv: environmentOf(map[string]string{"HTTPS_PROXY": "http://proxy.example.com"})}.newHTTPClient()
		if err != nil {
			t.Fatal(err)
		}
		transport := c.client.Transport.(*http.Transport)
		if proxied := transport.Proxy != nil; proxied != want.proxied {
			t.Errorf("%q: by a proxy: %v", endpoint, proxied)
		}
		if !want.confined {
			continue
		}
		// Refused before anything is sent: Control runs before the connection.
		if conn, err := transport.DialContext(t.Context(), "tcp", "192.0.2.1:80"); !errors.Is(err, ErrEndpoint) {
			t.Errorf("%q: another machine is dialled: %v, %v", endpoint, conn, err)
		}
	}
	c, err := Options{Getenv: environmentOf(nil)}.newHTTPClient()
	if err != nil || c.client.Transport.(*http.Transport).Proxy != nil {
		t.Errorf("a proxy that nobody named: %v", err)
	}
	for _, address := range []string{"192.0.2.1:443", "[2001:db8::1]:443", "localhost:443", "", "127.0.0.1"} {
		if err := loopbackOnly("tcp", address, nil); !errors.Is(err, ErrEndpoint) {
			t.Errorf("%q counts as this machine: %v", address, err)
		}
	}
	for _, address := range []string{"127.0.0.1:443", "127.1.2.3:1", "[::1]:443"} {
		if err := loopbackOnly("tcp", address, nil); err != nil {
			t.Errorf("%q: %v", address, err)
		}
	}
}

// A copy is opened when KMS cannot answer, goes when KMS refuses, and is left alone by everything else.
func TestWhatBecomesOfAnOfflineCopy(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err           error
		opened, stays bool
	}{
		{ErrUnreachable, true, true},
		{ErrUnavailable, true, true},
		{ErrAccessDenied, false, false},
		{ErrKeyState, false, false},
		{ErrKeyNotFound, false, false},
		{ErrThrottled, false, true},
		{ErrCredentials, false, true},
		{ErrAnswer, false, true},
		{ErrPlaintext, false, true},
	} {
		o := &offline{Offline{Dir: t.TempDir(), For: time.Hour}, slog.New(slog.DiscardHandler)}
		name := copyNameOf("eu", "key", []byte("ciphertext"), nil)
		if err := os.WriteFile(o.path(name), []byte("what opens nowhere"), 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := o.ask(t.Context(), name, func() (*Secret, error) { return nil, fmt.Errorf("KMS: %w", c.err) })
		if s != nil || !errors.Is(err, c.err) {
			t.Errorf("%v: got %v", c.err, err)
		}
		if opened := errors.Is(err, errCopy); opened != c.opened {
			t.Errorf("%v: opened: %v", c.err, opened)
		}
		if _, err := os.Stat(o.path(name)); (err == nil) != c.stays {
			t.Errorf("%v: the copy stays: %v", c.err, err == nil)
		}
	}
}

// Drafts that were left go. What is no copy stays, however old: a store's keys, say.
func TestOldDraftsOfOfflineCopiesAreSwept(t *testing.T) {
	t.Parallel()
	o := &offline{Offline{Dir: t.TempDir(), For: time.Hour}, slog.New(slog.DiscardHandler)}
	hash := strings.Repeat("0123456789abcdef", 4)
	for name, c := range map[string]struct {
		age   time.Duration
		stays bool
	}{
		filepath.Base(o.path(copyNameOf("eu", "no copy", nil, nil))): {3 * time.Hour, true},
		hash + "-123.new":                {90 * time.Minute, false},
		hash + "-124.new":                {30 * time.Minute, true},
		hash + ".pem":                    {3 * time.Hour, true},
		hash + "-" + hash + ".pem.old":   {3 * time.Hour, true},
		"x" + hash + "-" + hash + ".pem": {3 * time.Hour, true},
		"x" + hash + "-123.new":          {3 * time.Hour, true},
		"web.pem":                        {3 * time.Hour, true},
		"notes.txt":                      {3 * time.Hour, true},
	} {
		path := filepath.Join(o.Dir, name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, time.Time{}, time.Now().Add(-c.age)); err != nil {
			t.Fatal(err)
		}
		o.sweep(math.MaxUint64)
		if _, err := os.Stat(path); (err == nil) != c.stays {
			t.Errorf("%s stays: %v", name, err == nil)
		}
	}
}

// Ciphertext, KMS key, and each name and value of the encryption context make another entry of a cache.
func TestEntriesOfCachesAreApart(t *testing.T) {
	t.Parallel()
	seen := map[any]string{}
	for what, name := range map[string]any{
		"the first":           copyNameOf("eu", "key", []byte("c"), map[string]string{"a": "b"}),
		"another region":      copyNameOf("us", "key", []byte("c"), map[string]string{"a": "b"}),
		"another KMS key":     copyNameOf("eu", "other", []byte("c"), map[string]string{"a": "b"}),
		"another ciphertext":  copyNameOf("eu", "key", []byte("d"), map[string]string{"a": "b"}),
		"another name":        copyNameOf("eu", "key", []byte("c"), map[string]string{"x": "b"}),
		"another value":       copyNameOf("eu", "key", []byte("c"), map[string]string{"a": "x"}),
		"no context":          copyNameOf("eu", "key", []byte("c"), nil),
		"letters moved along": copyNameOf("eu", "key", []byte("c"), map[string]string{"ab": ""}),
	} {
		if same, found := seen[name]; found {
			t.Errorf("%s and %s are one entry", what, same)
		}
		seen[name] = what
	}
}
