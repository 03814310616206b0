package keyservice

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tpm2-p11/tpm2-p11/attest"
	"github.com/tpm2-p11/tpm2-p11/internal/nitrosim/cms"
	"github.com/tpm2-p11/tpm2-p11/internal/nitrosim/nsm"
)

const closedFor = "RSAES_OAEP_SHA_256"

// attestable are the operations that take a document.
var attestable = []string{"Decrypt", "DeriveSharedSecret", "GenerateDataKey", "GenerateDataKeyPair", "GenerateRandom"}

// attest verifies the request's document, if it has one.
func (c *call) attest() error {
	r := c.request.Recipient
	if r == nil {
		return nil
	}
	if !slices.Contains(attestable, c.operation) {
		return refuse("SerializationException", "%s takes no Recipient", c.operation)
	}
	if r.KeyEncryptionAlgorithm != closedFor {
		return invalid("1 validation error detected: Value '%s' at 'recipient.keyEncryptionAlgorithm' failed to satisfy constraint: Member must satisfy enum value set: [%s]", r.KeyEncryptionAlgorithm, closedFor)
	}
	if len(c.server.Roots) == 0 {
		return invalid("The attestation document cannot be verified: no root certificate is trusted.")
	}
	claims, err := attest.Verify(r.AttestationDocument, attest.Policy{
		Roots: c.server.Roots, Now: c.server.Now(), MaxAge: nsm.LeafLifetime,
	})
	switch {
	case errors.Is(err, attest.ErrTime):
		return invalid("The attestation document has expired: %v", err)
	case errors.Is(err, attest.ErrMalformed), errors.Is(err, attest.ErrKind):
		return invalid("The attestation document cannot be parsed: %v", err)
	case err != nil:
		return invalid("The attestation document is not valid: %v", err)
	case len(claims.PublicKey) == 0:
		return invalid("The attestation document has no public key.")
	}
	public, err := x509.ParsePKIXPublicKey(claims.PublicKey)
	key, ok := public.(*rsa.PublicKey)
	if err != nil || !ok || !slices.Contains([]int{2048, 3072, 4096}, key.N.BitLen()) {
		return invalid("The public key in the attestation document is not an RSA key of 2048, 3072 or 4096 bits.")
	}
	c.claims, c.recipient = claims, key
	return nil
}

// values are what conditions of a policy can look at.
func (c *call) values() map[string]string {
	values := map[string]string{}
	for name, value := range c.request.EncryptionContext {
		values[keyContext+strings.ToLower(name)] = value
	}
	if c.claims != nil {
		for i, pcr := range c.claims.PCRs {
			values[fmt.Sprint(keyPCR, i)] = hex.EncodeToString(pcr)
		}
	}
	return values
}

// secret is a plaintext on its way out: as it is, or closed for the recipient.
type secret struct {
	Plaintext              []byte `json:",omitempty"`
	CiphertextForRecipient []byte `json:",omitempty"`
}

// hand gives a plaintext to whoever may have it.
func (c *call) hand(plaintext []byte) (secret, error) {
	if c.recipient == nil || c.server.faults.take(Open) {
		return secret{Plaintext: plaintext}, nil
	}
	recipient := c.recipient
	if c.server.faults.take(WrongKey) {
		other, err := rsa.GenerateKey(rand.Reader, recipient.N.BitLen())
		if err != nil {
			return secret{}, err
		}
		recipient = &other.PublicKey
	}
	if c.server.faults.take(Short) {
		plaintext = plaintext[:len(plaintext)-1]
	}
	closed, err := cms.Encrypt(recipient, plaintext, c.server.Form)
	if err != nil {
		return secret{}, err
	}
	if c.server.faults.take(Flip) {
		closed[len(closed)/2] ^= 1
	}
	return secret{CiphertextForRecipient: closed}, nil
}
