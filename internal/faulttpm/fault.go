package faulttpm

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/google/go-tpm/tpm2"
)

// Fault stands between a command and the TPM. It may call send, which gives the TPM's own answer, and answers what it likes.
// An error ends the connection, after what was answered beside it. The context ends when nobody waits for the answer any more.
type Fault func(ctx context.Context, command []byte, send func() ([]byte, error)) ([]byte, error)

// ErrInjected is the error of a connection that a fault ended.
var ErrInjected = errors.New("an injected fault ended the connection")

func pass(_ context.Context, _ []byte, send func() ([]byte, error)) ([]byte, error) { return send() }

// When says which commands meet a fault. The zero value is: all.
type When struct {
	Code  tpm2.TPMCC // only these commands; 0: all
	After int        // so many of them pass before
	Times int        // then so many meet the fault; 0: all that follow
}

// Do is a fault that happens then, and lets everything else pass.
func (w When) Do(f Fault) Fault {
	var mu sync.Mutex
	seen := 0
	return func(ctx context.Context, command []byte, send func() ([]byte, error)) ([]byte, error) {
		due := false
		if w.Code == 0 || w.Code == Code(command) {
			mu.Lock()
			due = seen >= w.After && (w.Times == 0 || seen < w.After+w.Times)
			seen++
			mu.Unlock()
		}
		if !due {
			return send()
		}
		return f(ctx, command, send)
	}
}

// Once is a When for the next command of a code.
func Once(code tpm2.TPMCC) When { return When{Code: code, Times: 1} }

// Always is a When for each command of a code.
func Always(code tpm2.TPMCC) When { return When{Code: code} }

// ResponseCode is a response that is nothing but a response code.
func ResponseCode(rc uint32) []byte {
	b := []byte{0x80, 0x01, 0, 0, 0, 10}
	return binary.BigEndian.AppendUint32(b, rc)
}

// Answer gives a response code in the TPM's place, which never sees the command.
func Answer(rc uint32) Fault { return Replace(ResponseCode(rc)) }

// Replace gives a response in the TPM's place.
func Replace(response []byte) Fault {
	return func(context.Context, []byte, func() ([]byte, error)) ([]byte, error) { return response, nil }
}

// Drop ends the connection instead of sending the command.
func Drop(context.Context, []byte, func() ([]byte, error)) ([]byte, error) { return nil, ErrInjected }

// Lose ends the connection after the TPM carried the command out: its answer is lost.
func Lose(_ context.Context, _ []byte, send func() ([]byte, error)) ([]byte, error) {
	_, err := send()
	return nil, errors.Join(ErrInjected, err)
}

// Stall never answers. The TPM does not see the command.
func Stall(ctx context.Context, _ []byte, _ func() ([]byte, error)) ([]byte, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// Delay lets an answer wait.
func Delay(d time.Duration) Fault {
	return func(ctx context.Context, _ []byte, send func() ([]byte, error)) ([]byte, error) {
		select {
		case <-time.After(d):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		return send()
	}
}

// Spoil changes the TPM's answer.
func Spoil(change func(response []byte) []byte) Fault {
	return func(_ context.Context, _ []byte, send func() ([]byte, error)) ([]byte, error) {
		r, err := send()
		if err != nil {
			return nil, err
		}
		return change(bytes.Clone(r)), nil
	}
}

// Flip inverts a bit of the byte that is so far from the answer's end; of answers that are shorter none.
func Flip(fromEnd int) Fault {
	return Spoil(func(r []byte) []byte {
		if fromEnd < len(r) {
			r[len(r)-1-fromEnd] ^= 1
		}
		return r
	})
}

// Truncate cuts the answer to n bytes and ends the connection.
func Truncate(n int) Fault {
	return func(_ context.Context, _ []byte, send func() ([]byte, error)) ([]byte, error) {
		r, err := send()
		if err != nil {
			return nil, err
		}
		return r[:min(n, len(r))], ErrInjected
	}
}

// Shorten cuts the answer to n bytes, at least a header, and says so in its size field.
func Shorten(n int) Fault {
	return Spoil(func(r []byte) []byte {
		r = r[:min(max(n, 10), len(r))]
		binary.BigEndian.PutUint32(r[2:], uint32(len(r)))
		return r
	})
}

// Oversize appends n bytes to the answer; its size field says so or not.
func Oversize(n int, told bool) Fault {
	return Spoil(func(r []byte) []byte {
		r = append(r, make([]byte, n)...)
		if told {
			binary.BigEndian.PutUint32(r[2:], uint32(len(r)))
		}
		return r
	})
}

// Random fills a successful answer's body with bytes that mean nothing, other ones for each seed; its header stays.
func Random(seed uint64) Fault {
	random := rand.New(rand.NewPCG(seed, seed))
	var mu sync.Mutex
	return Spoil(func(r []byte) []byte {
		mu.Lock()
		defer mu.Unlock()
		for i := 10; i < len(r); i++ {
			r[i] = byte(random.Uint32())
		}
		return r
	})
}
