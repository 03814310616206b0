package faulttpm

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"sync"
)

// Proxy listens in the place of a TPM emulator's socket, which takes bare commands and gives bare responses, as swtpm's and
// nitro-sim's do. Each connection to it is one to the TPM.
type Proxy struct {
	Tap
	path, tpm string
	listener  net.Listener
	ctx       context.Context // ends with Close
	cancel    context.CancelFunc
	relays    sync.WaitGroup

	open sync.Mutex
	n    int           // open connections
	idle chan struct{} // closed while there are none
}

// Listen makes a proxy at a path for the TPM at another. A control socket beside the TPM's (.ctrl) is beside the proxy's, too.
func Listen(path, tpm string) (*Proxy, error) {
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Symlink(tpm+".ctrl", path+".ctrl"); err != nil && !errors.Is(err, os.ErrExist) {
		l.Close()
		return nil, err
	}
	p := &Proxy{path: path, tpm: tpm, listener: l, idle: make(chan struct{})}
	close(p.idle)
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.relays.Go(p.accept)
	return p, nil
}

// Socket is the path of the proxy's socket.
func (p *Proxy) Socket() string { return p.path }

// Address is the proxy's address, as a configuration has it: swtpm:path=….
func (p *Proxy) Address() string { return "swtpm:path=" + p.path }

// Close ends all connections and waits until they are gone.
func (p *Proxy) Close() {
	p.cancel()
	p.listener.Close()
	p.relays.Wait()
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.count(1)
		p.relays.Go(func() {
			defer p.count(-1)
			p.relay(client)
		})
	}
}

func (p *Proxy) count(change int) {
	p.open.Lock()
	defer p.open.Unlock()
	if p.n == 0 {
		p.idle = make(chan struct{})
	}
	if p.n += change; p.n == 0 {
		close(p.idle)
	}
}

// AwaitIdle waits until no connection is open.
func (p *Proxy) AwaitIdle(ctx context.Context) error {
	p.open.Lock()
	idle := p.idle
	p.open.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// relay serves one connection until either side ends it.
func (p *Proxy) relay(client net.Conn) {
	defer client.Close()
	tpm, err := net.Dial("unix", p.tpm)
	if err != nil {
		return
	}
	defer tpm.Close()
	// The client is read all the time, so that its end is seen while the TPM, or a fault, takes its time; the TPM between answers.
	ctx, cancel := context.WithCancel(p.ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { client.Close(); tpm.Close() })
	defer stop()
	commands, answers := messages(ctx, cancel, client), messages(ctx, cancel, tpm)
	for {
		var command []byte
		select {
		case command = <-commands:
		case <-ctx.Done():
			return
		}
		response, err := p.Carry(ctx, command, func() ([]byte, error) {
			if _, err := tpm.Write(command); err != nil {
				return nil, err
			}
			select {
			case answer := <-answers:
				return answer, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		})
		if _, failed := client.Write(response); failed != nil || err != nil {
			return
		}
	}
}

// messages reads commands or responses, which have their size at the same place, until there are no more; then it ends the connection.
func messages(ctx context.Context, end func(), from io.Reader) <-chan []byte {
	all := make(chan []byte)
	go func() {
		defer end()
		for {
			b, err := message(from)
			if err != nil {
				return
			}
			select {
			case all <- b:
			case <-ctx.Done():
				return
			}
		}
	}()
	return all
}

func message(from io.Reader) ([]byte, error) {
	b := make([]byte, 10)
	if _, err := io.ReadFull(from, b); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(b[2:])
	if size < 10 || size > 4096 {
		return nil, io.ErrUnexpectedEOF
	}
	b = append(b, make([]byte, size-10)...)
	_, err := io.ReadFull(from, b[10:])
	return b, err
}
