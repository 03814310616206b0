// Package fuzztest turns a fuzzer's bytes into changes of genuine inputs, so that it gets beyond what a signature or a key's fingerprint
// turns away at once.
package fuzztest

import (
	"bytes"
	"slices"
)

// Edited is a copy of an input with edits of four bytes each: at which place (big-endian, modulo the length), whether a byte there is
// changed, put in, taken out with those behind it, or all is cut off, and the byte, or how many.
func Edited(input, edits []byte) []byte {
	input = bytes.Clone(input)
	for ; len(edits) >= 4 && len(input) > 0; edits = edits[4:] {
		at := (int(edits[0])<<8 | int(edits[1])) % len(input)
		switch edits[2] % 4 {
		case 0:
			input[at] ^= edits[3]
		case 1:
			input = slices.Insert(input, at, edits[3])
		case 2:
			input = slices.Delete(input, at, min(at+1+int(edits[3]), len(input)))
		case 3:
			input = input[:at]
		}
	}
	return input
}
