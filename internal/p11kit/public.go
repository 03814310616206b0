package p11kit

import (
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"

	"github.com/tpm2-p11/tpm2-p11/p11"
)

// values are an object's attributes, those that it has.
type values map[p11.AttributeType][]byte

// maxAttribute is room for any attribute that is read here, a certificate among them.
const maxAttribute = 64 << 10

// booleans are the attributes that the protocol writes as a byte alone, of those that are read here.
var booleans = map[p11.AttributeType]bool{p11.CKA_ALWAYS_AUTHENTICATE: true}

// get reads attributes of an object. Those that it does not have, or does not tell, are absent.
func (k *Key) get(object uint64, names ...p11.AttributeType) (values, error) {
	r, err := k.module.call(getAttributeValue, "uufA", "aAu", func(r *request) {
		r.u64(k.session)
		r.u64(object)
		r.u32(uint32(len(names)))
		for _, name := range names {
			r.u32(uint32(name))
			r.u32(maxAttribute)
		}
	})
	if err != nil {
		return nil, err
	}
	found := values{}
	for n := r.u32(); n > 0 && r.Err() == nil; n-- {
		name := p11.AttributeType(r.u32())
		if !r.Bool() {
			continue
		}
		if size := r.u32(); booleans[name] {
			found[name] = r.Fixed(int(size))
		} else {
			found[name] = r.counted()
		}
	}
	// The module's own return value, which only says that some are absent.
	if r.u64(); r.End() != nil {
		return nil, k.module.malformed(r.Err())
	}
	return found, nil
}

// describe reads what the key is from its own object, from that of the public key with its identifier, or from a certificate.
func (k *Key) describe() error {
	own, err := k.get(k.object, p11.CKA_ID, p11.CKA_LABEL, p11.CKA_ALWAYS_AUTHENTICATE, p11.CKA_PUBLIC_KEY_INFO, p11.CKA_MODULUS, p11.CKA_PUBLIC_EXPONENT)
	if err != nil {
		return fmt.Errorf("reading the key's attributes: %w", err)
	}
	k.always = len(own[p11.CKA_ALWAYS_AUTHENTICATE]) == 1 && own[p11.CKA_ALWAYS_AUTHENTICATE][0] == 1
	same := attribute{name: p11.CKA_ID, value: own[p11.CKA_ID]}
	if len(same.value) == 0 {
		same = attribute{name: p11.CKA_LABEL, value: own[p11.CKA_LABEL]}
	}
	candidates := []values{own}
	for _, c := range []p11.ObjectClass{p11.CKO_PUBLIC_KEY, p11.CKO_CERTIFICATE} {
		objects, err := k.search(class(c), same)
		if err != nil {
			return fmt.Errorf("looking for the public key: %w", err)
		}
		names := []p11.AttributeType{p11.CKA_PUBLIC_KEY_INFO, p11.CKA_MODULUS, p11.CKA_PUBLIC_EXPONENT, p11.CKA_EC_PARAMS, p11.CKA_EC_POINT}
		if c == p11.CKO_CERTIFICATE {
			names = []p11.AttributeType{p11.CKA_VALUE}
		}
		for _, object := range objects {
			v, err := k.get(object, names...)
			if err != nil {
				return fmt.Errorf("reading the public key: %w", err)
			}
			candidates = append(candidates, v)
		}
	}
	for _, v := range candidates {
		if k.public, err = v.publicKey(); err == nil {
			return nil
		}
	}
	return fmt.Errorf("the key with CKA_ID %x: %w", own[p11.CKA_ID], ErrNoPublicKey)
}

var errIncomplete = errors.New("no public key in these attributes")

func (v values) publicKey() (crypto.PublicKey, error) {
	switch {
	case len(v[p11.CKA_PUBLIC_KEY_INFO]) > 0:
		return x509.ParsePKIXPublicKey(v[p11.CKA_PUBLIC_KEY_INFO])
	case len(v[p11.CKA_VALUE]) > 0:
		certificate, err := x509.ParseCertificate(v[p11.CKA_VALUE])
		if err != nil {
			return nil, err
		}
		return certificate.PublicKey, nil
	case len(v[p11.CKA_MODULUS]) > 0 && len(v[p11.CKA_PUBLIC_EXPONENT]) > 0:
		e := new(big.Int).SetBytes(v[p11.CKA_PUBLIC_EXPONENT])
		if e.BitLen() > 31 {
			return nil, errIncomplete
		}
		return &rsa.PublicKey{N: new(big.Int).SetBytes(v[p11.CKA_MODULUS]), E: int(e.Int64())}, nil
	case len(v[p11.CKA_EC_PARAMS]) > 0 && len(v[p11.CKA_EC_POINT]) > 0:
		return pointKey(v[p11.CKA_EC_PARAMS], v[p11.CKA_EC_POINT])
	}
	return nil, errIncomplete
}

// pointKey is the public key of a curve and a point, in DER; some modules give the point itself. One of 256 points looks like DER itself; a
// point's DER is longer than a point.
func pointKey(params, point []byte) (crypto.PublicKey, error) {
	key, err := curveKey(params, point)
	if err == nil {
		return key, nil
	}
	var inner []byte
	if rest, no := asn1.Unmarshal(point, &inner); no != nil || len(rest) > 0 {
		return nil, err
	}
	return curveKey(params, inner)
}

func curveKey(params, point []byte) (crypto.PublicKey, error) {
	der, err := asn1.Marshal(struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}{
		pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}, Parameters: asn1.RawValue{FullBytes: params}},
		asn1.BitString{Bytes: point, BitLength: 8 * len(point)},
	})
	if err != nil {
		return nil, err
	}
	return x509.ParsePKIXPublicKey(der)
}
