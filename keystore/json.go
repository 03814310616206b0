package keystore

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/tpm2-p11/tpm2-p11/provider"
)

// formatVersion is the version of token.json and of sidecars that this package writes.
const formatVersion = 1

// versioned is what a versioned JSON file is read into.
type versioned interface{ version() int }

// decodeStrict reads a versioned JSON file into v. ErrNewer for a version after ours; everything else that is not exactly
// the format is ErrCorrupt.
func decodeStrict(text []byte, v versioned) error {
	err := decodeExactly(text, v)
	if err == nil && v.version() == formatVersion {
		return nil
	}
	// What is not our format may be a later one's.
	var head struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(text, &head); err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if head.Version > formatVersion {
		return fmt.Errorf("%w (version %d)", ErrNewer, head.Version)
	}
	if head.Version != formatVersion {
		return fmt.Errorf("%w: there is no version %d", ErrCorrupt, head.Version)
	}
	return fmt.Errorf("%w: %w", ErrCorrupt, err)
}

// decodeExactly reads one JSON object that has nothing more than v.
func decodeExactly(text []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return err
	}
	if _, err := dec.Token(); err != io.EOF {
		return errors.New("something follows the JSON object")
	}
	return nil
}

func encodeJSON(v any) ([]byte, error) {
	text, err := json.MarshalIndent(v, "", "  ")
	return append(text, '\n'), err
}

// hexText is bytes that are written in hexadecimal.
type hexText []byte

func (h hexText) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, h), nil }

func (h *hexText) UnmarshalText(text []byte) (err error) {
	*h, err = hex.AppendDecode(nil, text)
	return err
}

// handleText is a handle that is written as TPM tools write it, 0x81000100.
type handleText provider.Handle

func (h handleText) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "0x%08x", uint32(h)), nil }

func (h *handleText) UnmarshalText(text []byte) error {
	digits, found := strings.CutPrefix(string(text), "0x")
	n, err := strconv.ParseUint(digits, 16, 32)
	if !found || err != nil {
		return fmt.Errorf("%q is not a handle", text)
	}
	if err := checkHandle(provider.Handle(n)); err != nil {
		return err
	}
	*h = handleText(n)
	return nil
}

// Handles of persistent objects that the owner may make (TPM 2.0 Part 2, "TPM_HC": PERSISTENT_FIRST to below PLATFORM_PERSISTENT).
const (
	ownerFirst provider.Handle = 0x81000000
	ownerLast  provider.Handle = 0x817FFFFF
)

func checkHandle(h provider.Handle) error {
	if h < ownerFirst || h > ownerLast {
		return fmt.Errorf("%w: handle 0x%08x is not one of the owner's persistent ones (0x%08x to 0x%08x)", ErrInvalid,
			uint32(h), uint32(ownerFirst), uint32(ownerLast))
	}
	return nil
}
