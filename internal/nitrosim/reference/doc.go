// Package reference is the TPM of the emulator: the reference implementation
// of TPM 2.0, from go-tpm-tools' simulator, with NitroTPM's attestation command
// added to it. There is one TPM a process, and its state is in memory only.
//
// It is built with the tag nitrosim, and CGO_CFLAGS as the Makefile's rule for
// build/nitro-sim sets them: the sizes of NV that attestation needs, and where
// the reference implementation's headers are.
package reference
