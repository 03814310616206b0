// Package kms gets secrets from AWS KMS that only this measured machine can
// read.
//
// Each request carries a fresh attestation document (package attest) with the
// public key of an RSA key in the machine's TPM. KMS compares the document with
// the key policy and closes its answer for that key; package cms opens it with
// any crypto.Decrypter. The plaintext is never on the wire, nor in an answer
// that this package accepts.
//
// Service sends requests with a document that the caller has and gives KMS's
// answers closed. Client asks for documents itself and opens the answers.
// Unwrapper is what most programs want: data keys, wrapped and unwrapped, with
// an optional cache. KeyPolicy writes a key policy that demands attestation,
// and Lint finds in any key policy what would bypass it.
//
// Nothing in an answer binds it to its question but the connection (TLS to KMS)
// and the encryption context, so give one.
package kms
