package p11

import (
	"crypto/hmac"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
)

// Whoever learns which ciphertexts are padded as PKCS #1 v1.5 wants it can decrypt all of them (Bleichenbacher). So nobody learns:
// a ciphertext that is not gives a message too, always the same one for it, made of the ciphertext and of a secret of the key. This is
// implicit rejection as the CFRG's guidance has it (draft-irtf-cfrg-rsa-guidance, section 7).

// rejectionBlock is what a key makes its secret of: the RSA operation on it is known to whoever may use the key, in every process the
// same, and kept nowhere. Nobody else can have it signed or decrypted: the block is padded in no way that is known.
func rejectionBlock(key *rsa.PublicKey) []byte {
	block := prf(key.N.Bytes(), "tpm2-p11 implicit rejection", key.Size())
	block[0], block[1] = 0, 3 // less than the modulus, and no type of block that there is
	return block
}

// prf is the guidance's IRPRF: HMAC-SHA256 over a counter, the label and the length in bits.
func prf(key []byte, label string, n int) []byte {
	out := make([]byte, 0, n+sha256.Size)
	for i := uint16(0); len(out) < n; i++ {
		mac := hmac.New(sha256.New, key)
		mac.Write(binary.BigEndian.AppendUint16(nil, i))
		mac.Write([]byte(label))
		mac.Write(binary.BigEndian.AppendUint16(nil, uint16(8*n)))
		out = mac.Sum(out)
	}
	return out[:n]
}

// pkcs1Lengths is how many lengths of a message are drawn, of which the last that is possible counts.
const pkcs1Lengths = 128

// decodePKCS1 is the message in a decrypted block of k bytes, 00 02 and at least eight bytes other than 0 and 00 before it; or the
// message that a ciphertext without such a block gets. It takes the same time and touches the same memory for both until their lengths.
func decodePKCS1(secret, ciphertext, block []byte) []byte {
	k := len(block)
	mac := hmac.New(sha256.New, secret)
	mac.Write(ciphertext)
	derived := mac.Sum(nil)
	defer clear(derived)
	invented := prf(derived, "message", k)
	defer clear(invented)

	// What is after the first 0 from the third byte on.
	good := subtle.ConstantTimeByteEq(block[0], 0) & subtle.ConstantTimeByteEq(block[1], 2)
	separator, looking := 0, 1
	for i := 2; i < k; i++ {
		found := subtle.ConstantTimeByteEq(block[i], 0) & looking
		separator = subtle.ConstantTimeSelect(found, i, separator)
		looking &^= found
	}
	good &= 1 ^ looking
	good &= subtle.ConstantTimeLessOrEq(2+8, separator)

	length := subtle.ConstantTimeSelect(good, k-1-separator, inventedLength(derived, k-pkcs1Overhead))
	message := make([]byte, k)
	defer clear(message)
	for i := range message {
		message[i] = byte(subtle.ConstantTimeSelect(good, int(block[i]), int(invented[i])))
	}
	return append([]byte{}, message[k-length:]...)
}

// inventedLength draws the length of a message of at most most bytes.
func inventedLength(derived []byte, most int) (length int) {
	mask := 1
	for mask < most+1 { // up to where padding can end, which no secret tells
		mask = mask<<1 | 1
	}
	drawn := prf(derived, "length", 2*pkcs1Lengths)
	defer clear(drawn)
	for i := 0; i < len(drawn); i += 2 {
		candidate := int(binary.BigEndian.Uint16(drawn[i:])) & mask
		length = subtle.ConstantTimeSelect(subtle.ConstantTimeLessOrEq(candidate, most), candidate, length)
	}
	return length
}
