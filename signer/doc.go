// Package signer uses private keys that live in a TPM 2.0 as crypto.Signer and
// crypto.Decrypter.
//
// [Open] finds a key of a tpm2-p11 store by its label, identifier, persistent
// handle or PKCS #11 URI. The [Key] that it gives goes wherever Go takes a
// crypto.Signer: into a tls.Config, x509.CreateCertificate,
// x509.CreateCertificateRequest, JOSE and SSH libraries.
//
//	key, err := signer.Open(ctx, "web")
//
// The private half never leaves the TPM, and each operation asks the TPM anew:
// a key that is bound to PCR values stops working the moment they change
// ([ErrPolicy], with a [*PolicyError] that names the PCR).
//
// A process that may not use the TPM uses a key of a running
// `tpm2-p11 serve --socket` instead, in the same way: see [Open].
//
// # What a TPM does otherwise than a key in memory
//
//   - rsa.PSSSaltLengthAuto means a salt as long as the hash, not the longest
//     possible one. TPMs know no other length. Any other explicit length is
//     encoded here and needs a key that may also decrypt.
//   - SHA-1 is refused for signatures (but in a DigestInfo that the caller made),
//     PKCS #1 v1.5 for decryption.
//   - The random source that callers pass is not used: the TPM has its own.
//   - An operation takes milliseconds, and a TPM works on one at a time. Many
//     goroutines may use a Key at once; they queue.
//
// Package signer never makes, changes or deletes keys: that is the command's
// work. It reads no PIN from the environment or the terminal.
package signer
