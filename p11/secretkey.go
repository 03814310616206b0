package p11

import (
	"bytes"
	"crypto/aes"
	"crypto/sha1"
	"encoding/hex"
	"slices"
	"unicode/utf8"

	"github.com/tpm2-p11/tpm2-p11/internal/secret"
	"github.com/tpm2-p11/tpm2-p11/keystore"
	"github.com/tpm2-p11/tpm2-p11/policy"
)

// secretKinds are the types of secret keys (PKCS #11 v3.1, sections 6.8, 6.13 and 6.20 to 6.27).
var secretKinds = []struct {
	kind uint64
	name keystore.SecretKind
}{
	{CKK_AES, keystore.SecretAES},
	{CKK_GENERIC_SECRET, keystore.SecretGeneric},
	{CKK_SHA_1_HMAC, keystore.SecretSHA1},
	{CKK_SHA224_HMAC, keystore.SecretSHA224},
	{CKK_SHA256_HMAC, keystore.SecretSHA256},
	{CKK_SHA384_HMAC, keystore.SecretSHA384},
	{CKK_SHA512_HMAC, keystore.SecretSHA512},
}

// secretUses are the attributes for a secret key's uses.
var secretUses = []struct {
	attribute AttributeType
	use       keystore.SecretUse
}{
	{CKA_DECRYPT, keystore.UseDecrypt}, {CKA_ENCRYPT, keystore.UseEncrypt}, {CKA_SIGN, keystore.UseSign},
	{CKA_UNWRAP, keystore.UseUnwrap}, {CKA_VERIFY, keystore.UseVerify}, {CKA_WRAP, keystore.UseWrap},
}

var secretKeyTemplate = []AttributeType{
	CKA_KEY_TYPE, CKA_VALUE, CKA_VALUE_LEN, CKA_START_DATE, CKA_END_DATE, CKA_DERIVE, CKA_TRUSTED, CKA_SENSITIVE, CKA_EXTRACTABLE,
	CKA_ENCRYPT, CKA_DECRYPT, CKA_SIGN, CKA_VERIFY, CKA_WRAP, CKA_UNWRAP, CKA_WRAP_WITH_TRUSTED, CKA_ALLOWED_MECHANISMS, CKA_TPM2_POLICY,
	CKA_CHECK_VALUE,
}

// origin is where a secret key's value comes from. The zero value stands for one that was made elsewhere.
type origin struct {
	mechanism  MechanismType // that generated it here
	base       attributes    // of the key that it was derived from
	ciphertext []byte        // under which AWS KMS gives it again
}

// since tells whether a key was always guarded so, where it is now: one that was generated here, or derived from such a key.
func (o origin) since(always AttributeType, now bool) bool {
	return now && (o.mechanism != 0 || o.base.is(always))
}

// makeSecretKey makes a secret key object by a template: a session object, or one of the token, sealed in the TPM. All functions that
// make secret keys end here. The value is wiped.
func (s *session) makeSecretKey(t template, value *secret.Bytes, from origin) (ObjectHandle, error) {
	defer value.Wipe()
	if err := t.only(storageAttributes, secretKeyTemplate); err != nil {
		return 0, err
	}
	info, err := secretKeyInfo(t, value.Len(), from)
	if err != nil {
		return 0, err
	}
	if info.CheckValue, err = checkValueWanted(t, info.Kind, value.Bytes()); err != nil {
		return 0, err
	}
	p, err := s.place(t)
	if err != nil {
		return 0, err
	}
	return s.keep(p, CKO_SECRET_KEY, info, value)
}

// secretKeyInfo reads what a secret key shall be. Without a wish it is sensitive and cannot be extracted, and is for encryption and
// decryption, or for signatures; a key that shall wrap is for nothing else that was not asked for, since wrapping and decrypting with
// one key takes every extractable key out.
func secretKeyInfo(t template, length int, from origin) (keystore.SecretInfo, error) {
	info := keystore.SecretInfo{Length: length, Mechanism: uint64(from.mechanism), KMSCiphertext: from.ciphertext}
	fail := func(err error) (keystore.SecretInfo, error) { return keystore.SecretInfo{}, err }
	if !t.has(CKA_KEY_TYPE) {
		return fail(CKR_TEMPLATE_INCOMPLETE)
	}
	kind, err := t.ulong(CKA_KEY_TYPE, 0)
	if err != nil {
		return fail(err)
	}
	for _, known := range secretKinds {
		if known.kind == kind {
			info.Kind = known.name
		}
	}
	switch aes := info.Kind == keystore.SecretAES; {
	case info.Kind == "":
		return fail(refuse(CKR_TEMPLATE_INCONSISTENT, "secret keys of type 0x%x are not offered", kind))
	case aes && length != 16 && length != 24 && length != 32:
		return fail(refuse(CKR_ATTRIBUTE_VALUE_INVALID, "an AES key of %d bytes", length))
	case length < 1 || length > keystore.MaxSecretKey:
		return fail(refuse(CKR_ATTRIBUTE_VALUE_INVALID, "a secret key of %d bytes: it has 1 to %d", length, keystore.MaxSecretKey))
	}
	if err := t.mustEqual(CKA_VALUE_LEN, ulong(uint64(length))); err != nil {
		return fail(err)
	}
	if err := t.mustBe(false, CKA_TRUSTED, CKA_DERIVE); err != nil {
		return fail(err)
	}
	for _, fixed := range []AttributeType{CKA_START_DATE, CKA_END_DATE} {
		if len(t[fixed]) != 0 {
			return fail(refuse(CKR_TEMPLATE_INCONSISTENT, "attribute 0x%x cannot be chosen", uint64(fixed)))
		}
	}
	if info.Extractable, err = t.bool(CKA_EXTRACTABLE, false); err != nil {
		return fail(err)
	}
	if info.Sensitive, err = t.bool(CKA_SENSITIVE, !info.Extractable); err != nil {
		return fail(err)
	}
	if info.WrapWithTrusted, err = t.bool(CKA_WRAP_WITH_TRUSTED, false); err != nil {
		return fail(err)
	}
	info.AlwaysSensitive = from.since(CKA_ALWAYS_SENSITIVE, info.Sensitive)
	info.NeverExtractable = from.since(CKA_NEVER_EXTRACTABLE, !info.Extractable)
	if info.Use, err = secretUsesWanted(t, info.Kind); err != nil {
		return fail(err)
	}
	info.Mechanisms, err = t.mechanisms()
	return info, err
}

// leastChecked is the shortest key with a check value, in bytes: one of fewer might be found by it.
const leastChecked = 16

// checkValueWanted is a key's CKA_CHECK_VALUE (PKCS #11 v3.1, sections 4.10.2 and 6.8.2): what AES makes of a block of zeros, or SHA-1 of
// any other key. An application that gives an empty one wants none.
func checkValueWanted(t template, kind keystore.SecretKind, key []byte) ([]byte, error) {
	wanted, given := t[CKA_CHECK_VALUE]
	if given && len(wanted) == 0 || len(key) < leastChecked {
		return nil, nil
	}
	sum := sha1.Sum(key)
	value := sum[:]
	if kind == keystore.SecretAES {
		block, err := aes.NewCipher(key)
		if err != nil {
			return nil, err
		}
		value = make([]byte, aes.BlockSize)
		block.Encrypt(value, value)
	}
	value = bytes.Clone(value[:3])
	if given && !bytes.Equal(wanted, value) {
		return nil, refuse(CKR_ATTRIBUTE_VALUE_INVALID, "CKA_CHECK_VALUE is another key's")
	}
	return value, nil
}

// secretUsesWanted reads what a secret key is for.
func secretUsesWanted(t template, kind keystore.SecretKind) (uses []keystore.SecretUse, err error) {
	can := []keystore.SecretUse{keystore.UseSign, keystore.UseVerify}
	usual := can
	if kind == keystore.SecretAES {
		can = []keystore.SecretUse{keystore.UseEncrypt, keystore.UseDecrypt, keystore.UseWrap, keystore.UseUnwrap}
		usual = can[:2]
		for _, wrapping := range []AttributeType{CKA_WRAP, CKA_UNWRAP} {
			if asked, err := t.bool(wrapping, false); err != nil {
				return nil, err
			} else if asked {
				usual = nil
			}
		}
	}
	for _, known := range secretUses {
		wanted, err := t.bool(known.attribute, slices.Contains(usual, known.use))
		if err != nil {
			return nil, err
		}
		// pkcs11-tool asks every secret key to encrypt. One that no mechanism can do so with does not, and says so.
		if wanted && slices.Contains(can, known.use) {
			uses = append(uses, known.use)
		}
	}
	return uses, nil
}

// place is where a new object goes, and what it is called.
type place struct {
	token, private bool // private: it shall be seen after a login only, and sealed where it is kept
	label          string
	id             []byte
	policy         policy.Policy
}

// place reads where an object that hides something goes. What is kept is private unless it is asked to be public; a session object is
// when somebody is logged in.
func (s *session) place(t template) (p place, err error) {
	if err := t.mustBe(true, CKA_MODIFIABLE, CKA_COPYABLE, CKA_DESTROYABLE); err != nil {
		return p, err
	}
	if p.token, err = t.bool(CKA_TOKEN, false); err != nil {
		return p, err
	}
	seesPrivate := s.userOrOpen()
	if p.private, err = t.bool(CKA_PRIVATE, p.token || seesPrivate); err != nil {
		return p, err
	}
	p.label, p.id = string(t[CKA_LABEL]), append([]byte{}, t[CKA_ID]...)
	if !utf8.ValidString(p.label) {
		return p, refuse(CKR_ATTRIBUTE_VALUE_INVALID, "a label is UTF-8")
	}
	wanted := t[CKA_TPM2_POLICY]
	switch {
	case !p.token && len(wanted) > 0:
		return p, refuse(CKR_TEMPLATE_INCONSISTENT, "a policy guards what the token keeps, not session objects")
	case !p.token && p.private && !seesPrivate:
		return p, CKR_USER_NOT_LOGGED_IN
	case !p.token:
		return p, nil
	}
	if err := s.mayChange(); err != nil {
		return p, err
	}
	if len(wanted) > 0 { // reading it may take long, and is for who may keep it
		if p.policy, err = policy.Parse(string(wanted)); err != nil {
			return p, refuse(CKR_ATTRIBUTE_VALUE_INVALID, "%v", err)
		}
	}
	if p.label == "" {
		if p.label = hex.EncodeToString(p.id); p.label == "" {
			p.label = "unnamed"
		}
	}
	if err := keystore.CheckLabel(p.label); err != nil {
		return p, refuse(CKR_ATTRIBUTE_VALUE_INVALID, "%v", err)
	}
	return p, nil
}

// keep makes the object of a secret or of data.
func (s *session) keep(p place, class ObjectClass, info keystore.SecretInfo, value *secret.Bytes) (ObjectHandle, error) {
	info.Private = p.private && s.slot.token.HasPIN() // without a PIN nothing is private
	if !p.token {
		return s.add(sessionSecret(class, p.label, p.id, info, value))
	}
	entry, err := s.slot.token.CreateSecret(s.lib.ctx, value, keystore.SecretSpec{
		Label: p.label, CKAID: p.id, Info: info, Policy: p.policy, NoPIN: !p.private, Public: class == CKO_DATA && !p.private && p.policy.IsZero(),
	})
	if err != nil {
		return 0, err
	}
	s.lib.forget(s.slot)
	return storedSecret(s.slot.token.Serial(), entry).handle, nil
}

// mechanisms reads CKA_ALLOWED_MECHANISMS; an empty list is none.
func (t template) mechanisms() (list []uint64, err error) {
	value := t[CKA_ALLOWED_MECHANISMS]
	if len(value)%8 != 0 || len(value) > 8*maxMechanisms {
		return nil, refuse(CKR_ATTRIBUTE_VALUE_INVALID, "CKA_ALLOWED_MECHANISMS has %d bytes", len(value))
	}
	for p := (parameter{rest: value}); len(p.rest) > 0; {
		list = append(list, p.number())
	}
	return list, nil
}
