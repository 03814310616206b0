package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"
)

// Version is the version of the protocol that frames carry. Packages are
// upgraded under running servers, so the one before is understood too; the
// first has none before it.
const Version = 1

// HeaderSize is what a frame adds to its message, in bytes.
const HeaderSize = 16

// firstRoom is what a frame's length alone makes ReadFrame allocate, in bytes.
const firstRoom = 16 << 10

// ErrCutOff tells that a stream ended inside a frame.
var ErrCutOff = errors.New("stream ends inside a frame")

// Frame is one message on a stream: u32 length of the message, u32 version,
// u64 id, and the message. A response has its request's id; responses may come
// in any order.
type Frame struct {
	Version uint32
	ID      uint64
	Message []byte
}

// SignOfLife is the id of a frame without a message that answers nothing: whoever works on a request sends one each LifeEvery, and
// whoever waits for the response gives up when nothing came for Silence. Requests have other ids.
const (
	SignOfLife = 0
	LifeEvery  = time.Second
	Silence    = 7 * time.Second
)

// Spoken tells whether this side understands a frame's version.
func Spoken(version uint32) bool { return version == Version }

// ReadFrame reads one frame. io.EOF means that the stream ended between two
// frames, ErrCutOff inside of one, ErrTooLong that the message has more than
// most bytes, which is MaxMessage or less. Memory is allocated as the message comes, and what is outgrown is
// wiped. begun, if there is one, is called when the first byte is there.
func ReadFrame(r io.Reader, most int, begun func()) (Frame, error) {
	var header [HeaderSize]byte
	if _, err := io.ReadFull(r, header[:1]); err != nil {
		return Frame{}, err
	}
	if begun != nil {
		begun()
	}
	if _, err := io.ReadFull(r, header[1:]); err != nil {
		return Frame{}, cutOff(err)
	}
	length := binary.LittleEndian.Uint32(header[:])
	f := Frame{Version: binary.LittleEndian.Uint32(header[4:]), ID: binary.LittleEndian.Uint64(header[8:])}
	if length > uint32(most) {
		return f, fmt.Errorf("a frame of %d bytes: %w", length, ErrTooLong)
	}
	var err error
	f.Message, err = readMessage(r, int(length))
	return f, cutOff(err)
}

func readMessage(r io.Reader, length int) ([]byte, error) {
	message := make([]byte, min(length, firstRoom))
	for filled := 0; ; {
		n, err := io.ReadFull(r, message[filled:])
		if err != nil {
			clear(message)
			return nil, err
		}
		if filled += n; filled == length {
			return message, nil
		}
		grown := make([]byte, min(length, 4*filled))
		copy(grown, message)
		clear(message)
		message = grown
	}
}

func cutOff(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return ErrCutOff
	}
	return err
}

// WriteFrame writes one frame with a single Write, and wipes what it made for it.
func WriteFrame(w io.Writer, f Frame) error {
	if len(f.Message) > MaxMessage {
		return ErrTooLong
	}
	frame := make([]byte, HeaderSize, HeaderSize+len(f.Message))
	binary.LittleEndian.PutUint32(frame, uint32(len(f.Message)))
	binary.LittleEndian.PutUint32(frame[4:], f.Version)
	binary.LittleEndian.PutUint64(frame[8:], f.ID)
	frame = append(frame, f.Message...)
	defer clear(frame)
	_, err := w.Write(frame)
	return err
}
