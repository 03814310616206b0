package p11kit

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/tpm2-p11/tpm2-p11/p11"
)

// answer is a message of the other side's.
func answer(number uint32, signature, rest string) []byte {
	b := binary.BigEndian.AppendUint32(nil, number)
	b = binary.BigEndian.AppendUint32(b, uint32(len(signature)))
	return append(append(b, signature...), rest...)
}

func TestAnswersOfTheModule(t *testing.T) {
	t.Parallel()
	m := &module{path: "m.so"}
	if _, err := m.parse(answer(failed, "u", "\x00\x00\x00\x00\x00\x00\x00\xa0"), login, ""); !errors.Is(err, p11.CKR_PIN_INCORRECT) {
		t.Errorf("a refusal: %v", err)
	}
	for name, bad := range map[string][]byte{
		"nothing":                   nil,
		"another call's":            answer(sign, "ay", "\x01\x00\x00\x00\x00"),
		"another signature":         answer(findObjects, "u", "\x00\x00\x00\x00\x00\x00\x00\x00"),
		"a refusal that is cut":     answer(failed, "u", "\x00\x00"),
		"a refusal with more to it": answer(failed, "u", strings.Repeat("\x00", 9)),
		"a signature that is cut":   answer(findObjects, "au", "")[:9],
	} {
		if _, err := m.parse(bad, findObjects, "au"); !errors.Is(err, ErrModule) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, body := range map[string]string{
		"fewer than it says":     "\x01\x00\x00\x00\x02" + strings.Repeat("\x00", 8),
		"very many":              "\x01\xff\xff\xff\xfe",
		"none, for want of room": "\x00\x00\x00\x00\x02",
		"more than it says":      "\x01\x00\x00\x00\x00\x00",
	} {
		r, err := m.parse(answer(findObjects, "au", body), findObjects, "au")
		if err != nil {
			t.Fatal(err)
		}
		if r.numbers(); r.End() == nil {
			t.Errorf("objects, %s: taken", name)
		}
	}
}

const p256 = "\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07" // in DER

// Of the points that a module gives as they are, 04 || X || Y, each 256th begins as DER of its length does.
func TestAPointThatLooksLikeDER(t *testing.T) {
	t.Parallel()
	var key *ecdsa.PrivateKey
	var point []byte
	for len(point) == 0 || int(point[1]) != len(point)-2 {
		var err error
		if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			t.Fatal(err)
		}
		if point, err = key.PublicKey.Bytes(); err != nil {
			t.Fatal(err)
		}
	}
	for form, given := range map[string][]byte{"as it is": point, "in DER": append([]byte{4, 65}, point...)} {
		v := values{p11.CKA_EC_PARAMS: []byte(p256), p11.CKA_EC_POINT: given}
		if got, err := v.publicKey(); err != nil || !key.PublicKey.Equal(got) {
			t.Errorf("%s: %v, %v", form, got, err)
		}
	}
}

func TestPublicKeysThatAreNone(t *testing.T) {
	t.Parallel()
	for name, v := range map[string]values{
		"nothing":                     {},
		"half of it":                  {p11.CKA_MODULUS: []byte{1}},
		"an exponent without bounds":  {p11.CKA_MODULUS: []byte{1}, p11.CKA_PUBLIC_EXPONENT: bytes.Repeat([]byte{1}, 9)},
		"a certificate that is none":  {p11.CKA_VALUE: []byte("certificate")},
		"a public key that is none":   {p11.CKA_PUBLIC_KEY_INFO: []byte("key")},
		"a point off the curve":       {p11.CKA_EC_PARAMS: []byte(p256), p11.CKA_EC_POINT: append([]byte{4, 65, 4}, make([]byte, 64)...)},
		"a curve that nobody defined": {p11.CKA_EC_PARAMS: []byte("\x06\x01\x00"), p11.CKA_EC_POINT: append([]byte{4, 65, 4}, make([]byte, 64)...)},
	} {
		if key, err := v.publicKey(); err == nil {
			t.Errorf("%s: %v", name, key)
		}
	}
}
