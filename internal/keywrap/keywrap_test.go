package keywrap

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/hex"
	"errors"
	"testing"
)

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func blockOf(t *testing.T, key string) cipher.Block {
	t.Helper()
	block, err := aes.NewCipher(unhex(t, key))
	if err != nil {
		t.Fatal(err)
	}
	return block
}

// vectors are those of RFC 3394, sections 4.1 to 4.6, and RFC 5649, section 6.
var vectors = []struct {
	name, kek, key, wrapped string
	padded                  bool
}{
	{"128 bits with 128", "000102030405060708090A0B0C0D0E0F", "00112233445566778899AABBCCDDEEFF",
		"1FA68B0A8112B447AEF34BD8FB5A7B829D3E862371D2CFE5", false},
	{"128 bits with 192", "000102030405060708090A0B0C0D0E0F1011121314151617", "00112233445566778899AABBCCDDEEFF",
		"96778B25AE6CA435F92B5B97C050AED2468AB8A17AD84E5D", false},
	{"128 bits with 256", "000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F", "00112233445566778899AABBCCDDEEFF",
		"64E8C3F9CE0F5BA263E9777905818A2A93C8191E7D6E8AE7", false},
	{"192 bits with 192", "000102030405060708090A0B0C0D0E0F1011121314151617", "00112233445566778899AABBCCDDEEFF0001020304050607",
		"031D33264E15D33268F24EC260743EDCE1C6C7DDEE725A936BA814915C6762D2", false},
	{"192 bits with 256", "000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F", "00112233445566778899AABBCCDDEEFF0001020304050607",
		"A8F9BC1612C68B3FF6E6F4FBE30E71E4769C8B80A32CB8958CD5D17D6B254DA1", false},
	{"256 bits with 256", "000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F", "00112233445566778899AABBCCDDEEFF000102030405060708090A0B0C0D0E0F",
		"28C9F404C4B810F4CBCCB35CFB87F8263F5786E2D80ED326CBC7F0E71A99F43BFB988B9B7A02DD21", false},
	{"20 bytes, padded", "5840DF6E29B02AF1AB493B705BF16EA1AE8338F4DCC176A8", "C37B7E6492584340BED12207808941155068F738",
		"138BDEAA9B8FA7FC61F97742E72248EE5AE6AE5360D1AE6A5F54F373FA543B6A", true},
	{"7 bytes, padded", "5840DF6E29B02AF1AB493B705BF16EA1AE8338F4DCC176A8", "466F7250617369",
		"AFBEB0F07DFBF5419200F2CCB50BB24F", true},
}

func TestKnownAnswers(t *testing.T) {
	t.Parallel()
	for _, v := range vectors {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			block, key, wrapped := blockOf(t, v.kek), unhex(t, v.key), unhex(t, v.wrapped)
			wrap, unwrap := Wrap, Unwrap
			if v.padded {
				wrap, unwrap = WrapPadded, UnwrapPadded
			}
			if got, err := wrap(block, key); err != nil || !bytes.Equal(got, wrapped) {
				t.Errorf("wrapped %x (%v)", got, err)
			}
			if got, err := unwrap(block, wrapped); err != nil || !bytes.Equal(got, key) {
				t.Errorf("unwrapped %x (%v)", got, err)
			}
			for i := range wrapped {
				bent := bytes.Clone(wrapped)
				bent[i] ^= 1
				if _, err := unwrap(block, bent); !errors.Is(err, ErrOpen) {
					t.Errorf("a bit of byte %d is flipped: %v", i, err)
				}
			}
		})
	}
}

func TestEveryLengthComesBack(t *testing.T) {
	t.Parallel()
	block := blockOf(t, "000102030405060708090A0B0C0D0E0F")
	for n := 1; n <= 100; n++ {
		key := bytes.Repeat([]byte{byte(n)}, n)
		wrapped, err := WrapPadded(block, key)
		if err != nil || len(wrapped) != PaddedLength(n) {
			t.Fatalf("%d bytes: %d wrapped, %v", n, len(wrapped), err)
		}
		if got, err := UnwrapPadded(block, wrapped); err != nil || !bytes.Equal(got, key) {
			t.Errorf("%d bytes: %x, %v", n, got, err)
		}
	}
}

// A padding that is whole and yet not what WrapPadded writes.
func TestPaddingIsChecked(t *testing.T) {
	t.Parallel()
	block := blockOf(t, "000102030405060708090A0B0C0D0E0F")
	for name, plain := range map[string]string{
		"a length of nothing":           "A65959A6000000000000000000000000" + "0000000000000000",
		"a length beyond the end":       "A65959A600000011" + "00112233445566778899AABBCCDDEEFF",
		"a whole semiblock of padding":  "A65959A600000008" + "00112233445566770000000000000000",
		"an enormous length":            "A65959A6FFFFFFFF" + "00112233445566778899AABBCCDDEEFF",
		"something besides zeros in it": "A65959A60000000C" + "00112233445566778899AABB00000001",
		"another check value":           "A65959A70000000C" + "00112233445566778899AABB00000000",
	} {
		s := unhex(t, plain)
		wrap(block, s)
		if got, err := UnwrapPadded(block, s); !errors.Is(err, ErrOpen) {
			t.Errorf("%s: %x, %v", name, got, err)
		}
	}
}

func TestLengthsThatCannotBe(t *testing.T) {
	t.Parallel()
	block := blockOf(t, "000102030405060708090A0B0C0D0E0F")
	for _, n := range []int{0, 1, 8, 15, 17, 20, MaxKey + 8} {
		if _, err := Wrap(block, make([]byte, n)); !errors.Is(err, ErrLength) {
			t.Errorf("Wrap takes %d bytes (%v)", n, err)
		}
	}
	for _, n := range []int{0, 16, 23, 25, MaxKey + 16} {
		if _, err := Unwrap(block, make([]byte, n)); !errors.Is(err, ErrLength) {
			t.Errorf("Unwrap takes %d bytes (%v)", n, err)
		}
	}
	for _, n := range []int{0, MaxKey + 1} {
		if _, err := WrapPadded(block, make([]byte, n)); !errors.Is(err, ErrLength) {
			t.Errorf("WrapPadded takes %d bytes (%v)", n, err)
		}
	}
	for _, n := range []int{0, 8, 17, MaxKey + 16} {
		if _, err := UnwrapPadded(block, make([]byte, n)); !errors.Is(err, ErrLength) {
			t.Errorf("UnwrapPadded takes %d bytes (%v)", n, err)
		}
	}
}
