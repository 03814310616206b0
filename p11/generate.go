package p11

import (
	"crypto"
	"crypto/ecdsa"
	"encoding/hex"
	"maps"
	"math/big"
	"unicode/utf8"

	"github.com/tpm2-p11/tpm2-p11/keystore"
	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

const ecFlags = CKF_EC_F_P | CKF_EC_NAMEDCURVE | CKF_EC_UNCOMPRESS

// keyGenerations make keys in the TPM (PKCS #11 v3.1, sections 6.1.4 and 6.3).
var keyGenerations = []mechanism{
	{id: CKM_RSA_PKCS_KEY_PAIR_GEN, flags: CKF_HW | CKF_GENERATE_KEY_PAIR, keys: CKK_RSA, sizes: rsaSizes},
	{id: CKM_EC_KEY_PAIR_GEN, flags: CKF_HW | CKF_GENERATE_KEY_PAIR | ecFlags, keys: CKK_EC, sizes: ecSizes},
}

func generationOf(public crypto.PublicKey) MechanismType {
	if _, ok := public.(*ecdsa.PublicKey); ok {
		return CKM_EC_KEY_PAIR_GEN
	}
	return CKM_RSA_PKCS_KEY_PAIR_GEN
}

// What the templates of a key pair may say besides storageAttributes.
var (
	pairPublicTemplate = []AttributeType{
		CKA_KEY_TYPE, CKA_SUBJECT, CKA_START_DATE, CKA_END_DATE, CKA_DERIVE, CKA_TRUSTED, CKA_ENCRYPT, CKA_VERIFY, CKA_VERIFY_RECOVER,
		CKA_WRAP, CKA_ALLOWED_MECHANISMS, CKA_MODULUS_BITS, CKA_PUBLIC_EXPONENT, CKA_EC_PARAMS,
	}
	pairPrivateTemplate = []AttributeType{
		CKA_KEY_TYPE, CKA_SUBJECT, CKA_START_DATE, CKA_END_DATE, CKA_DERIVE, CKA_SENSITIVE, CKA_EXTRACTABLE, CKA_DECRYPT, CKA_SIGN,
		CKA_SIGN_RECOVER, CKA_UNWRAP, CKA_WRAP_WITH_TRUSTED, CKA_ALWAYS_AUTHENTICATE, CKA_ALLOWED_MECHANISMS, CKA_TPM2_POLICY,
	}
)

// GenerateKeyPair is C_GenerateKeyPair (PKCS #11 v3.1, section 5.18): a key pair in the TPM, as token objects. CKA_SIGN and
// CKA_DECRYPT say what the key is for: signatures when the templates do not say. What a key in a TPM cannot be is refused.
func (m *Module) GenerateKeyPair(h SessionHandle, mechanism Mechanism, public, private []Attribute) (publicHandle, privateHandle ObjectHandle, err error) {
	s, err := m.session(h)
	if err != nil {
		return 0, 0, err
	}
	defer s.lib.report("C_GenerateKeyPair", &err)
	row, err := mechanisms.find(mechanism.Type, CKF_GENERATE_KEY_PAIR)
	if err != nil {
		return 0, 0, err
	}
	if len(mechanism.Parameter) != 0 {
		return 0, 0, CKR_MECHANISM_PARAM_INVALID
	}
	spec, err := keySpec(row, s.slot.token.HasPIN(), public, private)
	if err != nil {
		return 0, 0, err
	}
	if err := s.mayChange(); err != nil {
		return 0, 0, err
	}
	if ok, err := s.slot.token.TPM().Supports(s.lib.ctx, spec.Type); err != nil {
		return 0, 0, err
	} else if !ok && row.keys == CKK_EC {
		return 0, 0, refuse(CKR_CURVE_NOT_SUPPORTED, "the TPM makes no %s keys", spec.Type)
	} else if !ok {
		return 0, 0, refuse(CKR_KEY_SIZE_RANGE, "the TPM makes no %s keys", spec.Type)
	}
	entry, err := s.slot.token.CreateKey(s.lib.ctx, spec)
	if err != nil {
		return 0, 0, err
	}
	s.lib.forget(s.slot)
	serial, name := s.slot.token.Serial(), entry.Object.Public.Name()
	publicHandle, _ = tokenHandle(serial, CKO_PUBLIC_KEY, name)
	privateHandle, _ = tokenHandle(serial, CKO_PRIVATE_KEY, name)
	return publicHandle, privateHandle, nil
}

// noLabel is the label of a key that got none, nor a CKA_ID.
const noLabel = "unnamed"

// keySpec reads the templates of a key pair.
func keySpec(row *mechanism, hasPIN bool, publicList, privateList []Attribute) (spec keystore.KeySpec, err error) {
	public, err := parseTemplate(publicList)
	if err != nil {
		return spec, err
	}
	private, err := parseTemplate(privateList)
	if err != nil {
		return spec, err
	}
	if err := checkPair(row, hasPIN, public, private); err != nil {
		return spec, err
	}
	if spec, err = specWanted(row, public, private); err != nil {
		return spec, err
	}
	spec.Type, err = keyTypeWanted(row, public)
	return spec, err
}

// specWanted reads what a new key is for, what it is called and what it is bound to.
func specWanted(row *mechanism, public, private template) (spec keystore.KeySpec, err error) {
	if spec.Use, err = useWanted(row, public, private); err != nil {
		return spec, err
	}
	id, err := either(public, private, CKA_ID)
	if err != nil {
		return spec, err
	}
	if len(id) > 0 {
		spec.CKAID = id
	}
	label, err := either(public, private, CKA_LABEL)
	if err != nil {
		return spec, err
	}
	switch {
	case !utf8.Valid(label):
		return spec, refuse(CKR_ATTRIBUTE_VALUE_INVALID, "a label is UTF-8")
	case len(label) > 0:
		spec.Label = string(label)
	case len(id) > 0:
		spec.Label = hex.EncodeToString(id)
	default:
		spec.Label = noLabel
	}
	if err := keystore.CheckLabel(spec.Label); err != nil {
		return spec, refuse(CKR_ATTRIBUTE_VALUE_INVALID, "%v", err)
	}
	if wanted := private[CKA_TPM2_POLICY]; len(wanted) > 0 {
		if spec.Policy, err = policy.Parse(string(wanted)); err != nil {
			return spec, refuse(CKR_ATTRIBUTE_VALUE_INVALID, "%v", err)
		}
	}
	return spec, nil
}

// checkPair refuses what no key in a TPM is.
func checkPair(row *mechanism, hasPIN bool, public, private template) error {
	if err := public.only(storageAttributes, pairPublicTemplate); err != nil {
		return err
	}
	if err := private.only(storageAttributes, pairPrivateTemplate); err != nil {
		return err
	}
	if token, err := private.bool(CKA_TOKEN, false); err != nil {
		return err
	} else if !token {
		return refuse(CKR_TEMPLATE_INCONSISTENT, "private keys are token objects: CKA_TOKEN must be true")
	}
	for _, half := range []struct {
		t     template
		class ObjectClass
	}{{public, CKO_PUBLIC_KEY}, {private, CKO_PRIVATE_KEY}} {
		if err := half.t.mustEqual(CKA_CLASS, ulong(uint64(half.class))); err != nil {
			return err
		}
		if err := half.t.mustEqual(CKA_KEY_TYPE, ulong(row.keys)); err != nil {
			return err
		}
		if err := half.t.mayNotChoose(); err != nil {
			return err
		}
	}
	if err := public.mustBe(false, CKA_PRIVATE, CKA_COPYABLE, CKA_TRUSTED, CKA_WRAP); err != nil {
		return err
	}
	if err := public.mustBe(true, CKA_MODIFIABLE); err != nil {
		return err
	}
	return checkPrivate(hasPIN, private)
}

// checkPrivate refuses what no private key in a TPM is.
func checkPrivate(hasPIN bool, t template) error {
	if err := t.mustBe(false, CKA_COPYABLE, CKA_EXTRACTABLE, CKA_UNWRAP, CKA_WRAP_WITH_TRUSTED, CKA_ALWAYS_AUTHENTICATE); err != nil {
		return err
	}
	if err := t.mustBe(true, CKA_MODIFIABLE, CKA_DESTROYABLE, CKA_SENSITIVE); err != nil {
		return err
	}
	if hasPIN {
		return t.mustBe(true, CKA_PRIVATE)
	}
	_, err := t.bool(CKA_PRIVATE, true) // applications ask for it in every token; without a PIN nothing is private
	return err
}

// mayNotChoose refuses what is not an application's to say of a key.
func (t template) mayNotChoose() error {
	for _, fixed := range []AttributeType{CKA_ALLOWED_MECHANISMS, CKA_SUBJECT, CKA_START_DATE, CKA_END_DATE} {
		if len(t[fixed]) != 0 {
			return refuse(CKR_TEMPLATE_INCONSISTENT, "attribute 0x%x cannot be chosen", uint64(fixed))
		}
	}
	// pkcs11-tool asks every EC key to derive, NSS every key to sign with recovery. The key made says what it does.
	for _, ignored := range []AttributeType{CKA_DERIVE, CKA_SIGN_RECOVER, CKA_VERIFY_RECOVER} {
		if _, err := t.bool(ignored, false); err != nil {
			return err
		}
	}
	return nil
}

// keyTypeWanted reads the size or the curve.
func keyTypeWanted(row *mechanism, public template) (provider.KeyType, error) {
	var bits uint64
	if row.keys == CKK_RSA {
		if !public.has(CKA_MODULUS_BITS) {
			return "", CKR_TEMPLATE_INCOMPLETE
		}
		if public.has(CKA_PUBLIC_EXPONENT) && new(big.Int).SetBytes(public[CKA_PUBLIC_EXPONENT]).Cmp(big.NewInt(65537)) != 0 {
			return "", refuse(CKR_ATTRIBUTE_VALUE_INVALID, "the public exponent is 65537")
		}
		var err error
		if bits, err = public.ulong(CKA_MODULUS_BITS, 0); err != nil {
			return "", err
		}
	} else {
		if !public.has(CKA_EC_PARAMS) {
			return "", CKR_TEMPLATE_INCOMPLETE
		}
		curve, err := parseCurve(public[CKA_EC_PARAMS])
		if err != nil {
			return "", err
		}
		bits = uint64(curve.Params().BitSize)
	}
	for _, k := range keyTypes {
		if k.kind == row.keys && k.bits == bits {
			return k.name, nil
		}
	}
	if row.keys == CKK_EC {
		return "", CKR_CURVE_NOT_SUPPORTED
	}
	return "", refuse(CKR_KEY_SIZE_RANGE, "RSA keys have 2048, 3072 or 4096 bits, not %d", bits)
}

// useWanted reads what the key is for: from the private template, and from the public one where that is silent.
func useWanted(row *mechanism, public, private template) (provider.Use, error) {
	sign, err := wanted(public, private, CKA_VERIFY, CKA_SIGN)
	if err != nil {
		return provider.Use{}, err
	}
	encrypts, err := public.bool(CKA_ENCRYPT, false)
	if err != nil {
		return provider.Use{}, err
	}
	if decrypts, err := private.bool(CKA_DECRYPT, true); err == nil && encrypts && !decrypts {
		// NSS asks of both halves what CKM_RSA_PKCS does here: it encrypts, for the keys of others, and does not decrypt.
		public = maps.Clone(public)
		delete(public, CKA_ENCRYPT)
	}
	decrypt, err := wanted(public, private, CKA_ENCRYPT, CKA_DECRYPT)
	if err != nil {
		return provider.Use{}, err
	}
	derives, err := private.bool(CKA_DERIVE, false)
	if err != nil {
		return provider.Use{}, err
	}
	if row.keys == CKK_EC && derives && sign != yes && decrypt != yes {
		return provider.Use{Derive: true}, nil
	}
	use := provider.Use{Sign: sign == yes || sign == unsaid && decrypt != yes, Decrypt: decrypt == yes}
	switch {
	case use.Decrypt && row.keys == CKK_EC:
		return use, refuse(CKR_TEMPLATE_INCONSISTENT, "EC keys do not decrypt")
	case !use.Sign && !use.Decrypt:
		return use, refuse(CKR_TEMPLATE_INCONSISTENT, "a key that may neither sign nor decrypt")
	}
	return use, nil
}

type answer int

const (
	unsaid answer = iota
	no
	yes
)

// wanted reads one use of both halves, which must not contradict each other.
func wanted(public, private template, publicUse, privateUse AttributeType) (answer, error) {
	result := unsaid
	for _, half := range []struct {
		t template
		a AttributeType
	}{{public, publicUse}, {private, privateUse}} {
		if !half.t.has(half.a) {
			continue
		}
		v, err := half.t.bool(half.a, false)
		if err != nil {
			return unsaid, err
		}
		said := no
		if v {
			said = yes
		}
		if result != unsaid && result != said {
			return unsaid, refuse(CKR_TEMPLATE_INCONSISTENT, "attributes 0x%x and 0x%x contradict each other", uint64(publicUse), uint64(privateUse))
		}
		result = said
	}
	return result, nil
}

// either gives an attribute that both halves share.
func either(public, private template, a AttributeType) ([]byte, error) {
	value := private[a]
	if len(value) == 0 {
		return public[a], nil
	}
	if len(public[a]) != 0 {
		return value, public.mustEqual(a, value)
	}
	return value, nil
}
