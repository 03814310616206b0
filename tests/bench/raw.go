package main

import (
	"crypto"
	"crypto/rsa"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
)

// rawWorker is the loop that all else is compared with: one command, framed
// before, sent again and again to a persistent key with an empty authValue. With a public key it verifies each signature, which is the least
// that whoever does so takes.
//
//	raw SOCKET HANDLE OPERATION CIPHERTEXT-HEX OPS [PUBLIC-KEY]
func rawWorker(args []string) error {
	if len(args) != 5 && len(args) != 6 {
		return fmt.Errorf("raw: %d arguments", len(args))
	}
	var key *rsa.PublicKey
	if len(args) == 6 {
		text, err := os.ReadFile(args[5])
		if err == nil {
			key, err = publicRSA(text)
		}
		if err != nil {
			return err
		}
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
		if key != nil {
			return verify(key, args[2], response)
		}
		return nil
	})
}

// verify verifies the signature in a response to TPM2_Sign of a digest of zeros.
func verify(key *rsa.PublicKey, operation string, response []byte) error {
	const at = 10 + 4 + 2 + 2 + 2 // behind the header, the parameters' size, scheme, hash and the signature's size
	digest, signature := make([]byte, crypto.SHA256.Size()), response[at:at+key.Size()]
	if operation == "pss" {
		return rsa.VerifyPSS(key, crypto.SHA256, digest, signature, nil)
	}
	return rsa.VerifyPKCS1v15(key, crypto.SHA256, digest, signature)
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
