package client

import (
	"crypto"

	"github.com/tpm2-p11/tpm2-p11/internal/wire"
)

// Mechanisms (PKCS #11 v3.1 current mechanisms).
const (
	MechanismRSAPKCS      = 0x1
	MechanismRSAX509      = 0x3
	MechanismRSAOAEP      = 0x9
	MechanismRSAPSS       = 0xD
	MechanismSHA256RSA    = 0x40
	MechanismSHA384RSA    = 0x41
	MechanismSHA512RSA    = 0x42
	MechanismSHA256RSAPSS = 0x43
	MechanismSHA384RSAPSS = 0x44
	MechanismSHA512RSAPSS = 0x45
	MechanismECDSA        = 0x1041
	MechanismECDSASHA256  = 0x1044
	MechanismECDSASHA384  = 0x1045
	MechanismECDSASHA512  = 0x1046
	oaepDataSpecified     = 1
)

// hashes are the mechanism and the mask generation function (CKG_) of each hash.
var hashes = map[crypto.Hash]struct{ mechanism, mgf uint64 }{
	crypto.SHA1:   {0x220, 1},
	crypto.SHA256: {0x250, 2},
	crypto.SHA384: {0x260, 3},
	crypto.SHA512: {0x270, 4},
}

// SignPKCS1 is an RSASSA-PKCS1-v1_5 signature of a DigestInfo or other content.
func SignPKCS1(content []byte) Operation {
	return Operation{Mechanism: MechanismRSAPKCS, Input: content}
}

// SignPSS is an RSASSA-PSS signature with MGF1 of the same hash.
func SignPSS(h crypto.Hash, saltLength int, digest []byte) Operation {
	return Operation{Mechanism: MechanismRSAPSS, Parameter: parameter(h, uint64(saltLength)), Input: digest}
}

// SignECDSA is an ECDSA signature: r and s, of one length.
func SignECDSA(digest []byte) Operation { return Operation{Mechanism: MechanismECDSA, Input: digest} }

// DecryptOAEP is RSAES-OAEP with MGF1 of the same hash.
func DecryptOAEP(h crypto.Hash, label, ciphertext []byte) Operation {
	var w wire.Writer
	w.Bytes(append([]byte{}, label...))
	source, _ := w.Message() // a label that is too long is refused with the call
	return Operation{Decrypt: true, Mechanism: MechanismRSAOAEP, Parameter: append(parameter(h, oaepDataSpecified), source...), Input: ciphertext}
}

// DecryptUnpadded is the RSA operation without padding, on k bytes. A server does it only where its configuration says so.
func DecryptUnpadded(in []byte) Operation {
	return Operation{Decrypt: true, Mechanism: MechanismRSAX509, Input: in}
}

// parameter is what the parameters of PSS and OAEP begin with.
func parameter(h crypto.Hash, third uint64) []byte {
	var w wire.Writer
	w.Uint64(hashes[h].mechanism)
	w.Uint64(hashes[h].mgf)
	w.Uint64(third)
	p, _ := w.Message() // 24 bytes are never too long
	return p
}
