//go:build nitrosim

package reference

// #cgo CFLAGS: -std=gnu11 -Wno-missing-braces -Wno-empty-body -Wno-unused-variable -Wno-deprecated-declarations
// // What the simulator's own package sets: the layout of structures hangs on it.
// #cgo CFLAGS: -DVTPM=NO -DSIMULATION=NO -DUSE_DA_USED=NO -DDEBUG=YES -DCERTIFYX509_DEBUG=NO
// #cgo CFLAGS: -DCOMPILER_CHECKS=DEBUG -DRUNTIME_SIZE_CHECKS=DEBUG
// #cgo CFLAGS: -DECC_NIST_P224=YES -DECC_NIST_P521=YES -DALG_SHA512=ALG_YES -DMAX_CONTEXT_SIZE=1360
// // The TPM's functions are in the simulator's package, which cgo does not link
// // with this one when it looks for this package's dynamic imports.
// #cgo LDFLAGS: -Wl,--unresolved-symbols=ignore-in-object-files
// #include <stdlib.h>
// #include "attest.h"
import "C"
import "unsafe"

const (
	maxResponse = 4096
	maxIndex    = 8192
	rcSuccess   = 0
)

// Attest carries the vendor command out. Once the TPM has checked it, answer is
// called with the NV index's data and gives what to write at its start; an
// answer that is longer than the index is TPM_RC_NV_RANGE.
func (t *TPM) Attest(command []byte, answer func(index []byte) []byte) ([]byte, error) {
	if len(command) == 0 {
		return nil, errEmpty
	}
	request := C.CBytes(command)
	defer C.free(request)
	index := make([]byte, maxIndex)
	var size C.uint32_t
	result := C.attest_begin((*C.uint8_t)(request), C.uint32_t(len(command)), (*C.uint8_t)(&index[0]), &size)

	var written []byte
	if result == rcSuccess {
		written = answer(index[:size])
		if len(written) > int(size) {
			result, written = rcNVRange, nil
		}
	}
	// C code keeps pointers into the response while it builds it.
	response := C.malloc(maxResponse)
	defer C.free(response)
	var responseSize C.uint32_t
	C.attest_end(result, (*C.uint8_t)(unsafe.SliceData(written)), C.uint32_t(len(written)), (*C.uint8_t)(response), &responseSize)
	if C.attest_failed() != 0 {
		return nil, ErrFailure
	}
	return C.GoBytes(response, C.int(responseSize)), nil
}
