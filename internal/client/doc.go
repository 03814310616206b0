// Package client makes Cryptoki calls of a running `tpm2-p11 serve --socket`, in Go and without the module.
//
// A Client is one application there. What it has open is opened again when the
// server was restarted, and a request that was lost is sent once more: only
// calls that change nothing are made. What a server sends is not trusted:
// whatever is no answer ends the connection.
package client
