package keyservice

// operations are KMS's, as far as they are emulated.
var operations = map[string]func(*call) (any, error){
	"CreateAlias":    createAlias,
	"CreateKey":      createKey,
	"Decrypt":        decrypt,
	"DescribeKey":    describeKey,
	"DisableKey":     func(c *call) (any, error) { return c.enable(false) },
	"EnableKey":      func(c *call) (any, error) { return c.enable(true) },
	"Encrypt":        encrypt,
	"GetKeyPolicy":   getKeyPolicy,
	"GetPublicKey":   getPublicKey,
	"PutKeyPolicy":   putKeyPolicy,
	"GenerateRandom": generateRandom,

	"DeriveSharedSecret":                  deriveSharedSecret,
	"GenerateDataKey":                     func(c *call) (any, error) { return c.dataKey(true) },
	"GenerateDataKeyPair":                 func(c *call) (any, error) { return c.dataKeyPair(true) },
	"GenerateDataKeyPairWithoutPlaintext": func(c *call) (any, error) { return c.dataKeyPair(false) },
	"GenerateDataKeyWithoutPlaintext":     func(c *call) (any, error) { return c.dataKey(false) },
}

// Limits of fields, in bytes.
const (
	maxPlaintext  = 4096
	maxCiphertext = 6144
	maxContext    = 8192 // names and values together
)

func (c *call) checkSize(field string, n, least, most int) error {
	if n < least || n > most {
		return invalid("1 validation error detected: Value at '%s' failed to satisfy constraint: Member must have length greater than or equal to %d and less than or equal to %d", field, least, most)
	}
	return nil
}

// algorithm is the one that a request names for a key, or the default.
func (c *call) algorithm() (string, error) {
	name := c.request.EncryptionAlgorithm
	if name == "" {
		name = symmetric
	}
	if _, oaep := oaepHash[name]; name != symmetric && !oaep {
		return "", invalid("1 validation error detected: Value '%s' at 'encryptionAlgorithm' failed to satisfy constraint: Member must satisfy enum value set: [SYMMETRIC_DEFAULT, RSAES_OAEP_SHA_1, RSAES_OAEP_SHA_256]", name)
	} else if oaep == (c.key.spec == symmetric) {
		return "", refuse("InvalidKeyUsageException", "Algorithm %s is incompatible with key spec %s.", name, c.key.spec)
	}
	return name, c.checkContext(name)
}

func (c *call) checkContext(algorithm string) error {
	size := 0
	for name, value := range c.request.EncryptionContext {
		size += len(name) + len(value)
	}
	switch {
	case size > maxContext:
		return invalid("The encryption context has %d bytes, and at most %d are possible.", size, maxContext)
	case size > 0 && algorithm != symmetric:
		return invalid("Algorithm %s takes no encryption context.", algorithm)
	}
	return nil
}

func encrypt(c *call) (any, error) {
	if err := c.checkSize("plaintext", len(c.request.Plaintext), 1, maxPlaintext); err != nil {
		return nil, err
	}
	if err := c.use(c.request.KeyId, usageEncrypt); err != nil {
		return nil, err
	}
	algorithm, err := c.algorithm()
	if err != nil {
		return nil, err
	}
	answer := struct {
		KeyId, EncryptionAlgorithm string
		CiphertextBlob             []byte
	}{KeyId: c.key.arn, EncryptionAlgorithm: algorithm}
	if algorithm == symmetric {
		answer.CiphertextBlob = c.key.encrypt(c.request.Plaintext, c.request.EncryptionContext)
	} else {
		answer.CiphertextBlob, err = c.key.encryptOAEP(c.request.Plaintext, algorithm)
	}
	return answer, err
}

func decrypt(c *call) (any, error) {
	if err := c.checkSize("ciphertextBlob", len(c.request.CiphertextBlob), 1, maxCiphertext); err != nil {
		return nil, err
	}
	if err := c.authoriseDecrypt(); err != nil {
		return nil, err
	}
	if err := c.checkUse(usageEncrypt); err != nil {
		return nil, err
	}
	algorithm, err := c.algorithm()
	if err != nil {
		return nil, err
	}
	var plaintext []byte
	if algorithm == symmetric {
		plaintext, err = c.key.decrypt(c.request.CiphertextBlob, c.request.EncryptionContext)
	} else {
		plaintext, err = c.key.decryptOAEP(c.request.CiphertextBlob, algorithm)
	}
	if err != nil {
		return nil, err
	}
	answer := struct {
		KeyId, EncryptionAlgorithm string
		secret
	}{KeyId: c.key.arn, EncryptionAlgorithm: algorithm}
	answer.secret, err = c.hand(plaintext)
	return answer, err
}

// authoriseDecrypt takes the key that is named, or the one that the ciphertext names.
func (c *call) authoriseDecrypt() error {
	var named *key
	if c.request.KeyId != "" {
		var err error
		if named, err = c.server.find(c.request.KeyId, c.who.Account()); err != nil {
			return err
		}
		if named.spec != symmetric {
			return c.authoriseKey(named)
		}
	}
	id, ok := keyOf(c.request.CiphertextBlob)
	if !ok {
		return &refusal{code: "InvalidCiphertextException", status: 400}
	}
	k := c.server.byID(id)
	switch {
	case named != nil && k != named:
		if err := c.authoriseKey(named); err != nil {
			return err
		}
		return refuse("IncorrectKeyException", "The key ID in the request does not identify a CMK that can perform this operation.")
	case k == nil:
		return refuse("AccessDeniedException", "The ciphertext refers to a customer master key that does not exist, does not exist in this region, or you are not allowed to access.")
	}
	return c.authoriseKey(k)
}
