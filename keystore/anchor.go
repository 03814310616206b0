package keystore

import (
	"bytes"
	"fmt"
	"time"

	"github.com/tpm2-p11/tpm2-p11/provider"
)

const anchorFile = "token.json"

// maxTokenLabel is Cryptoki's (CK_TOKEN_INFO), in bytes.
const maxTokenLabel = 32

// anchor is token.json: the token, the SRK it is pinned to, and its secret, sealed under the PINs.
type anchor struct {
	Version int        `json:"version"`
	Label   string     `json:"label"`
	Serial  string     `json:"serial"`
	Created time.Time  `json:"created"`
	SRK     anchorSRK  `json:"srk"`
	PIN     *anchorPIN `json:"pin,omitempty"` // nil: a token without a PIN
	srk     provider.SRK
}

type anchorSRK struct {
	Handle handleText `json:"handle"`
	Name   hexText    `json:"name"`
	Public []byte     `json:"public"` // TPMT_PUBLIC
}

// anchorPIN holds the token's secret twice.
type anchorPIN struct {
	User *sealedSecret `json:"user,omitempty"` // nil until the security officer gives the user a PIN
	SO   sealedSecret  `json:"so"`
}

// sealedSecret is a sealed object under the SRK whose authValue is SHA-256 of a PIN.
type sealedSecret struct {
	Public  []byte `json:"public"`  // TPMT_PUBLIC
	Private []byte `json:"private"` // content of TPM2B_PRIVATE
}

func seal(o provider.Object) sealedSecret {
	return sealedSecret{Public: o.Public.Marshal(), Private: o.Private}
}

func (s sealedSecret) object() (provider.Object, error) {
	public, err := provider.ParsePublic(s.Public)
	if err != nil {
		return provider.Object{}, err
	}
	if !public.IsSealed() || len(s.Private) == 0 {
		return provider.Object{}, fmt.Errorf("it is not sealed data")
	}
	return provider.Object{Public: public, Private: s.Private}, nil
}

func (a *anchor) version() int { return a.Version }

func parseAnchor(text []byte) (*anchor, error) {
	a := new(anchor)
	if err := decodeStrict(text, a); err != nil {
		return nil, err
	}
	corrupt := func(what string, err error) (*anchor, error) {
		return nil, fmt.Errorf("%w: %s: %w", ErrCorrupt, what, err)
	}
	if err := checkTokenLabel(a.Label); err != nil {
		return corrupt("label", err)
	}
	if !isSerial(a.Serial) {
		return corrupt("serial", fmt.Errorf("%q is not 16 hex digits", a.Serial))
	}
	public, err := provider.ParsePublic(a.SRK.Public)
	if err != nil {
		return corrupt("srk", err)
	}
	if !bytes.Equal(public.Name(), a.SRK.Name) {
		return corrupt("srk", fmt.Errorf("its name is not that of its public area"))
	}
	if !public.IsStorageKey() {
		return corrupt("srk", fmt.Errorf("it is %s, and no storage key", public.Describe()))
	}
	if err := checkHandle(provider.Handle(a.SRK.Handle)); err != nil {
		return corrupt("srk", err)
	}
	a.srk = provider.SRK{Handle: provider.Handle(a.SRK.Handle), Public: public}
	if a.PIN != nil {
		if a.PIN.User != nil {
			if _, err := a.PIN.User.object(); err != nil {
				return corrupt("pin.user", err)
			}
		}
		if _, err := a.PIN.SO.object(); err != nil {
			return corrupt("pin.so", err)
		}
	}
	return a, nil
}

func checkTokenLabel(label string) error {
	if label == "" || len(label) > maxTokenLabel || !isPlainText(label) {
		return fmt.Errorf("%w: a token's label is 1 to %d bytes of plain UTF-8 text", ErrInvalid, maxTokenLabel)
	}
	return nil
}

func isSerial(s string) bool {
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return len(s) == 16
}
