// Package cms opens the answers that AWS KMS closes for the public key of an
// attestation document: CMS EnvelopedData (RFC 5652, section 6) in BER, with
// one recipient.
//
// It reads that one shape and refuses every other: key transport for a
// subjectKeyIdentifier that is the SHA-256 of the recipient's
// SubjectPublicKeyInfo, RSAES-OAEP with SHA-256 throughout (RFC 4055), and
// AES-256-CBC.
//
// The form is not authenticated: whoever has the public key can make one. Where
// an answer comes from is for the connection to KMS to prove, and what it
// answers for the encryption context.
package cms
