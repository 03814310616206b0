package keystore

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// State of a key's life.
type State string

// A key is ready unless it was interrupted on its way to or from a persistent handle. Pending and evicting keys can be
// used as wrapped ones meanwhile.
const (
	Ready    State = "ready"
	Pending  State = "pending"
	Evicting State = "evicting" // on its way back to a wrapped key
	Deleting State = "deleting"
)

// authKind says what a key's authValue is.
type authKind string

const (
	authEmpty authKind = "empty"
	authToken authKind = "token" // the token's secret
	authOwn   authKind = "own"   // a PIN of the key's own
)

// Limits of what people choose, in bytes. A CKA_ID is 20 bytes by default.
const (
	maxLabel = 255
	maxCKAID = 255

	maxSubject = 4096
)

// sidecar is <id>.json: what is known of a key beside its PEM.
type sidecar struct {
	Version int           `json:"version"`
	Name    hexText       `json:"name"`
	Label   string        `json:"label"`
	CKAID   hexText       `json:"cka_id"`
	Subject []byte        `json:"subject,omitempty"` // of a certificate to come
	Handle  handleText    `json:"handle,omitzero"`
	State   State         `json:"state"`
	Auth    authKind      `json:"auth"`
	Policy  policy.Policy `json:"policy,omitzero"` // with the PCR values, which the PEM does not have
	Created time.Time     `json:"created"`
	SRK     hexText       `json:"srk,omitempty"`    // Name of the SRK that the key was made under
	Public  []byte        `json:"public,omitempty"` // TPMT_PUBLIC of a linked key, which has no PEM
	Secret  *secretPart   `json:"secret,omitempty"` // of a secret; the PEM has the key that opens it
}

func (s *sidecar) version() int { return s.Version }

func parseSidecar(text []byte) (sidecar, error) {
	s, said, plain := readPlain(text)
	if plain && said != nil {
		plain = s.Policy.UnmarshalJSON(said) == nil
	}
	if plain {
		return s.valid()
	}
	s = sidecar{}
	if err := decodeStrict(text, &s); err != nil {
		return sidecar{}, err
	}
	return s.valid()
}

// glanceSidecar is parseSidecar for what need not be known of the policy, which is the costly part.
func glanceSidecar(text []byte) (sidecar, error) {
	if s, _, plain := readPlain(text); plain {
		return s.valid()
	}
	return parseSidecar(text)
}

func (s sidecar) valid() (sidecar, error) {
	if err := s.validate(); err != nil {
		return sidecar{}, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return s, nil
}

func (s sidecar) validate() error {
	public := s.Secret != nil && s.Secret.Public
	if len(s.Name) == 0 != public {
		return fmt.Errorf("it has no name, or one of nothing")
	}
	if err := checkLabel(s.Label); err != nil {
		return err
	}
	if err := checkCKAID(s.CKAID); err != nil && (s.Secret == nil || len(s.CKAID) > 0) {
		return err
	}
	if len(s.Subject) > maxSubject {
		return fmt.Errorf("a subject of %d bytes (at most %d)", len(s.Subject), maxSubject)
	}
	if s.Secret != nil {
		if s.Public != nil || s.Handle != 0 {
			return fmt.Errorf("a secret is no linked key and has no handle")
		}
		if err := s.Secret.validate(); err != nil {
			return err
		}
	}
	switch s.Auth {
	case authEmpty, authToken, authOwn:
	default:
		return fmt.Errorf("auth %q is unknown", s.Auth)
	}
	switch s.State {
	case Ready, Pending, Deleting:
	case Evicting:
		if s.Handle == 0 {
			return fmt.Errorf("it is evicting and has no handle")
		}
	default:
		return fmt.Errorf("state %q is unknown", s.State)
	}
	if s.Public == nil {
		return nil
	}
	area, err := provider.ParsePublic(s.Public)
	if err != nil {
		return fmt.Errorf("public: %w", err)
	}
	if !bytes.Equal(area.Name(), s.Name) {
		return fmt.Errorf("its name is not that of its public area")
	}
	if s.Handle == 0 {
		return fmt.Errorf("it is a linked key and has no handle")
	}
	return nil
}

// usableAt is the handle at which the key can be used. While a key is on its way to or from a handle, it is used as a wrapped one.
func (s sidecar) usableAt() provider.Handle {
	if s.State == Ready || s.Public != nil {
		return provider.Handle(s.Handle)
	}
	return 0
}

func (s sidecar) encode() ([]byte, error) {
	if err := s.validate(); err != nil {
		return nil, fmt.Errorf("sidecar of %q: %w", s.Label, err)
	}
	return encodeJSON(s)
}

func checkLabel(label string) error {
	switch {
	case label == "":
		return fmt.Errorf("%w: a key needs a label", ErrInvalid)
	case len(label) > maxLabel:
		return fmt.Errorf("%w: a label of %d bytes (at most %d)", ErrInvalid, len(label), maxLabel)
	case !isPlainText(label):
		return fmt.Errorf("%w: the label %q is not plain UTF-8 text", ErrInvalid, shortened(label))
	}
	return nil
}

// CheckLabel refuses what no key should be called: nothing, more than 255 bytes, text that cannot be seen whole (control,
// invisible and direction-changing characters), and what is another kind of name, a persistent handle or a URI.
// A label that a file has already is less strictly judged.
func CheckLabel(label string) error {
	if err := checkLabel(label); err != nil {
		return err
	}
	for _, r := range label {
		if !unicode.IsPrint(r) || unicode.Is(unicode.Other_Default_Ignorable_Code_Point, r) {
			return fmt.Errorf("%w: the label %q has a character that cannot be seen, %U", ErrInvalid, shortened(label), r)
		}
	}
	lower := strings.ToLower(label)
	if strings.HasPrefix(lower, "pkcs11:") {
		return fmt.Errorf("%w: the label %q would be read as a PKCS #11 URI", ErrInvalid, shortened(label))
	}
	if digits, hex := strings.CutPrefix(lower, "0x"); hex {
		if _, err := strconv.ParseUint(digits, 16, 32); err == nil {
			return fmt.Errorf("%w: the label %q would be read as a handle", ErrInvalid, label)
		}
	}
	return nil
}

// shortened is a label for messages.
func shortened(label string) string {
	const shown = 40
	runes := []rune(strings.ToValidUTF8(label, "\uFFFD"))
	if len(runes) <= shown {
		return string(runes)
	}
	return string(runes[:shown]) + "…"
}

func checkCKAID(id []byte) error {
	if len(id) == 0 || len(id) > maxCKAID {
		return fmt.Errorf("%w: a CKA_ID of %d bytes (1 to %d)", ErrInvalid, len(id), maxCKAID)
	}
	return nil
}

func isPlainText(s string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if unicode.IsControl(r) {
			return false
		}
	}
	return true
}
