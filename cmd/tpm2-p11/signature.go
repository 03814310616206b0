package main

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"

	"github.com/google/go-tpm/tpm2"
)

// errSignature is the verdict on a signature that does not fit.
var errSignature = errors.New("the signature is not of this key over this input")

// signature is a signature file: what is in it and, where the file says so, how it was made.
type signature struct {
	raw    []byte // RSA: k bytes; ECDSA: ASN.1 DER
	scheme string // "" when the file does not say
	hash   crypto.Hash
}

// encodeTPMT writes a signature as TPMT_SIGNATURE (TPM 2.0 Part 2, 11.3.4), the form of tpm2-tools.
func encodeTPMT(s signature) ([]byte, error) {
	h := tpmHash(s.hash)
	alg := map[string]tpm2.TPMAlgID{schemePSS: tpm2.TPMAlgRSAPSS, schemePKCS1: tpm2.TPMAlgRSASSA, schemeECDSA: tpm2.TPMAlgECDSA}[s.scheme]
	t := tpm2.TPMTSignature{SigAlg: alg}
	if s.scheme == schemeECDSA {
		var v struct{ R, S *big.Int }
		if rest, err := asn1.Unmarshal(s.raw, &v); err != nil || len(rest) > 0 {
			return nil, errors.New("the ECDSA signature is not ASN.1")
		}
		t.Signature = tpm2.NewTPMUSignature(alg, &tpm2.TPMSSignatureECC{Hash: h,
			SignatureR: tpm2.TPM2BECCParameter{Buffer: v.R.Bytes()}, SignatureS: tpm2.TPM2BECCParameter{Buffer: v.S.Bytes()}})
	} else {
		t.Signature = tpm2.NewTPMUSignature(alg, &tpm2.TPMSSignatureRSA{Hash: h, Sig: tpm2.TPM2BPublicKeyRSA{Buffer: s.raw}})
	}
	return tpm2.Marshal(t), nil
}

// parseSignature reads a signature of a key, plain or as TPMT_SIGNATURE. The forms cannot be mistaken for each other: a plain
// RSA signature is as long as the modulus, a TPMT_SIGNATURE six bytes longer; DER begins with 0x30, ECDSA's identifier with 0x00.
func parseSignature(b []byte, key crypto.PublicKey) (signature, error) {
	switch key := key.(type) {
	case *rsa.PublicKey:
		if len(b) == key.Size() {
			return signature{raw: b}, nil
		}
	case *ecdsa.PublicKey:
		if len(b) > 0 && b[0] == 0x30 {
			return signature{raw: b, scheme: schemeECDSA}, nil
		}
	}
	s, err := parseTPMT(b)
	if err != nil {
		return s, fmt.Errorf("neither a plain signature of this key nor a TPMT_SIGNATURE: %w", err)
	}
	return s, nil
}

func parseTPMT(b []byte) (signature, error) {
	t, err := tpm2.Unmarshal[tpm2.TPMTSignature](b)
	if err != nil {
		// What go-tpm says is of its own types, and helps nobody.
		return signature{}, errors.New("it is cut, or something else")
	}
	if !bytes.Equal(tpm2.Marshal(t), b) {
		return signature{}, errors.New("its length is wrong")
	}
	switch t.SigAlg {
	case tpm2.TPMAlgRSASSA:
		body, err := t.Signature.RSASSA()
		return rsaSignature(schemePKCS1, body, err)
	case tpm2.TPMAlgRSAPSS:
		body, err := t.Signature.RSAPSS()
		return rsaSignature(schemePSS, body, err)
	case tpm2.TPMAlgECDSA:
		body, err := t.Signature.ECDSA()
		return ecdsaSignature(body, err)
	}
	return signature{}, fmt.Errorf("its scheme 0x%04x is neither RSASSA, RSAPSS nor ECDSA", uint16(t.SigAlg))
}

func rsaSignature(scheme string, body *tpm2.TPMSSignatureRSA, err error) (signature, error) {
	if err != nil {
		return signature{}, err
	}
	h, err := hashOfTPM(body.Hash)
	return signature{raw: body.Sig.Buffer, scheme: scheme, hash: h}, err
}

func ecdsaSignature(body *tpm2.TPMSSignatureECC, err error) (signature, error) {
	if err != nil {
		return signature{}, err
	}
	r, s := new(big.Int).SetBytes(body.SignatureR.Buffer), new(big.Int).SetBytes(body.SignatureS.Buffer)
	der, err := asn1.Marshal(struct{ R, S *big.Int }{r, s})
	if err != nil {
		return signature{}, err
	}
	h, err := hashOfTPM(body.Hash)
	return signature{raw: der, scheme: schemeECDSA, hash: h}, err
}

// check verifies a signature over a digest in software.
func (s signature) check(key crypto.PublicKey, digest []byte) error {
	valid := false
	switch key := key.(type) {
	case *rsa.PublicKey:
		switch s.scheme {
		case schemePSS:
			// Whatever the salt's length: a TPM's is the hash's, OpenSSL's by default the longest that fits.
			valid = rsa.VerifyPSS(key, s.hash, digest, s.raw, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthAuto}) == nil
		case schemePKCS1:
			valid = rsa.VerifyPKCS1v15(key, s.hash, digest, s.raw) == nil
		}
	case *ecdsa.PublicKey:
		valid = s.scheme == schemeECDSA && ecdsa.VerifyASN1(key, digest, s.raw)
	}
	if !valid {
		return errSignature
	}
	return nil
}
