// Package attest reads and verifies NitroTPM attestation documents.
//
// Parse shows a document without trusting it. Verify trusts a document only
// for what a Policy asks of it, under a pinned root. Neither touches a TPM.
package attest
