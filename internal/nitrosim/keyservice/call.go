package keyservice

import (
	"bytes"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"io"
	"strings"

	"github.com/tpm2-p11/tpm2-p11/attest"
)

// call is a request under way.
type call struct {
	server    *Server
	who       Principal
	operation string
	request   request
	key       *key // once it is found

	claims    *attest.Claims // of the request's document, verified; nil without one
	recipient *rsa.PublicKey // the key in it
}

// request has the fields of all operations, by their names in the API.
type request struct {
	KeyId               string
	EncryptionContext   map[string]string
	EncryptionAlgorithm string
	CiphertextBlob      []byte
	Plaintext           []byte
	NumberOfBytes       *int
	KeyPairSpec         string
	Recipient           *struct {
		AttestationDocument    []byte
		KeyEncryptionAlgorithm string
	}
	PublicKey             []byte
	KeyAgreementAlgorithm string
	DryRun                bool

	KeySpec, CustomerMasterKeySpec string
	KeyUsage                       string
	Description                    string
	Policy, PolicyName             string
	AliasName, TargetKeyId         string

	BypassPolicyLockoutSafetyCheck bool
}

// readRequest refuses fields that are not emulated, rather than leave them out of account.
func readRequest(body []byte) (r request, err error) {
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&r); err != nil {
		return r, refuse("SerializationException", "%v", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return r, refuse("SerializationException", "something follows the request")
	}
	seen := map[string]bool{}
	for name := range r.EncryptionContext {
		lower := strings.ToLower(name) // as conditions see it
		if seen[lower] {
			return r, invalid("Names of an encryption context that differ in case alone are not emulated: %q.", lower)
		}
		seen[lower] = true
	}
	return r, nil
}

// authorise finds a key by id, ARN or alias and asks its policy.
func (c *call) authorise(keyID string) error {
	k, err := c.server.find(keyID, c.who.Account())
	if err != nil {
		return err
	}
	return c.authoriseKey(k)
}

func (c *call) authoriseKey(k *key) error {
	c.key = k
	action, arn := "kms:"+c.operation, k.arn
	switch c.server.policyOf(k).decide(circumstances{c.who, action, arn, c.values()}) {
	case denied:
		return refuse("AccessDeniedException", "User: %s is not authorized to perform: %s on resource: %s with an explicit deny in a resource-based policy", c.who, action, arn)
	case noStatement:
		return refuse("AccessDeniedException", "User: %s is not authorized to perform: %s on resource: %s because no resource-based policy allows the %s action", c.who, action, arn, action)
	}
	if c.request.DryRun {
		return refuse("DryRunOperationException", "The request would have succeeded, but the DryRun option is set.")
	}
	return nil
}

func (c *call) keyARN() string {
	if c.key == nil {
		return ""
	}
	return c.key.arn
}

// use is authorise for an operation that uses the key's material.
func (c *call) use(keyID, usage string) error {
	if err := c.authorise(keyID); err != nil {
		return err
	}
	return c.checkUse(usage)
}

func (c *call) checkUse(usage string) error {
	if c.key.usage != usage {
		return refuse("InvalidKeyUsageException", "%s key usage is %s which is not valid for %s.", c.key.arn, c.key.usage, c.operation)
	}
	if !c.server.isEnabled(c.key) {
		return refuse("DisabledException", "%s is disabled.", c.key.arn)
	}
	return nil
}
