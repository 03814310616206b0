package faulttpm_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/internal/faulttpm"
	"github.com/tpm2-p11/tpm2-p11/internal/tpmtest"
)

// getRandom asks for four bytes.
var getRandom = []byte{0x80, 0x01, 0, 0, 0, 12, 0, 0, 0x01, 0x7b, 0, 4}

const randomSize = 16 // of its response

// between starts a TPM and a proxy before it.
func between(t *testing.T) *faulttpm.Proxy {
	t.Helper()
	tpm := tpmtest.Start(t)
	p, err := faulttpm.Listen(tpm.Socket()+"f", tpm.Socket())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func dial(t *testing.T, p *faulttpm.Proxy) net.Conn {
	t.Helper()
	c, err := net.Dial("unix", p.Socket())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return c
}

// ask sends a command and gives all that comes until the connection ends, or so many bytes.
func ask(t *testing.T, c net.Conn, most int) []byte {
	t.Helper()
	if _, err := c.Write(getRandom); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, most)
	n, err := io.ReadFull(c, b)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatal(err)
	}
	return b[:n]
}

func TestWhatAFaultMakesOfAnAnswer(t *testing.T) {
	t.Parallel()
	p := between(t)
	for _, c := range []struct {
		name  string
		fault faulttpm.Fault
		size  int
		begin []byte
	}{
		{"none", nil, randomSize, []byte{0x80, 0x01, 0, 0, 0, randomSize, 0, 0, 0, 0, 0, 4}},
		{"a response code", faulttpm.Answer(0x922), 10, []byte{0x80, 0x01, 0, 0, 0, 10, 0, 0, 0x09, 0x22}},
		{"another response", faulttpm.Replace([]byte("nonsense")), 8, []byte("nonsense")},
		{"a delay", faulttpm.Delay(time.Millisecond), randomSize, []byte{0x80, 0x01, 0, 0, 0, randomSize, 0, 0, 0, 0, 0, 4}},
		{"a flipped bit", faulttpm.Flip(4), randomSize, []byte{0x80, 0x01, 0, 0, 0, randomSize, 0, 0, 0, 0, 0, 5}},
		{"truncated", faulttpm.Truncate(11), 11, []byte{0x80, 0x01, 0, 0, 0, randomSize, 0, 0, 0, 0, 0}},
		{"shortened", faulttpm.Shorten(11), 11, []byte{0x80, 0x01, 0, 0, 0, 11, 0, 0, 0, 0, 0}},
		{"too long", faulttpm.Oversize(4, false), randomSize + 4, []byte{0x80, 0x01, 0, 0, 0, randomSize}},
		{"longer", faulttpm.Oversize(4, true), randomSize + 4, []byte{0x80, 0x01, 0, 0, 0, randomSize + 4}},
		{"random", faulttpm.Random(1), randomSize, []byte{0x80, 0x01, 0, 0, 0, randomSize, 0, 0, 0, 0}},
	} {
		// The TPM is asked before: swtpm may end a connection that follows one that came and went without a word.
		p.Inject(nil)
		conn := dial(t, p)
		if got := ask(t, conn, randomSize); len(got) != randomSize {
			t.Fatalf("before %s: %x", c.name, got)
		}
		p.Inject(c.fault)
		if got := ask(t, conn, c.size); !bytes.HasPrefix(got, c.begin) || len(got) != c.size {
			t.Errorf("%s: %x", c.name, got)
		}
		conn.Close()
	}
}

func TestAFaultEndsTheConnection(t *testing.T) {
	t.Parallel()
	p := between(t)
	for name, fault := range map[string]faulttpm.Fault{"dropped": faulttpm.Drop, "lost": faulttpm.Lose} {
		p.Inject(faulttpm.When{Code: tpm2.TPMCCGetRandom, After: 1, Times: 1}.Do(fault))
		conn := dial(t, p)
		if got := ask(t, conn, randomSize); len(got) != randomSize {
			t.Fatalf("before %s: %x", name, got)
		}
		if got := ask(t, conn, randomSize); len(got) != 0 {
			t.Errorf("%s: %x", name, got)
		}
		next := dial(t, p)
		if got := ask(t, next, randomSize); len(got) != randomSize {
			t.Errorf("%s: the next connection got %x", name, got)
		}
		next.Close()
	}
}

func TestAFaultComesInItsTime(t *testing.T) {
	t.Parallel()
	p := between(t)
	conn := dial(t, p)
	p.Inject(faulttpm.When{Code: tpm2.TPMCCGetRandom, After: 2, Times: 2}.Do(faulttpm.Shorten(10)))
	for i, want := range []int{randomSize, randomSize, 10, 10, randomSize} {
		if got := ask(t, conn, want); got[5] != byte(want) {
			t.Errorf("answer %d: %x", i, got)
		}
	}
	p.Inject(faulttpm.Always(tpm2.TPMCCSign).Do(faulttpm.Drop))
	if got := ask(t, conn, randomSize); len(got) != randomSize {
		t.Errorf("a fault of another command: %x", got)
	}
	if n := p.Count(tpm2.TPMCCGetRandom); n != 6 || !p.Saw([]byte{0x7b, 0, 4}) {
		t.Errorf("%d commands were recorded", n)
	}
	p.Reset()
	if len(p.Exchanges()) != 0 {
		t.Error("they are not forgotten")
	}
}

// Nothing waits for an answer that will not come once its client has left, and a proxy's end is everybody's.
func TestNobodyIsKeptByAStall(t *testing.T) {
	t.Parallel()
	p := between(t)
	stalled := make(chan struct{})
	stall := func() net.Conn {
		p.Inject(faulttpm.When{Times: 1}.Do(func(ctx context.Context, command []byte, send func() ([]byte, error)) ([]byte, error) {
			stalled <- struct{}{}
			return faulttpm.Stall(ctx, command, send)
		}))
		conn := dial(t, p)
		if _, err := conn.Write(getRandom); err != nil {
			t.Fatal(err)
		}
		<-stalled
		return conn
	}
	stall().Close()
	next := dial(t, p)
	if got := ask(t, next, randomSize); len(got) != randomSize {
		t.Errorf("%x", got)
	}
	next.Close()
	stall()
	p.Close()
	if _, err := net.Dial("unix", p.Socket()); err == nil {
		t.Error("a closed proxy takes connections")
	}
}

func TestAProxyWithoutATPM(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p, err := faulttpm.Listen(filepath.Join(dir, "f"), filepath.Join(dir, "nobody"))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if _, err := dial(t, p).Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("%v", err)
	}
	if to, err := os.Readlink(p.Socket() + ".ctrl"); err != nil || to != filepath.Join(dir, "nobody.ctrl") {
		t.Errorf("the control socket leads to %s, %v", to, err)
	}
}
