package transport

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// The codes of the reference implementation's TCP protocol (TPM 2.0 Part 4,
// "TcpServer": TpmTcpProtocol.h).
const (
	simSignalPowerOn = 1
	simSendCommand   = 8
	simSignalNVOn    = 11
	simSessionEnd    = 20
)

// mssimDialer connects to the reference simulator: a port for commands and one
// for what a platform does to a TPM.
type mssimDialer struct {
	address           string
	command, platform string // host:port
}

func (d *mssimDialer) String() string { return d.address }

// Managed is false: what a client leaves loaded takes room from the next one.
func (d *mssimDialer) Managed() bool { return false }

// startupClear is TPM2_Startup(TPM_SU_CLEAR).
var startupClear = []byte{0x80, 0x01, 0, 0, 0, 12, 0, 0, 0x01, 0x44, 0, 0}

// Dial switches the simulated TPM on and starts it up if nobody has, as a
// platform's firmware does before anyone else may speak to a TPM.
func (d *mssimDialer) Dial(ctx context.Context) (Conn, error) {
	ctx, cancel := withDeadline(ctx, DialTimeout)
	defer cancel()
	if err := d.powerOn(ctx); err != nil {
		return nil, err
	}
	socket, err := dialSocket(ctx, "tcp", d.command)
	if err != nil {
		return nil, explainSocket(d.address, err)
	}
	c := &conn{framing: simFraming{}, address: d.address, socket: socket}
	response, err := awaitTurn(ctx, c, startupClear)
	if err != nil {
		return nil, err
	}
	const rcInitialize = 0x100 // started up already
	if rc := binary.BigEndian.Uint32(response[6:]); rc != 0 && rc != rcInitialize {
		c.Close()
		return nil, fmt.Errorf("%s: the simulator's TPM does not start: response code %#x", d.address, rc)
	}
	return c, nil
}

// powerOn gives the TPM power and NV; where it has them nothing happens.
func (d *mssimDialer) powerOn(ctx context.Context) error {
	socket, err := dialSocket(ctx, "tcp", d.platform)
	if err != nil {
		return explainSocket(d.address+" (platform port)", err)
	}
	defer socket.Close()
	_, err = socket.during(ctx, func() error {
		for _, signal := range []uint32{simSignalPowerOn, simSignalNVOn} {
			if err := platformSignal(socket, signal); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		if ctx.Err() != nil {
			err = busyUnlessCancelled(ctx, err)
		}
		return fmt.Errorf("%s (platform port): switching the TPM on: %w", d.address, err)
	}
	_, _ = socket.Write(binary.BigEndian.AppendUint32(nil, simSessionEnd))
	return nil
}

func platformSignal(socket *socket, signal uint32) error {
	if _, err := socket.Write(binary.BigEndian.AppendUint32(nil, signal)); err != nil {
		return err
	}
	var status [4]byte
	if _, err := io.ReadFull(socket, status[:]); err != nil {
		return err
	}
	if s := binary.BigEndian.Uint32(status[:]); s != 0 {
		return fmt.Errorf("signal %d was answered by status %#x", signal, s)
	}
	return nil
}

// simFraming puts code, locality and size before a command, and the size before
// and a status after a response.
type simFraming struct{}

func (simFraming) frame(command []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, simSendCommand)
	b = append(b, 0) // locality
	b = binary.BigEndian.AppendUint32(b, uint32(len(command)))
	return append(b, command...)
}

func (simFraming) read(r io.Reader, buf []byte) ([]byte, error) {
	if _, err := io.ReadFull(r, buf[:4]); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(buf)
	if err := checkSize(size); err != nil {
		return nil, err
	}
	if n, err := io.ReadFull(r, buf[:size+4]); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, fmt.Errorf("%w: a response ends after %d of %d bytes: %w", ErrMalformed, n, size+4, io.ErrUnexpectedEOF)
	} else if err != nil {
		return nil, err
	}
	if status := binary.BigEndian.Uint32(buf[size:]); status != 0 {
		return nil, fmt.Errorf("the simulator did not carry out the command: status %#x", status)
	}
	return readResponse(bytes.NewReader(buf[:size:size]), buf)
}

func (simFraming) farewell() []byte { return binary.BigEndian.AppendUint32(nil, simSessionEnd) }
