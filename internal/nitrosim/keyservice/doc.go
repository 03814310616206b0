// Package keyservice plays AWS KMS for an emulated machine: AWS JSON 1.1 over
// HTTP, signed requests, keys with policies, attestation documents that count,
// answers closed for the public key in them.
//
// What it does not emulate it refuses. Keys are in memory. IAM policies are not
// emulated: a statement for an account is for every principal of that account,
// and what no key policy decides (CreateKey, GenerateRandom) is open to all of
// the server's principals.
package keyservice
