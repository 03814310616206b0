// Package provider drives a TPM 2.0: framing, sessions, retries, keys, sealed data, persistent handles, and what a TPM or
// a NitroTPM attests.
//
// It knows nothing of stores, labels, PINs' meaning or PKCS#11, and it never
// returns with something left loaded in the TPM.
//
// An operation of a TPM takes its turn in the link's queue, gets the connection
// and sends its commands: withObject readies the object, authorise the sessions,
// use both, and command is the bytes. What is loaded lives within a function
// call and is flushed on every way out of it; only the salted HMAC session is
// kept, until the connection is let go.
//
// Section numbers are those of the Trusted Platform Module Library
// Specification, family 2.0, revision 1.59.
package provider
