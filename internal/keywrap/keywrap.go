// Package keywrap wraps keys with keys: the AES key wrap of NIST SP 800-38F, sections 6.2 (KW, RFC 3394) and 6.3 (KWP, RFC 5649).
//
// Both are deterministic and authenticated: Unwrap and UnwrapPadded give a key as it was wrapped, or [ErrOpen]. The block cipher is to
// have blocks of 16 bytes. What is returned is a secret of the caller's, and intermediate values are wiped.
package keywrap

import (
	"crypto/cipher"
	"crypto/subtle"
	"encoding/binary"
	"errors"
)

// Errors that callers tell apart with errors.Is.
var (
	// ErrLength is for keys that cannot be wrapped, and for what cannot be a wrapped key, by their length alone.
	ErrLength = errors.New("no such length can be wrapped")
	// ErrOpen is for what was not wrapped with this key, or was changed since. There is one for every cause.
	ErrOpen = errors.New("the wrapped key does not open")
)

// Overhead is by how many bytes a wrapped key is longer than the key, which for KWP is first padded to a multiple of Overhead.
const Overhead = 8

// MaxKey is the longest key that is wrapped, in bytes.
const MaxKey = 4096

// The integrity check values, A6A6… for KW and A65959A6 and the length for KWP.
const (
	icv1 uint64 = 0xA6A6A6A6A6A6A6A6
	icv2 uint32 = 0xA65959A6
)

// Wrap wraps a key of at least 16 bytes, a multiple of 8 (KW-AE).
func Wrap(block cipher.Block, key []byte) ([]byte, error) {
	if len(key) < 16 || len(key)%Overhead != 0 || len(key) > MaxKey {
		return nil, ErrLength
	}
	out := make([]byte, Overhead+len(key))
	binary.BigEndian.PutUint64(out, icv1)
	copy(out[Overhead:], key)
	wrap(block, out)
	return out, nil
}

// Unwrap opens what Wrap made (KW-AD).
func Unwrap(block cipher.Block, wrapped []byte) ([]byte, error) {
	if len(wrapped) < 24 || len(wrapped)%Overhead != 0 || len(wrapped) > MaxKey+Overhead {
		return nil, ErrLength
	}
	work := append([]byte(nil), wrapped...)
	defer clear(work)
	unwrap(block, work)
	if subtle.ConstantTimeCompare(work[:Overhead], binary.BigEndian.AppendUint64(nil, icv1)) != 1 {
		return nil, ErrOpen
	}
	return append([]byte(nil), work[Overhead:]...), nil
}

// WrapPadded wraps a key of 1 to MaxKey bytes (KWP-AE).
func WrapPadded(block cipher.Block, key []byte) ([]byte, error) {
	if len(key) == 0 || len(key) > MaxKey {
		return nil, ErrLength
	}
	out := make([]byte, Overhead+padded(len(key)))
	binary.BigEndian.PutUint32(out, icv2)
	binary.BigEndian.PutUint32(out[4:], uint32(len(key)))
	copy(out[Overhead:], key)
	if len(out) == 16 {
		block.Encrypt(out, out)
	} else {
		wrap(block, out)
	}
	return out, nil
}

// UnwrapPadded opens what WrapPadded made (KWP-AD).
func UnwrapPadded(block cipher.Block, wrapped []byte) ([]byte, error) {
	if len(wrapped) < 16 || len(wrapped)%Overhead != 0 || len(wrapped) > MaxKey+Overhead {
		return nil, ErrLength
	}
	work := append([]byte(nil), wrapped...)
	defer clear(work)
	if len(work) == 16 {
		block.Decrypt(work, work)
	} else {
		unwrap(block, work)
	}
	n, body := binary.BigEndian.Uint32(work[4:]), work[Overhead:]
	good := subtle.ConstantTimeCompare(work[:4], binary.BigEndian.AppendUint32(nil, icv2))
	good &= subtle.ConstantTimeLessOrEq(1, int(min(n, MaxKey+1))) & subtle.ConstantTimeLessOrEq(int(min(n, MaxKey+1)), len(body))
	good &= subtle.ConstantTimeLessOrEq(len(body)-Overhead+1, int(min(n, MaxKey+1)))
	var rest byte // what the padding is beyond zeros
	for i, b := range body {
		beyond := byte(subtle.ConstantTimeLessOrEq(int(min(n, MaxKey+1)), i))
		rest |= b & -beyond
	}
	if good&subtle.ConstantTimeByteEq(rest, 0) != 1 {
		return nil, ErrOpen
	}
	return append([]byte(nil), body[:n]...), nil
}

// PaddedLength is the length of what WrapPadded makes of n bytes.
func PaddedLength(n int) int { return Overhead + padded(n) }

func padded(n int) int { return (n + Overhead - 1) / Overhead * Overhead }

// wrap is the wrapping function W of section 6.1, in place: s is semiblocks of 8 bytes, three at least.
func wrap(block cipher.Block, s []byte) {
	var b [16]byte
	defer clear(b[:])
	copy(b[:8], s)
	n := uint64(len(s)/8 - 1)
	for t := uint64(1); t <= 6*n; t++ {
		r := s[8*((t-1)%n+1):][:8]
		copy(b[8:], r)
		block.Encrypt(b[:], b[:])
		copy(r, b[8:])
		binary.BigEndian.PutUint64(b[:8], binary.BigEndian.Uint64(b[:8])^t)
	}
	copy(s[:8], b[:8])
}

// unwrap is W's inverse.
func unwrap(block cipher.Block, s []byte) {
	var b [16]byte
	defer clear(b[:])
	copy(b[:8], s)
	n := uint64(len(s)/8 - 1)
	for t := 6 * n; t >= 1; t-- {
		r := s[8*((t-1)%n+1):][:8]
		binary.BigEndian.PutUint64(b[:8], binary.BigEndian.Uint64(b[:8])^t)
		copy(b[8:], r)
		block.Decrypt(b[:], b[:])
		copy(r, b[8:])
	}
	copy(s[:8], b[:8])
}
