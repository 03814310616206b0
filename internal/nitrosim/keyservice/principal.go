package keyservice

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Principal is somebody whom the server knows, with credentials that stand for him.
type Principal struct {
	ARN             string `json:"Arn"`
	AccessKeyID     string `json:"AccessKeyId"`
	SecretAccessKey string
	SessionToken    string    `json:",omitempty"` // of temporary credentials
	Expiration      time.Time `json:",omitzero"`  // zero: never
}

// String is the principal's ARN.
func (p Principal) String() string { return p.ARN }

// GoString is the same: credentials are not for logs.
func (p Principal) GoString() string { return p.ARN }

// ReadPrincipals reads a JSON list of principals: Arn, AccessKeyId,
// SecretAccessKey, SessionToken and Expiration (RFC 3339), the latter two if any.
func ReadPrincipals(r io.Reader) ([]Principal, error) {
	decoder := json.NewDecoder(r)
	decoder.DisallowUnknownFields()
	var all []Principal
	if err := decoder.Decode(&all); err != nil {
		return nil, fmt.Errorf("not a list of principals: %w", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the list of principals")
	}
	return all, nil
}

var (
	principalARN   = regexp.MustCompile(`^arn:aws[a-z-]*:(?:iam::\d{12}:(?:root|(?:user|role)/[\w+=,.@/-]+)|sts::\d{12}:assumed-role/[\w+=,.@-]+/[\w+=,.@-]+)$`)
	assumedRoleARN = regexp.MustCompile(`^(arn:aws[a-z-]*:)sts(::\d{12}:)assumed-role/([^/]+)/`)
	accountID      = regexp.MustCompile(`^\d{12}$`)
)

const accountOfARN = 4 // arn:partition:service:region:account:…

func (p Principal) check() error {
	if !principalARN.MatchString(p.ARN) {
		return fmt.Errorf("%q is not the ARN of a role, a user, a session of a role or the root of an account", p.ARN)
	}
	if p.AccessKeyID == "" || p.SecretAccessKey == "" {
		return fmt.Errorf("%s has no access key", p.ARN)
	}
	return nil
}

// Account is the principal's account, 12 digits.
func (p Principal) Account() string { return strings.Split(p.ARN, ":")[accountOfARN] }

// isOneOf tells whether one of a policy's principals means this one: he
// himself, the role of his session, his account, or everybody.
func (p Principal) isOneOf(principals []string) bool {
	account := p.Account()
	partition, _, _ := strings.Cut(strings.TrimPrefix(p.ARN, "arn:"), ":")
	names := []string{"*", p.ARN, account, "arn:" + partition + ":iam::" + account + ":root"}
	if m := assumedRoleARN.FindStringSubmatch(p.ARN); m != nil {
		names = append(names, m[1]+"iam"+m[2]+"role/"+m[3])
	}
	return slices.ContainsFunc(principals, func(name string) bool { return slices.Contains(names, name) })
}
