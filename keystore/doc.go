// Package keystore keeps keys on disk and brings them together with the TPM that they live in.
//
// A store is a folder, and a token: token.json pins the storage root key and holds the token's secret, sealed under the
// PINs; each key is <id>.pem (a TSS2 PRIVATE KEY, which alone is a valid key), <id>.json (the sidecar: label, CKA_ID,
// handle, policy with its values) and <id>.crt (certificates). Secrets and data objects are kept the same way: the PEM holds
// a sealed AES key, the sidecar what that encrypts, bound to all that is said of it. Files are replaced whole, under a lock that only writers
// take; readers see each file before or after a change and wait for nobody.
//
// A key's algorithm, attributes and policy digest are always those of its public area, and a sidecar that contradicts it
// is ignored. The package never holds a plain private key, but for the moment of an import, and never writes a secret in the clear.
package keystore
