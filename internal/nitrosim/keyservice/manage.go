package keyservice

import (
	"crypto/x509"
	"maps"
	"slices"
)

// metadata describes a key as the API does.
type metadata struct {
	AWSAccountId           string
	Arn                    string
	CreationDate           float64 // seconds since 1970
	CustomerMasterKeySpec  string
	Description            string
	Enabled                bool
	EncryptionAlgorithms   []string `json:",omitempty"`
	KeyAgreementAlgorithms []string `json:",omitempty"`
	KeyId                  string
	KeyManager             string
	KeySpec                string
	KeyState               string
	KeyUsage               string
	MultiRegion            bool
	Origin                 string
}

// algorithms are those of a key: of encryption or of agreement.
func (k *key) algorithms() (encryption, agreement []string) {
	switch {
	case k.spec == symmetric:
		return []string{symmetric}, nil
	case k.usage == usageAgree:
		return nil, []string{"ECDH"}
	}
	return slices.Sorted(maps.Keys(oaepHash)), nil
}

func (s *Server) describe(k *key) any {
	m := metadata{
		AWSAccountId: k.account(), Arn: k.arn, CreationDate: float64(k.created.Unix()), CustomerMasterKeySpec: k.spec,
		Description: k.description, Enabled: s.isEnabled(k), KeyId: k.id, KeyManager: "CUSTOMER", KeySpec: k.spec,
		KeyState: "Enabled", KeyUsage: k.usage, Origin: "AWS_KMS",
	}
	if !m.Enabled {
		m.KeyState = "Disabled"
	}
	m.EncryptionAlgorithms, m.KeyAgreementAlgorithms = k.algorithms()
	return struct{ KeyMetadata metadata }{m}
}

// createKey is for every principal: there is no key's policy yet.
func createKey(c *call) (any, error) {
	spec := c.request.KeySpec
	if spec == "" {
		spec = c.request.CustomerMasterKeySpec
	}
	usage := c.request.KeyUsage
	if usage == "" {
		usage = usageEncrypt // KMS does not guess it from the spec
	}
	k, err := c.server.makeKey(KeyOptions{Account: c.who.Account(), Policy: c.request.Policy, Spec: spec, Usage: usage})
	if err != nil {
		return nil, err
	}
	k.description = c.request.Description
	if err := c.checkLockout(k, k.policy); err != nil {
		return nil, err
	}
	c.key = k
	c.server.add(k)
	return c.server.describe(k), nil
}

// checkLockout refuses a policy that would not let the caller change it again.
func (c *call) checkLockout(k *key, p *keyPolicy) error {
	if !c.request.BypassPolicyLockoutSafetyCheck && p.decide(circumstances{c.who, "kms:PutKeyPolicy", k.arn, nil}) != allowed {
		return malformed("The new key policy will not allow you to update the key policy in the future.")
	}
	return nil
}

func describeKey(c *call) (any, error) {
	if err := c.authorise(c.request.KeyId); err != nil {
		return nil, err
	}
	return c.server.describe(c.key), nil
}

func (c *call) enable(enabled bool) (any, error) {
	if err := c.authorise(c.request.KeyId); err != nil {
		return nil, err
	}
	c.server.setEnabled(c.key, enabled)
	return struct{}{}, nil
}

// checkPolicyName takes the one name that a key policy can have.
func (c *call) checkPolicyName() error {
	if name := c.request.PolicyName; name != "" && name != "default" {
		return refuse("NotFoundException", "No such policy exists")
	}
	return nil
}

func getKeyPolicy(c *call) (any, error) {
	if err := c.authorise(c.request.KeyId); err != nil {
		return nil, err
	}
	if err := c.checkPolicyName(); err != nil {
		return nil, err
	}
	return struct{ Policy, PolicyName string }{c.server.policyOf(c.key).text, "default"}, nil
}

func putKeyPolicy(c *call) (any, error) {
	if err := c.authorise(c.request.KeyId); err != nil {
		return nil, err
	}
	if err := c.checkPolicyName(); err != nil {
		return nil, err
	}
	p, err := parsePolicy(c.request.Policy)
	if err != nil {
		return nil, err
	}
	if err := c.checkLockout(c.key, p); err != nil {
		return nil, err
	}
	c.server.setPolicy(c.key, p)
	return struct{}{}, nil
}

func getPublicKey(c *call) (any, error) {
	if err := c.authorise(c.request.KeyId); err != nil {
		return nil, err
	}
	if c.key.private == nil {
		return nil, refuse("UnsupportedOperationException", "%s is a symmetric key.", c.key.arn)
	}
	answer := struct {
		KeyId, KeySpec, CustomerMasterKeySpec, KeyUsage string
		PublicKey                                       []byte
		EncryptionAlgorithms                            []string `json:",omitempty"`
		KeyAgreementAlgorithms                          []string `json:",omitempty"`
	}{KeyId: c.key.arn, KeySpec: c.key.spec, CustomerMasterKeySpec: c.key.spec, KeyUsage: c.key.usage}
	answer.EncryptionAlgorithms, answer.KeyAgreementAlgorithms = c.key.algorithms()
	var err error
	answer.PublicKey, err = x509.MarshalPKIXPublicKey(c.key.private.Public())
	return answer, err
}

func createAlias(c *call) (any, error) {
	if err := c.authorise(c.request.TargetKeyId); err != nil {
		return nil, err
	}
	if err := c.server.addAlias(c.request.AliasName, c.key); err != nil {
		return nil, err
	}
	return struct{}{}, nil
}
