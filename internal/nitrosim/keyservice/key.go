package keyservice

import (
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"regexp"
	"strings"
	"time"
)

// What keys are for.
const (
	usageEncrypt = "ENCRYPT_DECRYPT"
	usageAgree   = "KEY_AGREEMENT"
)

const symmetric = "SYMMETRIC_DEFAULT"

// key is a KMS key. Policy and state change under the server's lock.
type key struct {
	id, arn, spec, usage, description string
	created                           time.Time
	policy                            *keyPolicy
	disabled                          bool

	aead    cipher.AEAD   // of SYMMETRIC_DEFAULT
	private crypto.Signer // of all others: *rsa.PrivateKey, *ecdsa.PrivateKey
}

// curves and rsaSizes are the specs of asymmetric keys and of data key pairs.
var (
	curves   = map[string]elliptic.Curve{"ECC_NIST_P256": elliptic.P256(), "ECC_NIST_P384": elliptic.P384(), "ECC_NIST_P521": elliptic.P521()}
	rsaSizes = map[string]int{"RSA_2048": 2048, "RSA_3072": 3072, "RSA_4096": 4096}
)

// newPrivateKey makes the key of a spec.
func newPrivateKey(spec string) (crypto.Signer, error) {
	if bits := rsaSizes[spec]; bits != 0 {
		return rsa.GenerateKey(rand.Reader, bits)
	}
	if curve := curves[spec]; curve != nil {
		return ecdsa.GenerateKey(curve, rand.Reader)
	}
	return nil, refuse("UnsupportedOperationException", "Keys of the spec %q are not emulated.", spec)
}

// newKey makes a key's material. Its id is given later.
func newKey(spec, usage string) (*key, error) {
	k := &key{spec: spec, usage: usage}
	wants := usageEncrypt
	if curves[spec] != nil {
		wants = usageAgree
	}
	if usage != wants {
		return nil, invalid("KeyUsage %s is not compatible with KeySpec %s.", usage, spec)
	}
	var err error
	if spec != symmetric {
		k.private, err = newPrivateKey(spec)
		return k, err
	}
	secret := make([]byte, 32)
	rand.Read(secret)
	block, err := aes.NewCipher(secret)
	if err != nil {
		return nil, err
	}
	k.aead, err = cipher.NewGCMWithRandomNonce(block)
	return k, err
}

// KeyOptions describe a key that is made without a request.
type KeyOptions struct {
	Account string // 12 digits
	Policy  string // empty: everything for the account
	Spec    string // empty: SYMMETRIC_DEFAULT
	Usage   string // empty: what the spec is for
	Alias   string // "alias/…"; empty for none
}

// CreateKey makes a key past every check of who may, and gives its ARN.
func (s *Server) CreateKey(o KeyOptions) (arn string, err error) {
	if !accountID.MatchString(o.Account) {
		return "", fmt.Errorf("account %q does not have 12 digits", o.Account)
	}
	k, err := s.makeKey(o)
	if err != nil {
		return "", err
	}
	if o.Alias != "" {
		if err := s.addAlias(o.Alias, k); err != nil {
			return "", err
		}
	}
	s.add(k)
	return k.arn, nil
}

// SetPolicy changes the policy of a key past every check of who may.
func (s *Server) SetPolicy(arn, policy string) error {
	p, err := parsePolicy(policy)
	if err != nil {
		return err
	}
	k, err := s.find(arn, "")
	if err != nil {
		return err
	}
	s.setPolicy(k, p)
	return nil
}

// makeKey makes a key that nobody can find yet.
func (s *Server) makeKey(o KeyOptions) (*key, error) {
	if o.Spec == "" {
		o.Spec = symmetric
	}
	if o.Usage == "" {
		o.Usage = usageEncrypt
		if curves[o.Spec] != nil {
			o.Usage = usageAgree
		}
	}
	if o.Policy == "" {
		o.Policy = fmt.Sprintf(`{"Version":"2012-10-17","Id":"key-default-1","Statement":[{"Sid":"Enable IAM User Permissions","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::%s:root"},"Action":"kms:*","Resource":"*"}]}`, o.Account)
	}
	policy, err := parsePolicy(o.Policy)
	if err != nil {
		return nil, err
	}
	k, err := newKey(o.Spec, o.Usage)
	if err != nil {
		return nil, err
	}
	k.policy, k.created, k.id = policy, s.now(), newUUID()
	k.arn = s.arn(o.Account, "key/"+k.id)
	return k, nil
}

func (s *Server) arn(account, resource string) string {
	return "arn:aws:kms:" + s.Region + ":" + account + ":" + resource
}

var aliasName = regexp.MustCompile(`^alias/[a-zA-Z0-9/_-]{1,250}$`)

func (s *Server) addAlias(name string, k *key) error {
	if !aliasName.MatchString(name) {
		return refuse("InvalidAliasNameException", "%q is not like alias/name.", name)
	}
	arn := s.arn(k.account(), name)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.aliases[arn] != nil {
		return refuse("AlreadyExistsException", "An alias with the name %s already exists", arn)
	}
	s.aliases[arn] = k
	return nil
}

func (k *key) account() string { return strings.Split(k.arn, ":")[accountOfARN] }

func (s *Server) add(k *key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys[k.arn] = k
}

// find looks for a key by ARN, id or alias; the latter two are of an account.
func (s *Server) find(keyID, account string) (*key, error) {
	const parts, region = 6, 3
	arn := keyID
	switch {
	case keyID == "":
		return nil, invalid("1 validation error detected: Value null at 'keyId' failed to satisfy constraint: Member must not be null")
	case strings.HasPrefix(keyID, "alias/"):
		arn = s.arn(account, keyID)
	case !strings.HasPrefix(keyID, "arn:"):
		arn = s.arn(account, "key/"+keyID)
	}
	split := strings.SplitN(arn, ":", parts)
	if len(split) < parts || split[2] != signedService {
		return nil, refuse("InvalidArnException", "%s is not a valid ARN.", arn)
	}
	if split[region] != s.Region {
		return nil, refuse("NotFoundException", "Invalid arn %s", split[region])
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if k := s.keys[arn]; k != nil {
		return k, nil
	}
	if k := s.aliases[arn]; k != nil {
		return k, nil
	}
	if strings.HasPrefix(split[parts-1], "alias/") {
		return nil, refuse("NotFoundException", "Alias %s is not found.", arn)
	}
	return nil, refuse("NotFoundException", "Key '%s' does not exist", arn)
}

// byID looks for a key in all accounts; nil if there is none.
func (s *Server) byID(id string) *key {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, k := range s.keys {
		if k.id == id {
			return k
		}
	}
	return nil
}

func (s *Server) policyOf(k *key) *keyPolicy {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return k.policy
}

func (s *Server) setPolicy(k *key, p *keyPolicy) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k.policy = p
}

func (s *Server) isEnabled(k *key) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return !k.disabled
}

func (s *Server) setEnabled(k *key, enabled bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k.disabled = !enabled
}
