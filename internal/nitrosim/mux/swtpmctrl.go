package mux

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
)

// Commands of swtpm's control channel (swtpm_ioctl(3), "tpm_ioctl.h").
const (
	ctrlGetCapability = 1
	ctrlInit          = 2
	ctrlShutdown      = 3
	ctrlSetLocality   = 5
	ctrlCancel        = 9
	ctrlStop          = 14
)

// Results of the control channel, from TPM 1.2.
const (
	ctrlSuccess     = 0
	ctrlBadOrdinal  = 0x0a
	ctrlBadLocality = 0x3d
)

// ServeControl serves the part of swtpm's control channel that clients of the
// data channel use. The TPM is everybody's: init, stop and shutdown succeed and
// change nothing; localities other than 0 are refused. It returns nil when the
// listener is closed.
func ServeControl(l net.Listener) error {
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			for answerControl(conn) == nil {
			}
		}()
	}
}

func answerControl(rw io.ReadWriter) error {
	head := make([]byte, 4)
	if _, err := io.ReadFull(rw, head); err != nil {
		return err
	}
	var body []byte
	result := uint32(ctrlSuccess)
	code := binary.BigEndian.Uint32(head)
	switch code {
	case ctrlInit: // flags
		body = make([]byte, 4)
	case ctrlSetLocality:
		body = make([]byte, 1)
	case ctrlGetCapability, ctrlShutdown, ctrlCancel, ctrlStop:
	default:
		result = ctrlBadOrdinal
	}
	if _, err := io.ReadFull(rw, body); err != nil {
		return err
	}
	if code == ctrlSetLocality && body[0] != 0 {
		result = ctrlBadLocality
	}
	answer := binary.BigEndian.AppendUint32(nil, result)
	if code == ctrlGetCapability {
		const capInit, capShutdown, capSetLocality, capCancel, capStop = 1 << 0, 1 << 1, 1 << 4, 1 << 6, 1 << 8
		answer = binary.BigEndian.AppendUint32(answer, capInit|capShutdown|capSetLocality|capCancel|capStop)
	}
	_, err := rw.Write(answer)
	return err
}
