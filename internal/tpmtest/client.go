package tpmtest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"
)

// clientTimeout bounds a connection: beyond it another client holds the TPM. Only the tests of this package set it.
var clientTimeout = time.Minute

// client is a short-lived connection to a swtpm; it is go-tpm's transport.TPM.
// It is apart from provider/transport, so that what the tests measure with is
// not what they measure.
type client struct{ conn net.Conn }

// withClient connects, runs work and disconnects.
func withClient(socket string, work func(*client) error) error {
	deadline := time.Now().Add(clientTimeout)
	conn, err := net.DialTimeout("unix", socket, clientTimeout)
	// EAGAIN: the queue is full of clients, such as those that gave up waiting
	// and that swtpm has yet to see leave.
	for pause := time.Millisecond; errors.Is(err, syscall.EAGAIN) && time.Now().Before(deadline); pause *= 2 {
		time.Sleep(pause)
		conn, err = net.DialTimeout("unix", socket, clientTimeout)
	}
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(deadline); err != nil {
		return err
	}
	return work(&client{conn})
}

// Send sends one command and returns its response.
func (c *client) Send(command []byte) ([]byte, error) {
	if _, err := c.conn.Write(command); err != nil {
		return nil, err
	}
	header := make([]byte, 10) // tag, size, response code
	if _, err := io.ReadFull(c.conn, header); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(header[2:6])
	if size < 10 || size > 4096 {
		return nil, fmt.Errorf("a response of %d bytes", size)
	}
	response := append(header, make([]byte, size-10)...)
	_, err := io.ReadFull(c.conn, response[10:])
	return response, err
}
