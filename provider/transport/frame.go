package transport

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

const (
	headerSize = 10   // tag (2 bytes), size of the whole message (4), code (4)
	maxSize    = 4096 // no TPM's buffer and no Linux driver's is larger
)

// checkCommand refuses what would leave the TPM waiting for the rest of a
// command, or would be taken for two.
func checkCommand(command []byte) error {
	if len(command) < headerSize || len(command) > maxSize {
		return fmt.Errorf("%w: a command of %d bytes, not %d to %d", ErrMalformed, len(command), headerSize, maxSize)
	}
	if size := binary.BigEndian.Uint32(command[2:]); uint64(size) != uint64(len(command)) {
		return fmt.Errorf("%w: a command of %d bytes says that it has %d", ErrMalformed, len(command), size)
	}
	return nil
}

// checkSize refuses a response's announced size that cannot be.
func checkSize(size uint32) error {
	if size < headerSize || size > maxSize {
		return fmt.Errorf("%w: a response of %d bytes, not %d to %d", ErrMalformed, size, headerSize, maxSize)
	}
	return nil
}

// readResponse reads one response, framed by its own size field, from r into
// buf, which has room for more than maxSize bytes. Bytes beyond the announced
// size are an error.
func readResponse(r io.Reader, buf []byte) ([]byte, error) {
	for have, want := 0, headerSize; ; {
		n, err := r.Read(buf[have:])
		have += n
		if have >= headerSize {
			size := binary.BigEndian.Uint32(buf[2:])
			if err := checkSize(size); err != nil {
				return nil, err
			}
			want = int(size)
		}
		switch {
		case have > want:
			return nil, fmt.Errorf("%w: a response of %d bytes is followed by others", ErrMalformed, want)
		case have == want && have >= headerSize:
			return buf[:have], nil
		case errors.Is(err, io.EOF) && have > 0:
			return nil, fmt.Errorf("%w: a response ends after %d of %d bytes: %w", ErrMalformed, have, want, io.ErrUnexpectedEOF)
		case err != nil:
			return nil, err
		}
	}
}
