package p11kit

import (
	"context"
	"crypto"
	"crypto/rsa"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"math/big"
	"strconv"
	"strings"

	"github.com/tpm2-p11/tpm2-p11/internal/p11uri"
	"github.com/tpm2-p11/tpm2-p11/internal/secret"
	"github.com/tpm2-p11/tpm2-p11/p11"
)

var (
	// ErrNotFound says that nothing in the module answers to the URI, or more than one thing.
	ErrNotFound = errors.New("the URI names no single key there")
	// ErrNoPublicKey says that the module has no public key or certificate beside the private key.
	ErrNoPublicKey = errors.New("the module has no public key of it")
)

// Key is a private key in a module, RSA or EC. It is not safe for concurrent use.
type Key struct {
	module          *module
	session, object uint64
	public          crypto.PublicKey
	always          bool // each signature wants the PIN
	pin             func(what string) (*secret.Bytes, error)
}

// Open finds the one private key that a URI names, by token, manufacturer, model, serial, slot-id, object and id, in the module of its
// module-path. pin gives the PIN of what it is told, a token or key, and is asked only if one is needed; it is wiped after each use.
// The module, and all calls, end with ctx.
func Open(ctx context.Context, uri p11uri.URI, pin func(what string) (*secret.Bytes, error)) (*Key, error) {
	m, err := load(ctx, uri.ModulePath)
	if err != nil {
		return nil, err
	}
	k := &Key{module: m, pin: pin}
	if err := k.open(uri); err != nil {
		k.Close()
		return nil, err
	}
	return k, nil
}

func (k *Key) open(uri p11uri.URI) error {
	t, err := k.module.token(uri)
	if err != nil {
		return err
	}
	r, err := k.module.call(openSession, "uu", "u", func(r *request) { r.u64(t.slot); r.u64(uint64(p11.CKF_SERIAL_SESSION)) })
	if err != nil {
		return fmt.Errorf("opening token %s: %w", t.have[p11uri.Token], err)
	}
	k.session = r.u64()
	if err := r.End(); err != nil {
		return k.module.malformed(err)
	}
	if t.flags&uint64(p11.CKF_LOGIN_REQUIRED) != 0 {
		if err := k.login(p11.CKU_USER, "token "+t.have[p11uri.Token], t.flags&protectedAuthentication != 0); err != nil {
			return err
		}
	}
	if err := k.find(uri); err != nil {
		return err
	}
	return k.describe()
}

// Close ends the module's process. How that ends matters to nobody: modules are known to crash at their end.
func (k *Key) Close() { k.module.close() }

// Public is an *rsa.PublicKey or *ecdsa.PublicKey.
func (k *Key) Public() crypto.PublicKey { return k.public }

// login gives a PIN, or lets the token ask for it itself.
func (k *Key) login(user p11.UserType, what string, itself bool) error {
	var pin *secret.Bytes
	if !itself {
		var err error
		if pin, err = k.pin(what); err != nil {
			return err
		}
		defer pin.Wipe()
	}
	_, err := k.module.call(login, "uuay", "", func(r *request) {
		r.u64(k.session)
		r.u64(uint64(user))
		r.bytes(pin.Bytes(), itself)
	})
	if err != nil && !errors.Is(err, p11.CKR_USER_ALREADY_LOGGED_IN) {
		return fmt.Errorf("login to %s: %w", what, err)
	}
	return nil
}

// protectedAuthentication is CKF_PROTECTED_AUTHENTICATION_PATH: the token has a keypad.
const protectedAuthentication = 0x100

type token struct {
	slot, flags uint64
	have        p11uri.Attributes
}

// token is the one token that a URI names. With more than one, a PIN would be tried on another's.
func (m *module) token(uri p11uri.URI) (token, error) {
	r, err := m.call(getSlotList, "yfu", "au", func(r *request) { r.w.Byte(1); r.u32(maxSlots) })
	if err != nil {
		return token{}, err
	}
	slots := r.numbers()
	if err := r.End(); err != nil {
		return token{}, m.malformed(err)
	}
	wanted := p11uri.URI{Path: p11uri.Attributes{}}
	for name, value := range uri.Path {
		if name != p11uri.Object && name != p11uri.ID && name != p11uri.Type {
			wanted.Path[name] = value
		}
	}
	var found []token
	var all []string
	for _, slot := range slots {
		t, err := m.tokenIn(slot)
		if err != nil {
			return token{}, err
		}
		if t.flags&tokenInitialized == 0 {
			continue
		}
		all = append(all, t.have[p11uri.Token])
		if wanted.Matches(t.have) {
			found = append(found, t)
		}
	}
	if len(found) != 1 {
		return token{}, fmt.Errorf("%w: of the tokens (%s) %d are %s", ErrNotFound, strings.Join(all, ", "), len(found), wanted)
	}
	return found[0], nil
}

const (
	maxSlots         = 256
	tokenInitialized = 0x400 // CKF_TOKEN_INITIALIZED
)

func (m *module) tokenIn(slot uint64) (token, error) {
	r, err := m.call(getTokenInfo, "u", "ssssuuuuuuuuuuuvvs", func(r *request) { r.u64(slot) })
	if err != nil {
		return token{}, fmt.Errorf("the token in slot %d: %w", slot, err)
	}
	t := token{slot: slot, have: p11uri.Attributes{p11uri.SlotID: strconv.FormatUint(slot, 10)}}
	for _, name := range []string{p11uri.Token, p11uri.Manufacturer, p11uri.Model, p11uri.Serial} {
		t.have[name] = strings.TrimRight(string(r.counted()), " ")
	}
	t.flags = r.u64()
	return t, r.Err()
}

// attribute is one of a template. Numbers are eight bytes in the protocol, whatever they are in the module.
type attribute struct {
	name  p11.AttributeType
	value []byte
	ulong bool
}

func class(c p11.ObjectClass) attribute {
	return attribute{p11.CKA_CLASS, []byte{0, 0, 0, 0, 0, 0, 0, byte(c)}, true}
}

// search gives the objects of a template, two at most.
func (k *Key) search(template ...attribute) ([]uint64, error) {
	_, err := k.module.call(findObjectsInit, "uaA", "", func(r *request) {
		r.u64(k.session)
		r.u32(uint32(len(template)))
		for _, a := range template {
			r.u32(uint32(a.name))
			r.w.Byte(1)
			r.u32(uint32(len(a.value)))
			if a.ulong {
				r.w.Fixed(a.value)
			} else {
				r.counted(a.value)
			}
		}
	})
	if err != nil {
		return nil, err
	}
	r, err := k.module.call(findObjects, "ufu", "au", func(r *request) { r.u64(k.session); r.u32(2) })
	if err != nil {
		return nil, err
	}
	found := r.numbers()
	if err := r.End(); err != nil {
		return nil, k.module.malformed(err)
	}
	_, err = k.module.call(findObjectsFinal, "u", "", func(r *request) { r.u64(k.session) })
	return found, err
}

func (k *Key) find(uri p11uri.URI) error {
	template := []attribute{class(p11.CKO_PRIVATE_KEY)}
	for name, a := range map[string]p11.AttributeType{p11uri.Object: p11.CKA_LABEL, p11uri.ID: p11.CKA_ID} {
		if value, ok := uri.Path[name]; ok {
			template = append(template, attribute{name: a, value: []byte(value)})
		}
	}
	found, err := k.search(template...)
	if err != nil {
		return fmt.Errorf("looking for the key: %w", err)
	}
	if kind := uri.Path[p11uri.Type]; len(found) != 1 || kind != "" && kind != "private" {
		return fmt.Errorf("%w: %s", ErrNotFound, uri)
	}
	k.object = found[0]
	return nil
}

// Sign makes a signature over a SHA-256 digest: RSASSA PKCS #1 v1.5, or ECDSA in ASN.1.
func (k *Key) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if _, pss := opts.(*rsa.PSSOptions); pss || opts.HashFunc() != crypto.SHA256 || len(digest) != crypto.SHA256.Size() {
		return nil, errors.New("only SHA-256 digests are signed here, and without PSS")
	}
	mechanism, data := p11.CKM_ECDSA, digest
	_, isRSA := k.public.(*rsa.PublicKey)
	if isRSA {
		mechanism, data = p11.CKM_RSA_PKCS, append([]byte(sha256DigestInfo), digest...)
	}
	if _, err := k.module.call(signInit, "uMu", "", func(r *request) {
		r.u64(k.session)
		r.mechanism(mechanism, k.module.version)
		r.u64(k.object)
	}); err != nil {
		return nil, fmt.Errorf("beginning the signature: %w", err)
	}
	if k.always {
		if err := k.login(p11.CKU_CONTEXT_SPECIFIC, "the key", false); err != nil {
			return nil, err
		}
	}
	r, err := k.module.call(sign, "uayfy", "ay", func(r *request) { r.u64(k.session); r.bytes(data, false); r.u32(maxSignature) })
	if err != nil {
		return nil, fmt.Errorf("signing: %w", err)
	}
	signature := r.bytes()
	if err := r.End(); err != nil {
		return nil, k.module.malformed(err)
	}
	if isRSA {
		return signature, nil
	}
	half := len(signature) / 2
	return asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(signature[:half]), new(big.Int).SetBytes(signature[half:])})
}

const (
	maxSignature = 2048
	// sha256DigestInfo is the DER of SHA-256's DigestInfo up to the digest (RFC 8017, section 9.2, note 1).
	sha256DigestInfo = "\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20"
)
