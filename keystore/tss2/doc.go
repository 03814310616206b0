// Package tss2 reads and writes TSS2 PRIVATE KEY PEM files, the "TPM key" ASN.1 form that
// openssl_tpm2_engine, tpm2-openssl and tpm2-tools share (draft-bottomley-tpm2-keys), and the
// public and private files of tpm2-tools (TPM2B_PUBLIC and TPM2B_PRIVATE).
//
// It is strict: whatever it cannot account for, byte by byte, is an error.
// It never talks to a TPM and never sees a plain private key.
package tss2
