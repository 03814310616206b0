// Package serve answers Cryptoki calls of other processes, as frames of package wire on sockets: of the forked children of a host
// (Helper), and of whoever connects to a server.
//
// What comes from a socket is untrusted: every length is checked, a client that stops in the midst of a frame is left, what one
// client has in work is bounded, and no client delays another one but in the TPM's queue.
package serve
