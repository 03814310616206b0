package keystore

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// SecretKind says what a secret is.
type SecretKind string

// The kinds of secrets: keys, data that is no key, and certificates that are of no key of the token's, which are always public.
const (
	SecretAES         SecretKind = "aes"
	SecretGeneric     SecretKind = "generic"
	SecretSHA1        SecretKind = "hmac-sha1"
	SecretSHA224      SecretKind = "hmac-sha224"
	SecretSHA256      SecretKind = "hmac-sha256"
	SecretSHA384      SecretKind = "hmac-sha384"
	SecretSHA512      SecretKind = "hmac-sha512"
	SecretData        SecretKind = "data"
	SecretCertificate SecretKind = "certificate"
)

// SecretUse is something that a secret key may be used for.
type SecretUse string

// The uses, in the order that Use has them in.
const (
	UseDecrypt SecretUse = "decrypt"
	UseEncrypt SecretUse = "encrypt"
	UseSign    SecretUse = "sign"
	UseUnwrap  SecretUse = "unwrap"
	UseVerify  SecretUse = "verify"
	UseWrap    SecretUse = "wrap"
)

var (
	secretKinds = []SecretKind{SecretAES, SecretGeneric, SecretSHA1, SecretSHA224, SecretSHA256, SecretSHA384, SecretSHA512, SecretData, SecretCertificate}
	secretUses  = []SecretUse{UseDecrypt, UseEncrypt, UseSign, UseUnwrap, UseVerify, UseWrap}
)

// Limits of secrets, in bytes.
const (
	MaxSecretKey  = 512
	MaxSecretData = 64 << 10
	maxFacts      = 8 << 10 // of what is said of one, as JSON
)

// SecretInfo is what a secret is and what may be done with it. Before a secret is opened it is what a file says; a secret opens only
// when it is what was said when it was sealed. The values of PKCS #11 attributes have their meaning there.
type SecretInfo struct {
	Kind             SecretKind  `json:"kind"`
	Length           int         `json:"length"`            // of the value, in bytes
	Private          bool        `json:"private,omitempty"` // shown after a login only
	Use              []SecretUse `json:"use,omitempty"`     // of keys, sorted
	Sensitive        bool        `json:"sensitive,omitempty"`
	Extractable      bool        `json:"extractable,omitempty"`
	AlwaysSensitive  bool        `json:"always_sensitive,omitempty"`
	NeverExtractable bool        `json:"never_extractable,omitempty"`
	WrapWithTrusted  bool        `json:"wrap_with_trusted,omitempty"`
	Mechanism        uint64      `json:"mechanism,omitempty"`  // the one that generated it on this token
	Mechanisms       []uint64    `json:"mechanisms,omitempty"` // those allowed; none: all that fit
	Application      string      `json:"application,omitempty"`
	ObjectID         []byte      `json:"object_id,omitempty"`
	CheckValue       []byte      `json:"check_value,omitempty"`    // of keys, 3 bytes
	Category         uint64      `json:"category,omitempty"`       // of certificates; 0 for none
	KMSCiphertext    []byte      `json:"kms_ciphertext,omitempty"` // under which AWS KMS gives the same key again
}

// Allows tells whether a key may be used in a way.
func (i SecretInfo) Allows(u SecretUse) bool { return slices.Contains(i.Use, u) }

// mayBePublic tells what may lie in a store as it is.
func (i SecretInfo) mayBePublic() bool {
	return (i.Kind == SecretData || i.Kind == SecretCertificate) && !i.Private
}

// String is the kind for people: "aes256", "generic", "data".
func (i SecretInfo) String() string {
	if i.Kind == SecretAES {
		return "aes" + strconv.Itoa(8*i.Length)
	}
	return string(i.Kind)
}

func (i SecretInfo) validate() error {
	most := MaxSecretKey
	switch {
	case !slices.Contains(secretKinds, i.Kind):
		return fmt.Errorf("%w: there is no secret of kind %q", ErrInvalid, shortened(string(i.Kind)))
	case i.Kind == SecretAES && i.Length != 16 && i.Length != 24 && i.Length != 32:
		return fmt.Errorf("%w: an AES key of %d bytes", ErrInvalid, i.Length)
	case i.Kind == SecretData, i.Kind == SecretCertificate:
		most = MaxSecretData
		if len(i.Use) > 0 {
			return fmt.Errorf("%w: %s is no key, and used for nothing", ErrInvalid, i.Kind)
		}
	case i.Length == 0:
		return fmt.Errorf("%w: an empty key", ErrInvalid)
	}
	if i.Length < 0 || i.Length > most {
		return fmt.Errorf("%w: a secret of %d bytes (%s: at most %d)", ErrInvalid, i.Length, i.Kind, most)
	}
	if n := len(i.CheckValue); n != 0 && n != 3 {
		return fmt.Errorf("%w: a check value of %d bytes", ErrInvalid, n)
	}
	for n, u := range i.Use {
		if !slices.Contains(secretUses, u) || n > 0 && i.Use[n-1] >= u {
			return fmt.Errorf("%w: its uses are not a sorted list of %v", ErrInvalid, secretUses)
		}
	}
	if !isPlainText(i.Application) || strings.ContainsRune(i.Application, '\uFFFD') {
		return fmt.Errorf("%w: the application's name is not plain UTF-8 text", ErrInvalid)
	}
	if facts, err := json.Marshal(i); err != nil || len(facts) > maxFacts {
		return fmt.Errorf("%w: what is said of it has %d bytes, %d are kept", ErrInvalid, len(facts), maxFacts)
	}
	return nil
}

// facts is what the value of a secret is bound to: the sealed key's Name, and what is said of it. Fields that a later version adds
// must be left out when they are empty, or no older secret opens any more.
func (i SecretInfo) facts(name []byte) ([]byte, error) {
	said, err := json.Marshal(i)
	if err != nil {
		return nil, err
	}
	return bytes.Join([][]byte{[]byte("tpm2-p11 secret 1"), name, said}, []byte{0}), nil
}
