// Package mux gives one TPM to any number of clients, as the Linux kernel's
// /dev/tpmrm0 does: each has a space of its own, in which it sees its transient
// objects and sessions and nobody else's.
//
// Contexts are saved and loaded only when another client's turn comes, so a
// client that is alone costs nothing. As behind /dev/tpmrm0, one client has at
// most as many objects and sessions as the TPM has slots; a session that a
// client saves itself (TPM2_ContextSave) belongs to whoever holds the context,
// and outlives the client.
package mux
