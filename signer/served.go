package signer

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2"

	"github.com/tpm2-p11/tpm2-p11/internal/client"
	"github.com/tpm2-p11/tpm2-p11/internal/keyuse"
	"github.com/tpm2-p11/tpm2-p11/internal/secret"
	"github.com/tpm2-p11/tpm2-p11/internal/tokens"
)

// servedHome is a key of a server's.
type servedHome struct {
	client    *client.Client
	slot, key uint64
	ownPIN    *secret.Bytes // nil for a key without one
}

func (h *servedHome) do(ctx context.Context, t task) ([]byte, error) {
	out, err := h.client.Use(ctx, h.slot, h.key, t.served, h.ownPIN)
	return out, servedError(err)
}

func (h *servedHome) close() error {
	h.client.Close()
	h.ownPIN.Wipe()
	return nil
}

// openServed finds a key among a server's.
func openServed(ctx context.Context, socket string, want tokens.Name, o options) (*Key, error) {
	c := client.New(socket)
	k, err := findServed(ctx, c, want, o.pin)
	if err != nil {
		c.Close()
		return nil, servedError(err)
	}
	if o.log != nil {
		k.log = o.log
	}
	return k, nil
}

// Attributes (PKCS #11 v3.1, section 4), and those of ours.
const (
	ckaClass              = 0x0
	ckaLabel              = 0x3
	ckaValue              = 0x11
	ckaID                 = 0x102
	ckaDecrypt            = 0x105
	ckaSign               = 0x108
	ckaPublicKeyInfo      = 0x129
	ckaAlwaysAuthenticate = 0x202
	ckaAllowedMechanisms  = 0x40000600
	ckaTPM2Name           = 0x80544B12

	ckoCertificate = 1
	ckoPublicKey   = 2
	ckoPrivateKey  = 3
)

func class(n uint64) client.Attributes {
	return client.Attributes{ckaClass: binary.LittleEndian.AppendUint64(nil, n)}
}

// servedKey is a key as its public half and its certificates, which need no login, show it.
type servedKey struct {
	slot   client.Slot
	traits tokens.Traits
	public client.Attributes
	chain  []*x509.Certificate
}

func findServed(ctx context.Context, c *client.Client, want tokens.Name, pin func() ([]byte, error)) (*Key, error) {
	k, err := chooseServed(ctx, c, want)
	if err != nil {
		return nil, err
	}
	public, err := x509.ParsePKIXPublicKey(k.public[ckaPublicKeyInfo])
	if err != nil {
		return nil, fmt.Errorf("key %q: the server gives no public key: %w", k.traits.Label, err)
	}
	ask := pinFrom(want.URI, pin)
	found, err := privateHalf(ctx, c, k)
	if err == nil && len(found) == 0 && k.slot.LoginRequired { // only what the token's PIN opens hides from who asks by Name
		if err = logInServed(ctx, c, k.slot.ID, ask); err == nil {
			found, err = privateHalf(ctx, c, k)
		}
	}
	switch {
	case err != nil:
		return nil, err
	case len(found) != 1:
		return nil, fmt.Errorf("%w: the server has no private half for %q", ErrNotFound, k.traits.Label)
	}
	private := found[0].Attributes
	h := &servedHome{client: c, slot: k.slot.ID, key: found[0].Handle}
	if isTrue(private[ckaAlwaysAuthenticate]) {
		if h.ownPIN, err = ask(ErrKeyPINNeeded); err != nil {
			return nil, err
		}
	}
	return newKey(&Key{label: k.traits.Label, public: public, certificates: k.chain, limits: limits{servedUse(private)}, home: h}), nil
}

// privateHalf is the private half of a key, as far as it shows.
func privateHalf(ctx context.Context, c *client.Client, k servedKey) ([]client.Object, error) {
	template := class(ckoPrivateKey)
	template[ckaTPM2Name] = k.public[ckaTPM2Name]
	return c.Objects(ctx, k.slot.ID, template, ckaSign, ckaDecrypt, ckaAlwaysAuthenticate, ckaAllowedMechanisms)
}

// logInServed gives a token its PIN.
func logInServed(ctx context.Context, c *client.Client, slot uint64, ask func(missing error) (*secret.Bytes, error)) error {
	pin, err := ask(ErrPINNeeded)
	if err != nil {
		return err
	}
	defer pin.Wipe()
	return c.Login(ctx, slot, pin)
}

// chooseServed is the one key that answers to a name.
func chooseServed(ctx context.Context, c *client.Client, want tokens.Name) (servedKey, error) {
	slots, err := c.Slots(ctx)
	if err != nil {
		return servedKey{}, err
	}
	var found []servedKey
	var uris []string
	initialized := false
	for _, slot := range slots {
		if !slot.Initialized {
			continue
		}
		initialized = true
		keys, err := servedKeys(ctx, c, slot)
		if err != nil {
			return servedKey{}, err
		}
		for _, k := range keys {
			if want.Matches(k.traits) {
				found, uris = append(found, k), append(uris, k.traits.URI())
			}
		}
	}
	switch {
	case !initialized:
		return servedKey{}, fmt.Errorf("%w at the server: run `tpm2-p11 init` there", ErrNotInitialized)
	case len(found) == 0:
		return servedKey{}, fmt.Errorf("%w among those that the server lets this user use: an [[access]] table of its configuration names a user's keys", ErrNotFound)
	case len(found) > 1:
		return servedKey{}, tokens.Ambiguous(uris)
	}
	return found[0], nil
}

func servedKeys(ctx context.Context, c *client.Client, slot client.Slot) (keys []servedKey, err error) {
	publics, err := c.Objects(ctx, slot.ID, class(ckoPublicKey), ckaLabel, ckaID, ckaPublicKeyInfo, ckaTPM2Name)
	if err != nil {
		return nil, err
	}
	objects, err := c.Objects(ctx, slot.ID, class(ckoCertificate), ckaValue)
	if err != nil {
		return nil, err
	}
	var certificates []*x509.Certificate
	for _, o := range objects {
		if certificate, err := x509.ParseCertificate(o.Attributes[ckaValue]); err == nil {
			certificates = append(certificates, certificate)
		}
	}
	for _, o := range publics {
		k := servedKey{slot: slot, public: o.Attributes, chain: chainOf(o.Attributes[ckaPublicKeyInfo], certificates)}
		k.traits = tokens.Traits{
			Label: string(o.Attributes[ckaLabel]), CKAID: o.Attributes[ckaID], HasCertificate: len(k.chain) > 0,
			Slot: int(slot.ID), Token: slot.Label, Serial: slot.Serial,
		}
		keys = append(keys, k)
	}
	return keys, nil
}

// chainOf puts a key's certificates in order, leaf first.
func chainOf(spki []byte, all []*x509.Certificate) (chain []*x509.Certificate) {
	at := slices.IndexFunc(all, func(c *x509.Certificate) bool { return slices.Equal(c.RawSubjectPublicKeyInfo, spki) })
	for at >= 0 && !slices.Contains(chain, all[at]) {
		last := all[at]
		chain = append(chain, last)
		at = slices.IndexFunc(all, func(c *x509.Certificate) bool { return c != last && last.CheckSignatureFrom(c) == nil })
	}
	return chain
}

func isTrue(b []byte) bool { return len(b) == 1 && b[0] == 1 }

// schemesOf are what mechanisms say of the one scheme of a key that was made for one: several rows of a scheme leave its hash open.
var schemesOf = map[uint64]struct {
	scheme tpm2.TPMAlgID
	hash   crypto.Hash
}{
	client.MechanismRSAPKCS: {tpm2.TPMAlgRSASSA, 0}, client.MechanismSHA256RSA: {tpm2.TPMAlgRSASSA, crypto.SHA256},
	client.MechanismSHA384RSA: {tpm2.TPMAlgRSASSA, crypto.SHA384}, client.MechanismSHA512RSA: {tpm2.TPMAlgRSASSA, crypto.SHA512},
	client.MechanismRSAPSS: {tpm2.TPMAlgRSAPSS, 0}, client.MechanismSHA256RSAPSS: {tpm2.TPMAlgRSAPSS, crypto.SHA256},
	client.MechanismSHA384RSAPSS: {tpm2.TPMAlgRSAPSS, crypto.SHA384}, client.MechanismSHA512RSAPSS: {tpm2.TPMAlgRSAPSS, crypto.SHA512},
	client.MechanismECDSA: {tpm2.TPMAlgECDSA, 0}, client.MechanismECDSASHA256: {tpm2.TPMAlgECDSA, crypto.SHA256},
	client.MechanismECDSASHA384: {tpm2.TPMAlgECDSA, crypto.SHA384}, client.MechanismECDSASHA512: {tpm2.TPMAlgECDSA, crypto.SHA512},
}

// servedUse is what a key may be used for, as its attributes tell. The server has the last word.
func servedUse(private client.Attributes) keyuse.Use {
	u := keyuse.Use{Sign: isTrue(private[ckaSign]), Decrypt: isTrue(private[ckaDecrypt]), Scheme: tpm2.TPMAlgNull}
	schemes, hashes := map[tpm2.TPMAlgID]bool{}, map[crypto.Hash]bool{}
	for list := private[ckaAllowedMechanisms]; len(list) >= 8; list = list[8:] {
		if row, ok := schemesOf[binary.LittleEndian.Uint64(list)]; ok {
			schemes[row.scheme] = true
			if row.hash != 0 {
				hashes[row.hash] = true
			}
		}
	}
	if len(schemes) != 1 || len(hashes) != 1 {
		return u
	}
	for scheme := range schemes {
		u.Scheme = scheme
	}
	for hash := range hashes {
		u.Hash = hash
	}
	return u
}

// servedErrors are what answers of a server become.
var servedErrors = []struct {
	answer, err error
}{
	{client.ErrUnreachable, ErrUnavailable},
	{client.ErrNoAccess, ErrNoAccess},
	{client.ErrClosed, ErrClosed},
	{client.RVFunctionRejected, ErrPolicy},
	{client.RVPINIncorrect, ErrPIN},
	{client.RVPINLenRange, ErrPIN},
	{client.RVPINLocked, ErrLockout},
	{client.RVUserNotLoggedIn, ErrPINNeeded},
	{client.RVDeviceRemoved, ErrUnavailable},
	{client.RVDeviceError, ErrUnavailable},
	{client.RVTokenNotRecognized, ErrNotInitialized},
	{client.RVKeyHandleInvalid, ErrNoObject},
	{client.RVObjectHandleInvalid, ErrNoObject},
	{client.RVKeyFunctionNotPermitted, ErrWrongUse},
	{client.RVMechanismInvalid, ErrUnsupported},
	{client.RVMechanismParamInvalid, ErrUnsupported},
	{client.RVEncryptedDataInvalid, ErrDecrypt},
	{client.RVEncryptedDataLenRange, ErrDecrypt},
	{client.RVDataInvalid, ErrAlgorithm},
	{client.RVDataLenRange, ErrLength},
}

// servedError is a typed error of this package's.
func servedError(err error) error {
	for _, row := range servedErrors {
		if !errors.Is(err, row.answer) {
			continue
		}
		var rv client.RV
		if errors.As(err, &rv) && row.err != ErrNoAccess {
			return fmt.Errorf("%w: %w: the server's log says why", row.err, err)
		}
		return fmt.Errorf("%w: %w", row.err, err)
	}
	return err
}
