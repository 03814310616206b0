// Package nitrosim puts an emulated attestable EC2 instance together: a TPM
// with NitroTPM's attestation command, measured as a firmware would, shared by
// any number of clients.
package nitrosim
