package signer

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/tls"
	"errors"
	"slices"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/tpm2-p11/tpm2-p11/internal/keyuse"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

func rsaArea(t *testing.T, attributes tpm2.TPMAObject, scheme tpm2.TPMTRSAScheme) provider.Public {
	t.Helper()
	return parsePublic(t, tpm2.TPMTPublic{
		Type:             tpm2.TPMAlgRSA,
		NameAlg:          tpm2.TPMAlgSHA256,
		ObjectAttributes: attributes,
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{
			Symmetric: tpm2.TPMTSymDefObject{Algorithm: tpm2.TPMAlgNull},
			Scheme:    scheme,
			KeyBits:   2048,
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: slices.Repeat([]byte{0xff}, 256)}),
	})
}

func parsePublic(t *testing.T, area tpm2.TPMTPublic) provider.Public {
	t.Helper()
	p, err := provider.ParsePublic(tpm2.Marshal(area))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Keys that other tools made are often bound to one scheme. What they cannot do is said without asking the TPM.
func TestLimits(t *testing.T) {
	t.Parallel()
	free := tpm2.TPMTRSAScheme{Scheme: tpm2.TPMAlgNull}
	onlyPSS := tpm2.TPMTRSAScheme{
		Scheme:  tpm2.TPMAlgRSAPSS,
		Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgRSAPSS, &tpm2.TPMSSigSchemeRSAPSS{HashAlg: tpm2.TPMAlgSHA384}),
	}
	onlyOAEP := tpm2.TPMTRSAScheme{
		Scheme:  tpm2.TPMAlgOAEP,
		Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgOAEP, &tpm2.TPMSEncSchemeOAEP{HashAlg: tpm2.TPMAlgSHA256}),
	}
	signing, decrypting := tpm2.TPMAObject{SignEncrypt: true}, tpm2.TPMAObject{Decrypt: true}
	both := tpm2.TPMAObject{SignEncrypt: true, Decrypt: true}
	for _, c := range []struct {
		name                                   string
		public                                 provider.Public
		pkcs1, pss, pss384, raw, oaep, oaep384 bool
		schemes                                int
	}{
		{"a signing key", rsaArea(t, signing, free), true, true, true, false, false, false, 6},
		{"a key for both", rsaArea(t, both, free), true, true, true, true, true, true, 6},
		{"a decryption key", rsaArea(t, decrypting, free), false, false, false, false, true, true, 0},
		{"a key for PSS with SHA-384", rsaArea(t, signing, onlyPSS), false, false, true, false, false, false, 1},
		{"a key for OAEP with SHA-256", rsaArea(t, decrypting, onlyOAEP), false, false, false, false, true, false, 0},
		{"an attestation key", rsaArea(t, tpm2.TPMAObject{SignEncrypt: true, Restricted: true}, onlyPSS), false, false, false, false, false, false, 0},
		{"a storage key", rsaArea(t, tpm2.TPMAObject{Decrypt: true, Restricted: true}, free), false, false, false, false, false, false, 0},
	} {
		l := limits{keyuse.Of(c.public)}
		for _, check := range []struct {
			what string
			err  error
			want bool
		}{
			{"PKCS #1 with SHA-256", l.allowSign(tpm2.TPMAlgRSASSA, crypto.SHA256), c.pkcs1},
			{"PSS with SHA-256", l.allowSign(tpm2.TPMAlgRSAPSS, crypto.SHA256), c.pss},
			{"PSS with SHA-384", l.allowSign(tpm2.TPMAlgRSAPSS, crypto.SHA384), c.pss384},
			{"OAEP with SHA-256", l.allowDecrypt(crypto.SHA256), c.oaep},
			{"OAEP with SHA-384", l.allowDecrypt(crypto.SHA384), c.oaep384},
		} {
			if (check.err == nil) != check.want {
				t.Errorf("%s, %s: %v", c.name, check.what, check.err)
			}
			if check.err != nil && !errors.Is(check.err, ErrWrongUse) {
				t.Errorf("%s, %s: %v is no ErrWrongUse", c.name, check.what, check.err)
			}
		}
		if l.Raw() != c.raw {
			t.Errorf("%s: raw operation %v", c.name, l.Raw())
		}
		public, err := c.public.Key()
		if err != nil {
			t.Fatal(err)
		}
		if got := (&Key{public: public, limits: l}).signatureSchemes(); len(got) != c.schemes {
			t.Errorf("%s: TLS schemes %v", c.name, got)
		} else if c.schemes == 1 && got[0] != tls.PSSWithSHA384 {
			t.Errorf("%s: TLS schemes %v", c.name, got)
		}
	}
}

// A key that was made for ECDSA with one hash takes that hash's digests only, and the digest as it is.
func TestECDSAKeysOfOneHash(t *testing.T) {
	t.Parallel()
	public := &ecdsa.PublicKey{Curve: elliptic.P256()}
	l := limits{keyuse.Use{Sign: true, Scheme: tpm2.TPMAlgECDSA, Hash: crypto.SHA384}}
	for _, c := range []struct {
		length int
		hash   crypto.Hash
		is     error
	}{
		{48, crypto.SHA384, nil},
		{48, 0, nil},
		{32, crypto.SHA256, ErrWrongUse},
		{32, 0, ErrLength},
	} {
		if _, err := planECDSA(l, public, make([]byte, c.length), c.hash); !errors.Is(err, c.is) {
			t.Errorf("%d bytes, %v: %v", c.length, c.hash, err)
		}
	}
	area := tpm2.TPMTPublic{
		Type:             tpm2.TPMAlgECC,
		NameAlg:          tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{SignEncrypt: true},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			Symmetric: tpm2.TPMTSymDefObject{Algorithm: tpm2.TPMAlgNull},
			CurveID:   tpm2.TPMECCNistP256,
			Scheme: tpm2.TPMTECCScheme{
				Scheme:  tpm2.TPMAlgECDSA,
				Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA384}),
			},
			KDF: tpm2.TPMTKDFScheme{Scheme: tpm2.TPMAlgNull},
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{}),
	}
	if got := (limits{keyuse.Of(parsePublic(t, area))}); got != l {
		t.Errorf("got %+v, want %+v", got, l)
	}
}
