package main

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"strconv"
)

// rawWorker is the loop that all else is compared with: one command, framed
// before, sent again and again to a persistent key with an empty authValue.
//
//	raw SOCKET HANDLE OPERATION CIPHERTEXT-HEX OPS
func rawWorker(args []string) error {
	if len(args) != 5 {
		return fmt.Errorf("raw: %d arguments", len(args))
	}
	handle, err := strconv.ParseUint(args[1], 0, 32)
	if err != nil {
		return err
	}
	ciphertext, err := hex.DecodeString(args[3])
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(args[4])
	if err != nil {
		return err
	}
	command := rawCommand(uint32(handle), args[2], ciphertext)
	conn, err := net.Dial("unix", args[0])
	if err != nil {
		return err
	}
	defer conn.Close()
	response := make([]byte, 4096)
	return batch(n, 1, func() error {
		if _, err := conn.Write(command); err != nil {
			return err
		}
		if _, err := io.ReadFull(conn, response[:10]); err != nil {
			return err
		}
		if size := binary.BigEndian.Uint32(response[2:]); size < 10 || size > uint32(len(response)) {
			return fmt.Errorf("a response of %d bytes", size)
		} else if _, err := io.ReadFull(conn, response[10:size]); err != nil {
			return err
		}
		if code := binary.BigEndian.Uint32(response[6:]); code != 0 {
			return fmt.Errorf("the TPM answers 0x%x", code)
		}
		return nil
	})
}

// Algorithms (TPM 2.0 Part 2, section 6.3).
const (
	algSHA256 = 0x000B
	algRSASSA = 0x0014
	algOAEP   = 0x0017
	algRSAPSS = 0x0016
	algECDSA  = 0x0018
)

// rawCommand is TPM2_Sign of a digest of zeros, or TPM2_RSA_Decrypt, authorised by an empty password.
func rawCommand(handle uint32, operation string, ciphertext []byte) []byte {
	be := binary.BigEndian
	code, scheme := uint32(commandSign), uint16(0)
	switch operation {
	case "pkcs1":
		scheme = algRSASSA
	case "pss":
		scheme = algRSAPSS
	case "ecdsa":
		scheme = algECDSA
	case "oaep":
		code, scheme = commandRSADecrypt, algOAEP
	}
	b := be.AppendUint16(nil, 0x8002)  // TPM_ST_SESSIONS
	b = be.AppendUint32(b, 0)          // size, below
	b = be.AppendUint32(b, code)       //
	b = be.AppendUint32(b, handle)     //
	b = be.AppendUint32(b, 9)          // size of the authorisation
	b = be.AppendUint32(b, 0x40000009) // TPM_RS_PW
	b = append(b, 0, 0, 0, 0, 0)       // no nonce, no attributes, no password
	if code == commandRSADecrypt {     //
		b = be.AppendUint16(b, uint16(len(ciphertext)))
		b = append(b, ciphertext...)
		b = be.AppendUint16(b, scheme)
		b = be.AppendUint16(b, algSHA256)
		b = be.AppendUint16(b, 0) // label
	} else {
		b = be.AppendUint16(b, 32)
		b = append(b, make([]byte, 32)...)
		b = be.AppendUint16(b, scheme)
		b = be.AppendUint16(b, algSHA256)
		b = be.AppendUint16(b, 0x8024)     // TPM_ST_HASHCHECK
		b = be.AppendUint32(b, 0x40000007) // TPM_RH_NULL
		b = be.AppendUint16(b, 0)
	}
	be.PutUint32(b[2:], uint32(len(b)))
	return b
}
