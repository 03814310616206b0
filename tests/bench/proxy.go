package main

import (
	"encoding/binary"
	"io"
	"net"
	"os"
	"sync"
)

// proxy passes commands to a TPM and notes them.
type proxy struct {
	path     string
	tpm      string
	listener net.Listener

	mu    sync.Mutex
	codes []uint32
}

func newProxy(path, tpm string) (*proxy, error) {
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	// The control channel, which tpm2-tss opens too, is the TPM's own.
	if err := os.Symlink(tpm+".ctrl", path+".ctrl"); err != nil {
		l.Close()
		return nil, err
	}
	p := &proxy{path: path, tpm: tpm, listener: l}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go p.relay(conn)
		}
	}()
	return p, nil
}

func (p *proxy) close() { p.listener.Close() }

func (p *proxy) relay(client net.Conn) {
	defer client.Close()
	tpm, err := net.Dial("unix", p.tpm)
	if err != nil {
		return
	}
	defer tpm.Close()
	for {
		command, err := message(client)
		if err != nil {
			return
		}
		p.mu.Lock()
		p.codes = append(p.codes, binary.BigEndian.Uint32(command[6:]))
		p.mu.Unlock()
		if _, err := tpm.Write(command); err != nil {
			return
		}
		response, err := message(tpm)
		if err != nil {
			return
		}
		if _, err := client.Write(response); err != nil {
			return
		}
	}
}

// message reads a command or a response, which have their size at the same place.
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

// take gives the commands since it was asked last.
func (p *proxy) take() []uint32 {
	p.mu.Lock()
	defer p.mu.Unlock()
	codes := p.codes
	p.codes = nil
	return codes
}

// until is how many commands went to the nth of a code, which counts; 0 if it did not come.
func until(codes []uint32, code uint32, n int) int {
	for i, c := range codes {
		if c == code {
			if n--; n == 0 {
				return i + 1
			}
		}
	}
	return 0
}
