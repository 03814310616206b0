package secret

import (
	"fmt"
	"io"
	"log/slog"
)

// redacted stands for every secret, an empty one too.
const redacted = "***"

// String is "***".
func (b *Bytes) String() string { return redacted }

// GoString is "***".
func (b *Bytes) GoString() string { return redacted }

// Format writes "***" for every verb.
func (b *Bytes) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// MarshalText is "***".
func (b *Bytes) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// MarshalJSON is the string "***".
func (b *Bytes) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// LogValue is "***".
func (b *Bytes) LogValue() slog.Value { return slog.StringValue(redacted) }
