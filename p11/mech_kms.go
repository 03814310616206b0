package p11

import (
	"bytes"
	"crypto"
	"encoding/json"
	"io"
	"maps"

	"github.com/google/go-tpm/tpm2"

	"github.com/tpm2-p11/tpm2-p11/config"
	"github.com/tpm2-p11/tpm2-p11/internal/secret"
	"github.com/tpm2-p11/tpm2-p11/kms"
)

// kmsMechanisms are vendor mechanisms: keys from AWS KMS, which gives them to an attested machine alone, closed for an RSA key in its
// TPM. They are there when the configuration has a [kms] table.
//
// CKM_TPM2_KMS_UNWRAP is for C_UnwrapKey: the unwrapping key is the TPM's RSA key, the wrapped key is a ciphertext of KMS, and what
// comes out is a secret key, or an RSA or EC private key (PKCS #8 in the ciphertext) that goes into the TPM. CKM_TPM2_KMS_DATA_KEY is
// for C_GenerateKey: CKA_TPM2_KMS_CIPHERTEXT of the new key is what C_UnwrapKey takes later on.
//
// The parameter is none, or JSON in UTF-8: {"key_id": "…", "region": "…", "context": {"name": "value"}}, each of them optional. It adds
// to [kms] and contradicts nothing there.
var kmsMechanisms = []mechanism{
	{id: CKM_TPM2_KMS_UNWRAP, flags: CKF_HW | CKF_UNWRAP, keys: CKK_RSA, scheme: tpm2.TPMAlgOAEP, hash: crypto.SHA256, unwrap: unwrapKMS, guards: guardKMS, private: true, kms: true, sizes: rsaSizes},
	{id: CKM_TPM2_KMS_DATA_KEY, flags: CKF_GENERATE, keys: CKK_AES, alsoKeys: []uint64{CKK_GENERIC_SECRET}, generate: generateKMS, guards: guardKMS, kms: true, sizes: aesSizes},
}

// maxKMSParameter is the most bytes of a parameter: an encryption context of KMS and its JSON.
const maxKMSParameter = 2 * config.MaxKMSContext

// kmsQuestion reads a parameter and adds it to the configuration's [kms].
func kmsQuestion(c config.KMS, p parameter) (config.KMS, error) {
	if len(p.rest) == 0 {
		return c, nil
	}
	if len(p.rest) > maxKMSParameter {
		return c, refuse(CKR_MECHANISM_PARAM_INVALID, "a parameter of %d bytes", len(p.rest))
	}
	var asked struct {
		KeyID   string            `json:"key_id"`
		Region  string            `json:"region"`
		Context map[string]string `json:"context"`
	}
	d := json.NewDecoder(bytes.NewReader(p.rest))
	d.DisallowUnknownFields()
	if err := d.Decode(&asked); err != nil {
		return c, refuse(CKR_MECHANISM_PARAM_INVALID, "the parameter is not what it should be: %v", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return c, refuse(CKR_MECHANISM_PARAM_INVALID, "something follows the parameter's JSON")
	}
	for _, member := range []struct {
		name, asked string
		configured  *string
	}{{"key_id", asked.KeyID, &c.KeyID}, {"region", asked.Region, &c.Region}} {
		switch {
		case member.asked == "":
		case *member.configured != "" && *member.configured != member.asked:
			return c, refuse(CKR_MECHANISM_PARAM_INVALID, "[kms] has another %s", member.name)
		default:
			*member.configured = member.asked
		}
	}
	all := maps.Clone(c.Context)
	for name, value := range asked.Context {
		if configured, taken := all[name]; taken && configured != value {
			return c, refuse(CKR_MECHANISM_PARAM_INVALID, "[kms] has another value for %q in the encryption context", name)
		}
		if all == nil {
			all = make(map[string]string)
		}
		all[name] = value
	}
	c.Context = all
	return c, nil
}

// guardKMS refuses what a key from KMS may not become: one that leaves the module takes the configuration's word, too.
func guardKMS(s *session, t template) error {
	extractable, err := t.bool(CKA_EXTRACTABLE, false)
	if err != nil {
		return err
	}
	sensitive, err := t.bool(CKA_SENSITIVE, !extractable)
	if err != nil {
		return err
	}
	if (extractable || !sensitive) && !s.lib.set.Config.KMS.Extractable {
		return refuse(CKR_TEMPLATE_INCONSISTENT, "a key of KMS that can be extracted, or is not sensitive, takes extractable = true in [kms]")
	}
	if s.lib.restrains(s.slot) && s.lib.guard == nil {
		return refuse(CKR_TOKEN_WRITE_PROTECTED, "%s", restraint)
	}
	return nil
}

func unwrapKMS(s *session, recipient *object, p parameter, wrapped []byte) (*secret.Bytes, origin, error) {
	fail := func(err error) (*secret.Bytes, origin, error) { return nil, origin{}, err }
	if len(wrapped) == 0 || len(wrapped) > kms.MaxCiphertext {
		return fail(refuse(CKR_WRAPPED_KEY_LEN_RANGE, "a ciphertext of %d bytes", len(wrapped)))
	}
	question, err := kmsQuestion(s.lib.set.Config.KMS, p)
	if err != nil {
		return fail(err)
	}
	if recipient.entry.AsksOwnPIN() {
		return fail(refuse(CKR_KEY_FUNCTION_NOT_PERMITTED, "key %q has a PIN of its own, for which C_UnwrapKey has no place", recipient.entry.Label))
	}
	unwrapper, done, err := s.unwrapper(recipient, question)
	if err != nil {
		return fail(err)
	}
	defer done()
	plaintext, err := unwrapper.Unwrap(s.lib.ctx, wrapped, question.Context)
	if err != nil {
		return fail(err)
	}
	return plaintext.Take(), origin{ciphertext: bytes.Clone(wrapped)}, nil
}

func generateKMS(s *session, p parameter, n int) (*secret.Bytes, origin, error) {
	fail := func(err error) (*secret.Bytes, origin, error) { return nil, origin{}, err }
	question, err := kmsQuestion(s.lib.set.Config.KMS, p)
	if err != nil {
		return fail(err)
	}
	if question.KeyID == "" {
		return fail(refuse(CKR_MECHANISM_PARAM_INVALID, "no KMS key is named, by key_id in [kms] or in the parameter"))
	}
	client, done, err := s.kmsClient(question)
	if err != nil {
		return fail(err)
	}
	defer done()
	key, err := client.GenerateDataKey(s.lib.ctx, kms.DataKeyRequest{KeyID: question.KeyID, Context: question.Context, Size: n})
	if err != nil {
		return fail(err)
	}
	if len(key.Ciphertext) == 0 {
		key.Plaintext.Wipe()
		return fail(refuse(CKR_FUNCTION_FAILED, "KMS gave a data key without its ciphertext"))
	}
	return key.Plaintext.Take(), origin{ciphertext: key.Ciphertext}, nil
}
