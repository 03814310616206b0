package keyservice

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
)

const maxGenerated = 1024 // bytes

// bytesAsked reads KeySpec or NumberOfBytes, one of which must be there.
func (c *call) bytesAsked() (int, error) {
	n := c.request.NumberOfBytes
	sizes := map[string]int{"AES_128": 16, "AES_256": 32}
	switch size := sizes[c.request.KeySpec]; {
	case c.request.KeySpec != "" && size == 0:
		return 0, invalid("1 validation error detected: Value '%s' at 'keySpec' failed to satisfy constraint: Member must satisfy enum value set: [AES_256, AES_128]", c.request.KeySpec)
	case (n != nil) == (size != 0):
		return 0, invalid("Please specify either number of bytes or key spec.")
	case size != 0:
		return size, nil
	}
	return *n, c.checkRange(*n)
}

func (c *call) checkRange(n int) error {
	if n < 1 || n > maxGenerated {
		return invalid("1 validation error detected: Value '%d' at 'numberOfBytes' failed to satisfy constraint: Member must have value between 1 and %d", n, maxGenerated)
	}
	return nil
}

// generator authorises a request for something new that a symmetric key encrypts.
func (c *call) generator() error {
	if err := c.use(c.request.KeyId, usageEncrypt); err != nil {
		return err
	}
	if c.key.spec != symmetric {
		return refuse("InvalidKeyUsageException", "%s has key spec %s which is not valid for %s.", c.key.arn, c.key.spec, c.operation)
	}
	return c.checkContext(symmetric)
}

func (c *call) dataKey(withPlaintext bool) (any, error) {
	size, err := c.bytesAsked()
	if err != nil {
		return nil, err
	}
	if err := c.generator(); err != nil {
		return nil, err
	}
	plaintext := make([]byte, size)
	rand.Read(plaintext)
	answer := struct {
		KeyId          string
		CiphertextBlob []byte
		secret
	}{KeyId: c.key.arn, CiphertextBlob: c.key.encrypt(plaintext, c.request.EncryptionContext)}
	if withPlaintext {
		answer.secret, err = c.hand(plaintext)
	}
	return answer, err
}

func (c *call) dataKeyPair(withPlaintext bool) (any, error) {
	if err := c.generator(); err != nil {
		return nil, err
	}
	private, err := newPrivateKey(c.request.KeyPairSpec)
	if err != nil {
		return nil, err
	}
	plaintext, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, err
	}
	answer := struct {
		KeyId, KeyPairSpec                  string
		PublicKey, PrivateKeyCiphertextBlob []byte
		PrivateKeyPlaintext                 []byte `json:",omitempty"`
		CiphertextForRecipient              []byte `json:",omitempty"`
	}{
		KeyId: c.key.arn, KeyPairSpec: c.request.KeyPairSpec,
		PrivateKeyCiphertextBlob: c.key.encrypt(plaintext, c.request.EncryptionContext),
	}
	if answer.PublicKey, err = x509.MarshalPKIXPublicKey(private.Public()); err != nil || !withPlaintext {
		return answer, err
	}
	out, err := c.hand(plaintext)
	answer.PrivateKeyPlaintext, answer.CiphertextForRecipient = out.Plaintext, out.CiphertextForRecipient
	return answer, err
}

// generateRandom is for every principal: no key's policy decides it.
func generateRandom(c *call) (any, error) {
	if c.request.NumberOfBytes == nil {
		return nil, invalid("1 validation error detected: Value null at 'numberOfBytes' failed to satisfy constraint: Member must not be null")
	}
	if err := c.checkRange(*c.request.NumberOfBytes); err != nil {
		return nil, err
	}
	random := make([]byte, *c.request.NumberOfBytes)
	rand.Read(random)
	return c.hand(random)
}

func deriveSharedSecret(c *call) (any, error) {
	if c.request.KeyAgreementAlgorithm != "ECDH" {
		return nil, invalid("1 validation error detected: Value '%s' at 'keyAgreementAlgorithm' failed to satisfy constraint: Member must satisfy enum value set: [ECDH]", c.request.KeyAgreementAlgorithm)
	}
	if err := c.use(c.request.KeyId, usageAgree); err != nil {
		return nil, err
	}
	plaintext, err := c.key.agree(c.request.PublicKey)
	if err != nil {
		return nil, err
	}
	answer := struct {
		KeyId, KeyAgreementAlgorithm string
		KeyOrigin                    string
		SharedSecret                 []byte `json:",omitempty"`
		CiphertextForRecipient       []byte `json:",omitempty"`
	}{KeyId: c.key.arn, KeyAgreementAlgorithm: "ECDH", KeyOrigin: "AWS_KMS"}
	out, err := c.hand(plaintext)
	answer.SharedSecret, answer.CiphertextForRecipient = out.Plaintext, out.CiphertextForRecipient
	return answer, err
}

// agree gives the raw x coordinate that an ECDH key and a peer's public key make.
func (k *key) agree(public []byte) ([]byte, error) {
	peer, err := x509.ParsePKIXPublicKey(public)
	own := k.private.(*ecdsa.PrivateKey)
	point, ok := peer.(*ecdsa.PublicKey)
	if err != nil || !ok || point.Curve != own.Curve {
		return nil, invalid("The public key is not one of the key spec %s.", k.spec)
	}
	theirs, err := point.ECDH()
	if err != nil {
		return nil, invalid("The public key: %v", err)
	}
	private, err := own.ECDH()
	if err != nil {
		return nil, err
	}
	return private.ECDH(theirs)
}
