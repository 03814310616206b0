package policy

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"encoding/asn1"
	"fmt"
	"math/big"

	"github.com/google/go-tpm/tpm2"
)

// TPMSignature is a signature, as Sign makes it, in the TPM's form: TPMT_SIGNATURE.
func (s Signer) TPMSignature(signature []byte) ([]byte, error) {
	key, err := s.Key()
	if err != nil {
		return nil, err
	}
	switch key := key.(type) {
	case *rsa.PublicKey:
		return tpm2.Marshal(tpm2.TPMTSignature{SigAlg: tpm2.TPMAlgRSASSA, Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgRSASSA,
			&tpm2.TPMSSignatureRSA{Hash: tpm2.TPMAlgSHA256, Sig: tpm2.TPM2BPublicKeyRSA{Buffer: signature}})}), nil
	case *ecdsa.PublicKey:
		var rs ecdsaSignature
		size := (key.Params().BitSize + 7) / 8
		rest, err := asn1.Unmarshal(signature, &rs)
		if err != nil || len(rest) > 0 || rs.R.Sign() < 0 || rs.S.Sign() < 0 || rs.R.BitLen() > 8*size || rs.S.BitLen() > 8*size {
			return nil, fmt.Errorf("%w: the signature is no ECDSA signature of the signer's curve", ErrInvalid)
		}
		return tpm2.Marshal(tpm2.TPMTSignature{SigAlg: tpm2.TPMAlgECDSA, Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgECDSA,
			&tpm2.TPMSSignatureECC{
				Hash:       tpm2.TPMAlgSHA256,
				SignatureR: tpm2.TPM2BECCParameter{Buffer: rs.R.FillBytes(make([]byte, size))},
				SignatureS: tpm2.TPM2BECCParameter{Buffer: rs.S.FillBytes(make([]byte, size))},
			})}), nil
	}
	return nil, fmt.Errorf("%w: a signer's key of type %T", ErrInvalid, key)
}

type ecdsaSignature struct{ R, S *big.Int }

// ParseTPMSignature is the reverse of Signer.TPMSignature: RSASSA PKCS #1 v1.5 or ECDSA, with SHA-256.
func ParseTPMSignature(b []byte) ([]byte, error) {
	sig, err := tpm2.Unmarshal[tpm2.TPMTSignature](b)
	if err != nil {
		return nil, fmt.Errorf("%w: a signature: %w", ErrInvalid, err)
	}
	switch sig.SigAlg {
	case tpm2.TPMAlgRSASSA:
		if r, err := sig.Signature.RSASSA(); err == nil && r.Hash == tpm2.TPMAlgSHA256 {
			return r.Sig.Buffer, nil
		}
	case tpm2.TPMAlgECDSA:
		if e, err := sig.Signature.ECDSA(); err == nil && e.Hash == tpm2.TPMAlgSHA256 {
			return asn1.Marshal(ecdsaSignature{new(big.Int).SetBytes(e.SignatureR.Buffer), new(big.Int).SetBytes(e.SignatureS.Buffer)})
		}
	}
	return nil, fmt.Errorf("%w: a signature that is neither RSASSA nor ECDSA with SHA-256", ErrInvalid)
}
