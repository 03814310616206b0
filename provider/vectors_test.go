package provider

import (
	"bytes"
	"crypto"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
)

// The expected values were computed with another implementation, written from TPM 2.0 Part 1, section 11.4.10.

func TestKeyDerivation(t *testing.T) {
	key := make([]byte, 32)
	for i := range key {
		key[i] = byte(i)
	}
	newer, older := []byte("newer"), []byte("older")
	for _, tt := range []struct {
		name, want string
		got        []byte
	}{
		{"KDFa ATH", "fba7e315d348a44ebc66d8296e5cfa0ca41ac4bf4c626cbf620a38b60339cc96", tpm2.KDFa(crypto.SHA256, key, "ATH", newer, older, 256)},
		{"KDFa CFB", "bd4670243373a9693ead87864d792add71d5c1bf2fc94e18fa3fd71faf45522e", tpm2.KDFa(crypto.SHA256, key, "CFB", newer, older, 256)},
		{"KDFa without key", "a2f88c22830fdcd63c88103842de0ae3", tpm2.KDFa(crypto.SHA256, nil, "STORAGE", []byte("name"), nil, 128)},
		{"KDFa of two blocks", "b0f093bc5fbe62393876b2ecb26c7d12a85b431e1aecd30b3cfe076644f9e7cd1b6d4ee198e05634e55b55268d5e674f", tpm2.KDFa(crypto.SHA256, key, "CFB", newer, older, 384)},
		{"KDFe SECRET", "30242f3088e0f846882ef43d405b09c2996312e5f76280dfc2913823da90a472", tpm2.KDFe(crypto.SHA256, key, "SECRET", []byte("ephemeral"), []byte("static"), 256)},
		{"KDFe of two blocks", "a584f2022c42766892e4f7837602287242b6a1415902015b393d34d62a44b9de1a8c89ea291487e201aeab37813d254c", tpm2.KDFe(crypto.SHA256, key, "DUPLICATE", []byte("ephemeral"), []byte("static"), 384)},
	} {
		if got := hex.EncodeToString(tt.got); got != tt.want {
			t.Errorf("%s is %s, want %s", tt.name, got, tt.want)
		}
	}
}

func TestTheSRKTemplate(t *testing.T) {
	p, err := newPublic(srkTemplate)
	if err != nil {
		t.Fatal(err)
	}
	const bytes = "0023000b00030472000000060080004300100003001000000000"
	const name = "000b10f0d8dad1645f2d7380c49974c25d73738921b8789605bb3a6941c87d40f5c1"
	if got := hex.EncodeToString(p.Marshal()); got != bytes {
		t.Errorf("the template is %s", got)
	}
	if got := p.Name().String(); got != name {
		t.Errorf("its Name is %s", got)
	}
}

func TestObjectsAreDescribed(t *testing.T) {
	key := func(k KeyType, use Use) tpm2.TPMTPublic {
		kind, parms, err := k.parameters()
		if err != nil {
			t.Fatal(err)
		}
		area, err := Template{Use: use}.keyArea(kind, parms)
		if err != nil {
			t.Fatal(err)
		}
		return area
	}
	restricted := key(P256, Use{Sign: true})
	restricted.ObjectAttributes.Restricted = true
	for want, area := range map[string]tpm2.TPMTPublic{
		"ECC P-256 storage key":            srkTemplate,
		"RSA-3072 sign":                    key(RSA3072, Use{Sign: true}),
		"RSA-4096 decrypt":                 key(RSA4096, Use{Decrypt: true}),
		"ECC P-384 sign, decrypt":          key(P384, Use{Sign: true, Decrypt: true}),
		"ECC P-256 restricted signing key": restricted,
	} {
		p, err := newPublic(area)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.Describe(); got != want {
			t.Errorf("described as %q, want %q", got, want)
		}
	}
}

func TestPublicAreasThatAreRefused(t *testing.T) {
	good := tpm2.Marshal(srkTemplate)
	for name, b := range map[string][]byte{
		"nothing":                  nil,
		"a trailing byte":          append(bytes.Clone(good), 0),
		"a byte less":              good[:len(good)-1],
		"no name algorithm":        append([]byte{0, 0x23, 0, 0x10}, good[4:]...),
		"a type that is not there": append([]byte{0xFF, 0xFF}, good[2:]...),
	} {
		if _, err := ParsePublic(b); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	p, err := ParsePublic(good)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Key(); !errors.Is(err, ErrMalformed) {
		t.Errorf("a point at infinity is a key: %v", err)
	}
}

func TestResponseCodesHaveOneMeaning(t *testing.T) {
	for code, want := range map[uint32]error{
		0x98E: ErrAuth, 0x9A2: ErrAuth, 0x921: ErrLockout, 0x99D: ErrPolicy, 0x12F: ErrPolicy, 0x128: ErrPolicy,
		0x18B: ErrNoObject, 0x14C: ErrHandleTaken, 0x14B: ErrNoNV, 0x902: ErrNoMemory, 0x903: ErrNoMemory, 0x905: ErrNoMemory, 0x1DF: ErrWrongTPM, 0x2E5: ErrWrongTPM,
		0x143: ErrUnsupported, 0x000B0143: ErrUnsupported, 0x100: ErrUnavailable, 0x922: ErrBusy,
	} {
		err := &ResponseError{Command: "TPM2_Sign", Code: code}
		if !errors.Is(err, want) || !strings.HasPrefix(err.Error(), "TPM2_Sign: "+want.Error()) {
			t.Errorf("0x%X: %v, want %v", code, err, want)
		}
	}
}

// FuzzResponse feeds everything that reads a response: nothing panics, and a session's HMAC is never right.
func FuzzResponse(f *testing.F) {
	f.Add([]byte{0x80, 0x01, 0, 0, 0, 10, 0, 0, 0, 0})
	f.Add([]byte{0x80, 0x02, 0, 0, 0, 14, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{0x80, 0x01, 0, 0, 0, 10, 0, 0, 0x09, 0x22})
	f.Add(append([]byte{0x80, 0x01, 0, 0, 0, byte(10 + len(tpm2.Marshal(srkTemplate))), 0, 0, 0, 0}, tpm2.Marshal(srkTemplate)...))
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, loads := range []bool{false, true} {
			s := &session{key: []byte("key"), nonceTPM: make([]byte, 32), nonceCaller: make([]byte, 32)}
			for _, auths := range [][]authorization{nil, {{}}, {{}, {session: s, encrypt: true}}, {{session: s, encrypt: true, value: []byte("value")}}} {
				cmd := command{code: tpm2.TPMCCUnseal, auths: auths, loads: loads}
				r, err := cmd.parse(bytes.Clone(raw))
				if err != nil {
					continue
				}
				if len(auths) > 0 && auths[len(auths)-1].session != nil {
					t.Fatal("an answer was taken for authentic")
				}
				selections := *r
				readSelections(&selections.reader)
				plain := response{reader: reader{b: bytes.Clone(r.b)}}
				plain.secret()
				if p, err := ParsePublic(r.b); err == nil {
					p.Key()
					p.Describe()
					p.Scheme()
				}
			}
		}
	})
}
