// Package attest asks for proofs of what a machine runs and of where a key
// lives, and verifies them.
//
// Document asks an AWS NitroTPM for an attestation document: the machine's
// PCRs, signed under AWS's root. Parse shows one without trusting it; Verify
// trusts it only for what a Policy asks, under a pinned root. A Verifier is what
// a server uses: it issues challenges, and takes each document once.
//
// Any TPM can state that a key was born in it and never leaves it, by an
// attestation key of its own (package provider). VerifyKey verifies that.
package attest
