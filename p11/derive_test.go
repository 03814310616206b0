package p11

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/binary"
	"strings"
	"testing"

	"github.com/tpm2-p11/tpm2-p11/internal/wire"
	"github.com/tpm2-p11/tpm2-p11/keystore"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

func agreementOf(kdf uint64, shared, point []byte) Mechanism {
	var w wire.Writer
	w.Uint64(kdf)
	w.Bytes(shared)
	w.Bytes(point)
	parameter, _ := w.Message()
	return Mechanism{Type: CKM_ECDH1_DERIVE, Parameter: bytes.Clone(parameter)}
}

func shown(more ...Attribute) []Attribute {
	return append([]Attribute{class(CKO_SECRET_KEY), {CKA_KEY_TYPE, ulong(CKK_GENERIC_SECRET)}, {CKA_SENSITIVE, boolean(false)}, {CKA_EXTRACTABLE, boolean(true)}}, more...)
}

func TestASecretIsDerivedWithAPeer(t *testing.T) {
	t.Parallel()
	w := open(t)
	w.make(keystore.KeySpec{Label: "agree", Type: provider.P256, Use: provider.Use{Derive: true}, Wrapped: true})
	s := w.session(true)
	key := w.one(s, CKO_PRIVATE_KEY)
	if w.attribute(s, key, CKA_DERIVE)[0] != 1 || w.attribute(s, key, CKA_SIGN)[0] != 0 {
		t.Error("the key does not say that it derives")
	}
	peer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	w.must(err)
	point, err := peer.PublicKey.Bytes()
	w.must(err)
	octets, err := asn1.Marshal(point)
	w.must(err)
	own, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), w.attribute(s, w.one(s, CKO_PUBLIC_KEY), CKA_EC_POINT)[2:])
	w.must(err)
	private, err := peer.ECDH()
	w.must(err)
	public, err := own.ECDH()
	w.must(err)
	z, err := private.ECDH(public)
	w.must(err)
	kdf := sha256.New()
	kdf.Write(binary.BigEndian.AppendUint32(bytes.Clone(z), 1))
	kdf.Write([]byte("shared"))

	for name, d := range map[string]struct {
		m    Mechanism
		t    []Attribute
		want []byte
	}{
		"all of it":          {agreementOf(CKD_NULL, nil, point), shown(), z},
		"its end":            {agreementOf(CKD_NULL, nil, octets), shown(Attribute{CKA_VALUE_LEN, ulong(16)}), z[16:]},
		"through a function": {agreementOf(CKD_SHA256_KDF, []byte("shared"), point), shown(Attribute{CKA_VALUE_LEN, ulong(24)}), kdf.Sum(nil)[:24]},
	} {
		derived, err := w.DeriveKey(s, d.m, key, d.t)
		w.must(err)
		if got := w.attribute(s, derived, CKA_VALUE); !bytes.Equal(got, d.want) {
			t.Errorf("%s: %x, want %x", name, got, d.want)
		}
		if w.attribute(s, derived, CKA_LOCAL)[0] != 0 {
			t.Errorf("%s: the key says that it was generated here", name)
		}
		if w.attribute(s, derived, CKA_ALWAYS_SENSITIVE)[0] != 0 || w.attribute(s, derived, CKA_NEVER_EXTRACTABLE)[0] != 0 {
			t.Errorf("%s: the key says that it was never shown", name)
		}
	}
	// A key that is guarded from the beginning, made of one that always was, says so.
	guarded, err := w.DeriveKey(s, agreementOf(CKD_NULL, nil, point), key, nil)
	w.must(err)
	if w.attribute(s, guarded, CKA_ALWAYS_SENSITIVE)[0] != 1 || w.attribute(s, guarded, CKA_NEVER_EXTRACTABLE)[0] != 1 {
		t.Error("the derived key does not say that it was always guarded")
	}
	for name, d := range map[string]struct {
		m    Mechanism
		t    []Attribute
		want RV
	}{
		"a point off the curve":          {agreementOf(CKD_NULL, nil, append([]byte{4}, make([]byte, 64)...)), shown(), CKR_MECHANISM_PARAM_INVALID},
		"no point":                       {agreementOf(CKD_NULL, nil, nil), shown(), CKR_MECHANISM_PARAM_INVALID},
		"shared data that nobody hashes": {agreementOf(CKD_NULL, []byte("x"), point), shown(), CKR_MECHANISM_PARAM_INVALID},
		"SHA-1":                          {agreementOf(2, nil, point), shown(), CKR_MECHANISM_PARAM_INVALID},
		"more than there is":             {agreementOf(CKD_NULL, nil, point), shown(Attribute{CKA_VALUE_LEN, ulong(33)}), CKR_KEY_SIZE_RANGE},
		"a value besides":                {agreementOf(CKD_NULL, nil, point), shown(Attribute{CKA_VALUE, []byte("mine")}), CKR_TEMPLATE_INCONSISTENT},
		"another mechanism":              {mechanismOf(CKM_ECDSA), shown(), CKR_MECHANISM_INVALID},
	} {
		if n := w.commands(func() {
			if _, err := w.DeriveKey(s, d.m, key, d.t); RVOf(err) != d.want {
				t.Errorf("%s: %v", name, err)
			}
		}); n != 0 {
			t.Errorf("%s: %d TPM commands", name, n)
		}
	}
}

// Of a peer's point, 04 || X || Y, each 256th begins as an OCTET STRING of its length does.
func TestAPointThatLooksLikeAnOctetString(t *testing.T) {
	t.Parallel()
	for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384()} {
		var key *ecdsa.PrivateKey
		var point []byte
		for len(point) == 0 || int(point[1]) != len(point)-2 {
			var err error
			if key, err = ecdsa.GenerateKey(curve, rand.Reader); err != nil {
				t.Fatal(err)
			}
			if point, err = key.PublicKey.Bytes(); err != nil {
				t.Fatal(err)
			}
		}
		octets, err := asn1.Marshal(point)
		if err != nil {
			t.Fatal(err)
		}
		for form, given := range map[string][]byte{"as it is": point, "as an OCTET STRING": octets} {
			if got, err := parsePoint(curve, given); err != nil || !got.Equal(&key.PublicKey) {
				t.Errorf("%s, %s: %v, %v", curve.Params().Name, form, got, err)
			}
		}
	}
}

func TestKeysThatSignDoNotDerive(t *testing.T) {
	t.Parallel()
	w := open(t)
	w.make(ecKey("web"))
	s := w.session(true)
	_, err := w.DeriveKey(s, agreementOf(CKD_NULL, nil, nil), w.one(s, CKO_PRIVATE_KEY), shown())
	w.refused(err, CKR_KEY_FUNCTION_NOT_PERMITTED)
	if text := w.log.String(); !strings.Contains(text, `reason="key \"web\" may not derive: `) {
		t.Errorf("the log does not say why: %s", text)
	}
}

func TestAKeyForDerivationIsGenerated(t *testing.T) {
	t.Parallel()
	w := open(t)
	s := w.session(true)
	curve, err := curveOID(elliptic.P256())
	w.must(err)
	_, key, err := w.GenerateKeyPair(s, mechanismOf(CKM_EC_KEY_PAIR_GEN), []Attribute{{CKA_EC_PARAMS, curve}},
		[]Attribute{{CKA_TOKEN, boolean(true)}, {CKA_DERIVE, boolean(true)}, label("agree")})
	w.must(err)
	if w.attribute(s, key, CKA_DERIVE)[0] != 1 || w.attribute(s, key, CKA_SIGN)[0] != 0 {
		t.Error("the key does not derive alone")
	}
}
