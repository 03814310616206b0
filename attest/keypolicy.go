package attest

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"slices"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// KeyPolicy says what evidence of a key must show. AK and Nonce always count;
// what else is nil is not asked for.
type KeyPolicy struct {
	// AK is the Name of the attestation key that is trusted to speak for the TPM:
	// one that MakeCredential's answer has proved, or was recorded in a safe place.
	AK    provider.Name
	Nonce []byte
	// PublicKey is the key's, a DER SubjectPublicKeyInfo.
	PublicKey []byte
	// AuthPolicy is the key's policy digest. The key must not work without it.
	AuthPolicy []byte
	// PCRs must be quoted, exactly these.
	PCRs []provider.PCRValues
}

// VerifyKey trusts evidence for this: the key was born in the AK's TPM, never
// leaves it, and has the public area in the evidence. Otherwise it says by one
// of the package's errors why not.
func VerifyKey(e provider.Evidence, p KeyPolicy) error {
	if len(p.AK) == 0 || len(p.Nonce) == 0 {
		return errors.New("verifying a key's evidence takes the trusted AK's Name and the nonce")
	}
	if e.AK.IsZero() || e.Key.IsZero() {
		return fmt.Errorf("%w: a public area is missing", ErrMalformed)
	}
	if err := checkAK(e, p.AK); err != nil {
		return err
	}
	v := statements{ak: e.AK, hierarchy: e.AKHierarchy, nonce: p.Nonce}
	if err := v.checkResident(e); err != nil {
		return err
	}
	if err := checkKey(e.Key, p); err != nil {
		return err
	}
	return v.checkQuote(e, p.PCRs)
}

func checkAK(e provider.Evidence, want provider.Name) error {
	if !bytes.Equal(e.AK.Name(), want) {
		return fmt.Errorf("%w: its Name is %v, trusted is %v", ErrAK, e.AK.Name(), want)
	}
	if a := e.AK.Attributes(); !a.Restricted || !a.SignEncrypt || a.Decrypt || !a.FixedTPM || !a.FixedParent || !a.SensitiveDataOrigin {
		return fmt.Errorf("%w: it is not a restricted signing key that is fixed to its TPM", ErrAK)
	}
	if err := checkNameAlg(e.AK); err != nil {
		return fmt.Errorf("%w: %w", ErrAK, err)
	}
	if e.AKHierarchy != tpm2.TPMRHEndorsement && e.AKHierarchy != tpm2.TPMRHOwner {
		return fmt.Errorf("%w: it is in hierarchy 0x%08X", ErrAK, uint32(e.AKHierarchy))
	}
	return nil
}

// checkNameAlg refuses Names by SHA-1, of which two different public areas can
// be made to have the same: a TPM that vouches for one vouches for both.
func checkNameAlg(p provider.Public) error {
	alg := p.Area().NameAlg
	if hash, err := alg.Hash(); err != nil || hash.Size() < sha256.Size {
		return fmt.Errorf("its Name is made by algorithm 0x%04X, which is not collision resistant", uint16(alg))
	}
	return nil
}

// checkKey checks a public area that the TPM vouched for.
func checkKey(key provider.Public, p KeyPolicy) error {
	if err := checkNameAlg(key); err != nil {
		return fmt.Errorf("%w: %w", ErrKey, err)
	}
	a := key.Attributes()
	if !a.FixedTPM || !a.FixedParent || !a.SensitiveDataOrigin {
		return fmt.Errorf("%w: fixedTPM is %t, fixedParent %t, sensitiveDataOrigin %t", ErrKey, a.FixedTPM, a.FixedParent, a.SensitiveDataOrigin)
	}
	if p.PublicKey != nil {
		public, err := key.Key()
		if err != nil {
			return fmt.Errorf("%w: %w", ErrPublicKey, err)
		}
		if der, err := x509.MarshalPKIXPublicKey(public); err != nil || !bytes.Equal(der, p.PublicKey) {
			return ErrPublicKey
		}
	}
	if p.AuthPolicy != nil {
		if !bytes.Equal(key.AuthPolicy(), p.AuthPolicy) {
			return fmt.Errorf("%w: it is %x, expected %x", ErrAuthPolicy, key.AuthPolicy(), p.AuthPolicy)
		}
		if len(p.AuthPolicy) > 0 && a.UserWithAuth {
			return fmt.Errorf("%w: with userWithAuth the key works without it", ErrAuthPolicy)
		}
	}
	return nil
}

// statements checks what one AK signed for one nonce.
type statements struct {
	ak        provider.Public
	hierarchy provider.Handle
	nonce     []byte
}

// open checks a statement's signature and that it is of this AK, this nonce
// and the wanted type.
func (v statements) open(s provider.Statement, want tpm2.TPMST) (*tpm2.TPMSAttest, error) {
	if err := v.checkSignature(s); err != nil {
		return nil, err
	}
	// That it begins with TPM_GENERATED_VALUE is what no key but a restricted one ensures.
	if len(s.Attest) < 4 || binary.BigEndian.Uint32(s.Attest) != uint32(tpm2.TPMGeneratedValue) {
		return nil, fmt.Errorf("%w: no TPM made the statement", ErrStatement)
	}
	a, err := provider.Unmarshal[tpm2.TPMSAttest](s.Attest)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if a.Type != want {
		return nil, fmt.Errorf("%w: it is of type 0x%04X, not 0x%04X", ErrStatement, uint16(a.Type), uint16(want))
	}
	signer, err := provider.QualifiedName(v.hierarchy, v.ak)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(a.QualifiedSigner.Buffer, signer) {
		return nil, fmt.Errorf("%w: it was signed by %x", ErrStatement, a.QualifiedSigner.Buffer)
	}
	if subtle.ConstantTimeCompare(a.ExtraData.Buffer, v.nonce) != 1 {
		return nil, ErrNonce
	}
	return a, nil
}

// checkSignature takes ECDSA and RSASSA with SHA-256.
func (v statements) checkSignature(s provider.Statement) error {
	signature, err := provider.Unmarshal[tpm2.TPMTSignature](s.Signature)
	if err != nil {
		return fmt.Errorf("%w: signature: %w", ErrMalformed, err)
	}
	key, err := v.ak.Key()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrAK, err)
	}
	digest := sha256.Sum256(s.Attest)
	ok := false
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		if e, err := signature.Signature.ECDSA(); err == nil && e.Hash == tpm2.TPMAlgSHA256 {
			ok = ecdsa.Verify(key, digest[:], new(big.Int).SetBytes(e.SignatureR.Buffer), new(big.Int).SetBytes(e.SignatureS.Buffer))
		}
	case *rsa.PublicKey:
		if r, err := signature.Signature.RSASSA(); err == nil && r.Hash == tpm2.TPMAlgSHA256 {
			ok = rsa.VerifyPKCS1v15(key, crypto.SHA256, digest[:], r.Sig.Buffer) == nil
		}
	}
	if !ok {
		return ErrSignature
	}
	return nil
}

// checkResident checks that the TPM holds the key, by either statement.
func (v statements) checkResident(e provider.Evidence) error {
	certified, audited := len(e.Certify.Attest) > 0, len(e.Audit.Attest) > 0
	switch {
	case certified && !audited:
		a, err := v.open(e.Certify, tpm2.TPMSTAttestCertify)
		if err != nil {
			return err
		}
		info, err := a.Attested.Certify()
		if err != nil {
			return fmt.Errorf("%w: %w", ErrMalformed, err)
		}
		if !bytes.Equal(info.Name.Buffer, e.Key.Name()) {
			return fmt.Errorf("%w: the TPM certified %x, the public area is that of %v", ErrKey, info.Name.Buffer, e.Key.Name())
		}
		return nil
	case audited && !certified:
		return v.checkAudit(e)
	}
	return fmt.Errorf("%w: of a certification and an audit there must be one", ErrMalformed)
}

// checkAudit checks that the audited session is one TPM2_ReadPublic of the key
// as a child of the parent. A key that was loaded from outside, as its public
// half alone, has a qualified Name without a parent.
func (v statements) checkAudit(e provider.Evidence) error {
	if e.Parent.IsZero() {
		return fmt.Errorf("%w: the parent's public area is missing", ErrMalformed)
	}
	if a := e.Parent.Attributes(); !e.Parent.IsStorageKey() || !a.FixedTPM || !a.FixedParent {
		return fmt.Errorf("%w: its parent is not a storage key that is fixed to its TPM", ErrKey)
	}
	if err := checkNameAlg(e.Parent); err != nil {
		return fmt.Errorf("%w: its parent: %w", ErrKey, err)
	}
	a, err := v.open(e.Audit, tpm2.TPMSTAttestSessionAudit)
	if err != nil {
		return err
	}
	info, err := a.Attested.SessionAudit()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	qualified, err := provider.QualifiedName(tpm2.TPMRHOwner, e.Parent, e.Key)
	if err != nil {
		return err
	}
	if !bytes.Equal(info.SessionDigest.Buffer, auditDigest(e.Key, qualified)) {
		return fmt.Errorf("%w: the TPM did not read this public area, or not below this parent", ErrKey)
	}
	return nil
}

// auditDigest is the audit digest (TPM 2.0 Part 1, "Session Audit") of a
// session of SHA-256 in which a TPM carried out TPM2_ReadPublic once.
func auditDigest(key provider.Public, qualified provider.Name) []byte {
	code := binary.BigEndian.AppendUint32(nil, uint32(tpm2.TPMCCReadPublic))
	cpHash := sha256.Sum256(slices.Concat(code, key.Name()))
	var response []byte
	for _, field := range [][]byte{key.Marshal(), key.Name(), qualified} {
		response = binary.BigEndian.AppendUint16(response, uint16(len(field)))
		response = append(response, field...)
	}
	rpHash := sha256.Sum256(slices.Concat(make([]byte, 4), code, response)) // 4 bytes: TPM_RC_SUCCESS
	digest := sha256.Sum256(slices.Concat(make([]byte, sha256.Size), cpHash[:], rpHash[:]))
	return digest[:]
}
