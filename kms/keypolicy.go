package kms

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

const (
	conditionPCR  = "kms:RecipientAttestation:NitroTPMPCR"
	policyVersion = "2012-10-17"
	pcrSize       = 48 // SHA-384
	lastPCR       = 23

	// noSecureBoot is what every machine has in PCR 7 that boots without secure boot, with no keys for it.
	noSecureBoot = "98441c7f7625d10058c47683aec486ce311c633235eb555593a7ee791121e3578ae72d04ecef661f272d59058b77af35"
)

// attestedActions are those that take a document and give a plaintext.
var attestedActions = []string{"kms:Decrypt", "kms:DeriveSharedSecret", "kms:GenerateDataKey", "kms:GenerateDataKeyPair"}

// adminActions manage a key, and neither use it nor let others use it past the
// policy (kms:CreateGrant would).
var adminActions = []string{
	"kms:CancelKeyDeletion", "kms:CreateAlias", "kms:DeleteAlias", "kms:Describe*", "kms:DisableKey", "kms:DisableKeyRotation",
	"kms:EnableKey", "kms:EnableKeyRotation", "kms:Get*", "kms:List*", "kms:PutKeyPolicy", "kms:RevokeGrant",
	"kms:ScheduleKeyDeletion", "kms:TagResource", "kms:UntagResource", "kms:UpdateAlias", "kms:UpdateKeyDescription",
}

// encryptActions give no plaintext.
var encryptActions = []string{"kms:DescribeKey", "kms:Encrypt", "kms:GenerateDataKeyPairWithoutPlaintext", "kms:GenerateDataKeyWithoutPlaintext", "kms:GetPublicKey"}

// Image is a machine image by its measurements.
type Image struct {
	Name string         // letters and digits: it becomes part of a statement's id
	PCRs map[int][]byte // SHA-384 values; 4, 7 and 12 tell images from another
}

// PolicyPrincipals are who may do what, by ARN.
type PolicyPrincipals struct {
	Machines       []string // the roles of instances that decrypt, when attested
	Encrypters     []string // who encrypts and makes data keys without seeing them; may be empty
	Administrators []string // who manages the key; whoever calls PutKeyPolicy must be among them
}

// KeyPolicy gives a whole key policy as JSON: machines use the key only when
// their document shows all PCRs of one of the images; nobody decrypts without a
// document, not even by a grant. An administrator can still change the policy.
func KeyPolicy(principals PolicyPrincipals, images ...Image) ([]byte, error) {
	if len(principals.Machines) == 0 || len(principals.Administrators) == 0 {
		return nil, fmt.Errorf("%w: a key policy needs a machine's role and an administrator", ErrInput)
	}
	for _, arn := range slices.Concat(principals.Machines, principals.Encrypters, principals.Administrators) {
		if !strings.HasPrefix(arn, "arn:") || strings.ContainsAny(arn, "*?") {
			return nil, fmt.Errorf("%w: principal %q is not the ARN of one role, user or account", ErrInput, arn)
		}
	}
	if err := checkImages(images); err != nil {
		return nil, err
	}
	policy := keyPolicy{Version: policyVersion, ID: "attested-machines"}
	policy.allow("Administration", principals.Administrators, adminActions, nil)
	if len(principals.Encrypters) > 0 {
		policy.allow("Encryption", principals.Encrypters, encryptActions, nil)
	}
	for _, image := range images {
		conditions := map[string]string{}
		for i, value := range image.PCRs {
			conditions[fmt.Sprint(conditionPCR, i)] = hex.EncodeToString(value)
		}
		policy.allow("Image"+image.Name, principals.Machines, attestedActions, conditionBlock{"StringEqualsIgnoreCase": conditions})
	}
	first := slices.Min(slices.Collect(maps.Keys(images[0].PCRs)))
	policy.Statement = append(policy.Statement, statement{
		SID: "NobodyWithoutAttestation", Effect: "Deny", Principal: principal{AWS: []string{"*"}},
		Action:    append(slices.Clone(attestedActions), "kms:ReEncryptFrom"),
		Resource:  "*",
		Condition: conditionBlock{"Null": {fmt.Sprint(conditionPCR, first): "true"}},
	})
	return json.MarshalIndent(policy, "", "  ")
}

// ImageError is an ErrInput about one Image of a key policy.
type ImageError struct{ Image, Problem string }

func (e *ImageError) Error() string { return fmt.Sprintf("image %q: %s", e.Image, e.Problem) }

// Unwrap gives ErrInput.
func (e *ImageError) Unwrap() error { return ErrInput }

// checkImages refuses images that anything else could look like.
func checkImages(images []Image) error {
	if len(images) == 0 {
		return fmt.Errorf("%w: a key policy needs an image", ErrInput)
	}
	names := map[string]bool{}
	for _, image := range images {
		if image.Name == "" || strings.TrimFunc(image.Name, isAlphanumeric) != "" || names[image.Name] {
			return &ImageError{image.Name, "its name: letters and digits, each name once"}
		}
		names[image.Name] = true
		for i, value := range image.PCRs {
			if i < 0 || i > lastPCR || len(value) != pcrSize {
				return &ImageError{image.Name, fmt.Sprintf("PCR%d of %d bytes: 0 to %d with %d bytes are possible", i, len(value), lastPCR, pcrSize)}
			}
		}
		if !slices.ContainsFunc([]int{4, 7}, func(i int) bool { return tells(i, image.PCRs[i]) }) {
			return &ImageError{image.Name, "it has neither PCR 4 nor PCR 7 under secure boot: nothing tells it from other images"}
		}
	}
	return nil
}

// tells says whether a value of PCR 4 or 7 tells images apart: something measured them, and it was not the absence of secure boot.
func tells(pcr int, value []byte) bool {
	return slices.ContainsFunc(value, func(b byte) bool { return b != 0 }) && !(pcr == 7 && hex.EncodeToString(value) == noSecureBoot)
}

func isAlphanumeric(r rune) bool {
	return r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z'
}

// keyPolicy is a policy document of AWS in the form that KeyPolicy writes.
type keyPolicy struct {
	Version   string
	ID        string `json:"Id"`
	Statement []statement
}

type statement struct {
	SID       string `json:"Sid"`
	Effect    string
	Principal principal
	Action    []string
	Resource  string
	Condition conditionBlock `json:",omitempty"`
}

type principal struct{ AWS []string }

// conditionBlock is operator, key, value.
type conditionBlock map[string]map[string]string

func (p *keyPolicy) allow(sid string, who, actions []string, conditions conditionBlock) {
	p.Statement = append(p.Statement, statement{
		SID: sid, Effect: "Allow", Principal: principal{AWS: who}, Action: actions, Resource: "*", Condition: conditions,
	})
}
