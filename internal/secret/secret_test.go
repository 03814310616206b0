package secret

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestFromMovesTheSecretAndWipesItsArgument(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, 63, 64, 65, 128, 256, 257, 512, 513, 4096, 10000} {
		pin := bytes.Repeat([]byte{'7'}, n)
		s := From(pin)
		if !bytes.Equal(s.Bytes(), bytes.Repeat([]byte{'7'}, n)) || s.Len() != n {
			t.Errorf("%d bytes: the secret is not what was given (%d bytes)", n, s.Len())
		}
		if !bytes.Equal(pin, make([]byte, n)) {
			t.Errorf("%d bytes: the argument was not wiped", n)
		}
		if c := cap(s.Bytes()); c != n {
			t.Errorf("%d bytes: an append would write into locked memory (capacity %d)", n, c)
		}
		s.Wipe()
	}
}

func TestAWipedSecretIsEmpty(t *testing.T) {
	t.Parallel()
	var zero Bytes
	wiped := From([]byte("1234"))
	wiped.Wipe()
	wiped.Wipe()
	for name, s := range map[string]*Bytes{"nil": nil, "zero": &zero, "New(0)": New(0), "From(nil)": From(nil), "wiped": wiped, "clone of nil": (*Bytes)(nil).Clone()} {
		if s.Bytes() != nil || s.Len() != 0 {
			t.Errorf("%s: %d bytes, want nil", name, s.Len())
		}
		if !s.Equal(nil) {
			t.Errorf("%s: not equal to the empty secret", name)
		}
		s.Wipe()
	}
}

func TestMemoryIsZeroWhenItIsUsedAgain(t *testing.T) {
	t.Parallel()
	for range 200 {
		s := New(40)
		if !bytes.Equal(s.Bytes(), make([]byte, 40)) {
			t.Fatal("a new secret holds an old one")
		}
		copy(s.Bytes(), "correct horse battery staple")
		s.Wipe()
	}
}

func TestACloneIsIndependent(t *testing.T) {
	t.Parallel()
	s := From([]byte("1234"))
	c := s.Clone()
	s.Wipe()
	if string(c.Bytes()) != "1234" {
		t.Error("the clone did not survive the original")
	}
	c.Wipe()
}

func TestEqual(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		a, b string
		want bool
	}{{"1234", "1234", true}, {"1234", "1235", false}, {"1234", "12340", false}, {"", "1234", false}, {"", "", true}} {
		a, b := From([]byte(c.a)), From([]byte(c.b))
		if a.Equal(b) != c.want || b.Equal(a) != c.want {
			t.Errorf("%q and %q: want %v", c.a, c.b, c.want)
		}
	}
}

func TestNothingPrintsASecret(t *testing.T) {
	t.Parallel()
	s := From([]byte("canary"))
	var out strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "% x", "%d", "%c", "%b", "%o", "%p", "%t"} {
		if got := fmt.Sprintf(verb, s); got != "***" && verb != "%p" { // %p is an address, of no secret
			t.Errorf("%s gives %q", verb, got)
		}
		// Where the methods are out of fmt's reach there is a pointer at most.
		type holder struct{ secret *Bytes }
		fmt.Fprintf(&out, verb, holder{s})
		fmt.Fprintf(&out, verb, &struct{ secret Bytes }{Bytes{memory: s.memory}})
	}
	fmt.Fprintln(&out, s, fmt.Errorf("wrong PIN %v", s), []*Bytes{s}, map[string]*Bytes{"pin": s})
	for _, h := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
		slog.New(h).Info("login", "pin", s, "group", struct{ PIN *Bytes }{s})
	}
	j, err := json.Marshal(map[string]any{"pin": s, "pins": []*Bytes{s}, "struct": struct{ PIN *Bytes }{s}})
	if err != nil {
		t.Error(err)
	}
	out.Write(j)
	for _, form := range []string{"canary", fmt.Sprintf("%x", "canary"), fmt.Sprintf("%X", "canary"), fmt.Sprintf("% x", "canary"), "Y2FuYXJ5", fmt.Sprint([]byte("canary")), fmt.Sprintf("%b", []byte("canary")), fmt.Sprintf("%o", []byte("canary"))} {
		if strings.Contains(out.String(), strings.Trim(form, "[]")) {
			t.Errorf("the secret shows as %q in %q", form, out.String())
		}
	}
}

func TestAForgottenSecretIsWiped(t *testing.T) {
	t.Parallel()
	s := New(100)
	cell := *s.memory.whole
	copy(s.Bytes(), "forgotten")
	runtime.KeepAlive(s)
	s = nil

	wiped := false
	given := func() bool {
		locked.mu.Lock() // or another test's secret may be in it at once
		defer locked.mu.Unlock()
		wiped = bytes.Equal(cell, make([]byte, len(cell)))
		return slices.ContainsFunc(locked.free[len(cell)], func(c []byte) bool { return &c[0] == &cell[0] })
	}
	for deadline := time.Now().Add(time.Minute); !given(); runtime.GC() {
		if time.Now().After(deadline) {
			t.Fatal("its memory did not come back")
		}
	}
	if !wiped {
		t.Error("its memory was not wiped")
	}
}

func TestManyGoroutinesHaveSecretsOfTheirOwn(t *testing.T) {
	t.Parallel()
	var wg sync.WaitGroup
	for g := range 16 {
		wg.Go(func() {
			for i := range 300 {
				want := bytes.Repeat([]byte{byte(g)}, 1+(i*37)%700)
				s := From(bytes.Clone(want))
				if !bytes.Equal(s.Bytes(), want) {
					t.Error("two secrets share memory")
				}
				s.Wipe()
			}
		})
	}
	wg.Wait()
}
