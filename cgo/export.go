// Command cgo is the PKCS #11 module, tpm2-p11.so: Cryptoki's C functions, and nothing else.
//
// The C files turn a call into bytes and bytes into the caller's memory;
// tpm2p11Dispatch hands them to package p11. This is the only folder with
// C in it; it never interprets a call.
package main

// #cgo CFLAGS: -O2 -Wall -Wextra -fvisibility=hidden -fstack-protector-strong -D_GNU_SOURCE
// #cgo LDFLAGS: -Wl,-z,relro,-z,now -pthread
// #include <stdlib.h>
import "C"

import (
	"time"
	"unsafe"

	"github.com/tpm2-p11/tpm2-p11/config"
	"github.com/tpm2-p11/tpm2-p11/internal/tokens"
	"github.com/tpm2-p11/tpm2-p11/p11"
)

// module is the process's one Cryptoki library. Making it reads and opens nothing; C_Initialize does.
var module = p11.New(func() (*tokens.Set, error) {
	var set *tokens.Set
	c, err := config.Load("")
	if err == nil {
		set, err = tokens.Open(c)
	}
	if err != nil {
		return &tokens.Set{Logger: tokens.LoggerOf(c)}, err
	}
	return set, nil
})

func init() { config.KeepEnvironment() }

// tpm2p11Dispatch carries one request in and its response out, which is NULL if there is no memory for it.
//
//export tpm2p11Dispatch
func tpm2p11Dispatch(request unsafe.Pointer, length C.size_t, response *unsafe.Pointer, responseLength *C.size_t) {
	// Copied, so that nothing in Go can keep the caller's memory; Dispatch wipes the copy.
	answer := module.Dispatch(C.GoBytes(request, C.int(length)))
	defer clear(answer)
	*response, *responseLength = toC(answer)
}

// toC copies bytes to memory of C's, which is nil if there is none.
func toC(b []byte) (unsafe.Pointer, C.size_t) {
	// Unlike C.malloc, calloc may fail without ending the process.
	memory := C.calloc(1, C.size_t(max(1, len(b))))
	if memory != nil {
		copy(unsafe.Slice((*byte)(memory), len(b)), b)
	}
	return memory, C.size_t(len(b))
}

// tpm2p11Release lets go of the TPM in a process that ends. A TPM that does not answer does not hold the process up.
//
//export tpm2p11Release
func tpm2p11Release() {
	released := make(chan struct{})
	go func() {
		defer close(released)
		module.Release()
	}()
	select {
	case <-released:
	case <-time.After(time.Second):
	}
}

func main() {}
