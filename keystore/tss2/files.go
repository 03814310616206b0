package tss2

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"golang.org/x/crypto/cryptobyte"

	"github.com/tpm2-p11/tpm2-p11/provider"
)

// The largest public and private areas that are read, in bytes: a TPM's own limits are well below (an RSA-4096 key's
// areas are about 600 and 800 bytes).
const (
	maxPublic  = 4096
	maxPrivate = 4096
)

// DecodePublic reads a TPM2B_PUBLIC, the content of the public file of tpm2-tools (tpm2_create -u).
func DecodePublic(b []byte) (provider.Public, error) {
	area, err := readSized(b, maxPublic)
	if err != nil {
		return provider.Public{}, fmt.Errorf("TPM2B_PUBLIC: %w", err)
	}
	public, err := provider.ParsePublic(area)
	if err != nil {
		return provider.Public{}, fmt.Errorf("TPM2B_PUBLIC: %w: %w", ErrMalformed, err)
	}
	return public, nil
}

// EncodePublic gives a TPM2B_PUBLIC.
func EncodePublic(p provider.Public) []byte { return sized(p.Marshal()) }

// DecodePrivate reads a TPM2B_PRIVATE, the content of the private file of tpm2-tools (tpm2_create -r), and gives what is
// in it, as provider.Object holds it.
func DecodePrivate(b []byte) ([]byte, error) {
	private, err := readSized(b, maxPrivate)
	if err != nil {
		return nil, fmt.Errorf("TPM2B_PRIVATE: %w", err)
	}
	return private, nil
}

// EncodePrivate gives a TPM2B_PRIVATE.
func EncodePrivate(private []byte) []byte { return sized(private) }

func readSized(b []byte, limit int) ([]byte, error) {
	in := cryptobyte.String(b)
	var body cryptobyte.String
	if !in.ReadUint16LengthPrefixed(&body) || !in.Empty() {
		return nil, fmt.Errorf("%w: its size field disagrees with its %d bytes", ErrMalformed, len(b))
	}
	if len(body) == 0 || len(body) > limit {
		return nil, fmt.Errorf("%w: its size is %d bytes (1 to %d)", ErrMalformed, len(body), limit)
	}
	return bytes.Clone(body), nil
}

func sized(b []byte) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)
}
