package p11

import (
	"bytes"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
)

// A key and ciphertexts with what they decrypt to, from the tests of draft-irtf-cfrg-rsa-guidance, which OpenSSL has too: there the
// secret of the implicit rejection is the hash of the private exponent.
const guidanceKey = `-----BEGIN RSA PRIVATE KEY-----
MIIEowIBAAKCAQEAyMyDlxQJjaVsqiNkD5PciZfBY3KWj8Gwxt9RE8HJTosh5IrS
KX5lQZARtObY9ec7G3iyV0ADIdHva2AtTsjOjRQclJBetK0wZjmkkgZTS25/JgdC
Ppff/RM8iNchOZ3vvH6WzNy9fzquH+iScSv7SSmBfVEWZkQKH6y3ogj16hZZEK3Y
o/LUlyAjYMy2MgJPDQcWnBkY8xb3lLFDrvVOyHUipMApePlomYC/+/ZJwwfoGBm/
+IQJY41IvZS+FStZ/2SfoL1inQ/6GBPDq/S1a9PC6lRl3/oUWJKSqdiiStJr5+4F
EHQbY4LUPIPVv6QKRmE9BivkRVF9vK8MtOGnaQIDAQABAoIBABRVAQ4PLVh2Y6Zm
pv8czbvw7dgQBkbQKgI5IpCJksStOeVWWSlybvZQjDpxFY7wtv91HTnQdYC7LS8G
MhBELQYD/1DbvXs1/iybsZpHoa+FpMJJAeAsqLWLeRmyDt8yqs+/Ua20vEthubfp
aMqk1XD3DvGNgGMiiJPkfUOe/KeTJZvPLNEIo9hojN8HjnrHmZafIznSwfUiuWlo
RimpM7quwmgWJeq4T05W9ER+nYj7mhmc9xAj4OJXsURBszyE07xnyoAx0mEmGBA6
egpAhEJi912IkM1hblH5A1SI/W4Jnej/bWWk/xGCVIB8n1jS+7qLoVHcjGi+NJyX
eiBOBMECgYEA+PWta6gokxvqRZuKP23AQdI0gkCcJXHpY/MfdIYColY3GziD7UWe
z5cFJkWe3RbgVSL1pF2UdRsuwtrycsf4gWpSwA0YCAFxY02omdeXMiL1G5N2MFSG
lqn32MJKWUl8HvzUVc+5fuhtK200lyszL9owPwSZm062tcwLsz53Yd0CgYEAznou
O0mpC5YzChLcaCvfvfuujdbcA7YUeu+9V1dD8PbaTYYjUGG3Gv2crS00Al5WrIaw
93Q+s14ay8ojeJVCRGW3Bu0iF15XGMjHC2cD6o9rUQ+UW+SOWja7PDyRcytYnfwF
1y2AkDGURSvaITSGR+xylD8RqEbmL66+jrU2sP0CgYB2/hXxiuI5zfHfa0RcpLxr
uWjXiMIZM6T13NKAAz1nEgYswIpt8gTB+9C+RjB0Q+bdSmRWN1Qp1OA4yiVvrxyb
3pHGsXt2+BmV+RxIy768e/DjSUwINZ5OjNalh9e5bWIh/X4PtcVXXwgu5XdpeYBx
sru0oyI4FRtHMUu2VHkDEQKBgQCZiEiwVUmaEAnLx9KUs2sf/fICDm5zZAU+lN4a
AA3JNAWH9+JydvaM32CNdTtjN3sDtvQITSwCfEs4lgpiM7qe2XOLdvEOp1vkVgeL
9wH2fMaz8/3BhuZDNsdrNy6AkQ7ICwrcwj0C+5rhBIaigkgHW06n5W3fzziC5FFW
FHGikQKBgGQ790ZCn32DZnoGUwITR++/wF5jUfghqd67YODszeUAWtnp7DHlWPfp
LCkyjnRWnXzvfHTKvCs1XtQBoaCRS048uwZITlgZYFEWntFMqi76bqBE4FTSYUTM
FinFUBBVigThM/RLfCRNrCW/kTxXuJDuSfVIJZzWNAT+9oWdz5da
-----END RSA PRIVATE KEY-----
`

var guidanceVectors = map[string]struct{ ciphertext, message string }{
	"a message": {"8bfe264e85d3bdeaa6b8851b8e3b956ee3d226fd3f69063a86880173a273d9f283b2eebdd1ed35f7e02d91c571981b6737d5320bd8396b0f3ad5b019daec1b0aab3cbbc026395f4fd14f13673f2dfc81f9b660ec26ac381e6db3299b4e460b43fab9955df2b3cfaa20e900e19c856238fd371899c2bf2ce8c868b76754e5db3b036533fd603746be13c10d4e3e6022ebc905d20c2a7f32b215a4cd53b3f44ca1c327d2c2b651145821c08396c89071f665349c25e44d2733cd9305985ceef6430c3cf57af5fa224089221218fa34737c79c446d28a94c41c96e4e92ac53fbcf384dea8419ea089f8784445a492c812eb0d409467f75afd7d4d1078886205a066",
		hex.EncodeToString([]byte("lorem ipsum dolor sit amet"))},
	"none, and an empty one is invented": {"20aaa8adbbc593a924ba1c5c7990b5c2242ae4b99d0fe636a19a4cf754edbcee774e472fe028160ed42634f8864900cb514006da642cae6ae8c7d087caebcfa6dad1551301e130344989a1d462d4164505f6393933450c67bc6d39d8f5160907cabc251b737925a1cf21e5c6aa5781b7769f6a2a583d97cce008c0f8b6add5f0b2bd80bee60237aa39bb20719fe75749f4bc4e42466ef5a861ae3a92395c7d858d430bfe38040f445ea93fa2958b503539800ffa5ce5f8cf51fa8171a91f36cb4f4575e8de6b4d3f096ee140b938fd2f50ee13f0d050222e2a72b0a3069ff3a6738e82c87090caa5aed4fcbe882c49646aa250b98f12f83c8d528113614a29e7",
		""},
	"none, and the longest is invented": {"48cceab10f39a4db32f60074feea473cbcdb7accf92e150417f76b44756b190e843e79ec12aa85083a21f5437e7bad0a60482e601198f9d86923239c8786ee728285afd0937f7dde12717f28389843d7375912b07b991f4fdb0190fced8ba665314367e8c5f9d2981d0f5128feeb46cb50fc237e64438a86df198dd0209364ae3a842d77532b66b7ef263b83b1541ed671b120dfd660462e2107a4ee7b964e734a7bd68d90dda61770658a3c242948532da32648687e0318286473f675b412d6468f013f14d760a358dfcad3cda2afeec5e268a37d250c37f722f468a70dfd92d7294c3c1ee1e7f8843b7d16f9f37ef35748c3ae93aa155cdcdfeb4e78567303",
		"22d850137b9eebe092b24f602dc5bb7918c16bd89ddbf20467b119d205f9c2e4bd7d2592cf1e532106e0f33557565923c73a02d4f09c0c22bea89148183e60317f7028b3aa1f261f91c979393101d7e15f4067e63979b32751658ef769610fe97cf9cef3278b3117d384051c3b1d82c251c2305418c8f6840530e631aad63e70e20e025bcd8efb54c92ec6d3b106a2f8e64eeff7d38495b0fc50c97138af4b1c0a67a1c4e27b077b8439332edfa8608dfeae653cd6a628ac550395f7e74390e42c11682234870925eeaa1fa71b76cf1f2ee3bda69f6717033ff8b7c95c9799e7a3bea5e7e4a1c359772fb6b1c6e6c516661dfe30c3"},
	"none, and the second length from the end is possible": {"1439e08c3f84c1a7fec74ce07614b20e01f6fa4e8c2a6cffdc3520d8889e5d9a950c6425798f85d4be38d300ea5695f13ecd4cb389d1ff5b82484b494d6280ab7fa78e645933981cb934cce8bfcd114cc0e6811eefa47aae20af638a1cd163d2d3366186d0a07df0c81f6c9f3171cf3561472e98a6006bf75ddb457bed036dcce199369de7d94ef2c68e8467ee0604eea2b3009479162a7891ba5c40cab17f49e1c438cb6eaea4f76ce23cce0e483ff0e96fa790ea15be67671814342d0a23f4a20262b6182e72f3a67cd289711503c85516a9ed225422f98b116f1ab080a80abd6f0216df88d8cfd67c139243be8dd78502a7aaf6bc99d7da71bcdf627e7354",
		"0f9b"},
	"none, and the third length from the end is possible": {"1690ebcceece2ce024f382e467cf8510e74514120937978576caf684d4a02ad569e8d76cbe365a060e00779de2f0865ccf0d923de3b4783a4e2c74f422e2f326086c390b658ba47f31ab013aa80f468c71256e5fa5679b24e83cd82c3d1e05e398208155de2212993cd2b8bab6987cf4cc1293f19909219439d74127545e9ed8a706961b8ee2119f6bfacafbef91b75a789ba65b8b833bc6149cf49b5c4d2c6359f62808659ba6541e1cd24bf7f7410486b5103f6c0ea29334ea6f4975b17387474fe920710ea61568d7b7c0a7916acf21665ad5a31c4eabcde44f8fb6120d8457afa1f3c85d517cda364af620113ae5a3c52a048821731922737307f77a1081",
		"4f02"},
}

func TestBadPaddingGivesTheGuidancesMessages(t *testing.T) {
	t.Parallel()
	block, _ := pem.Decode([]byte(guidanceKey))
	key, err := x509.ParsePKCS1PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	secret := sha256.Sum256(key.D.FillBytes(make([]byte, key.Size())))
	for name, v := range guidanceVectors {
		ciphertext, err := hex.DecodeString(v.ciphertext)
		if err != nil {
			t.Fatal(err)
		}
		decrypted := new(big.Int).Exp(new(big.Int).SetBytes(ciphertext), key.D, key.N).FillBytes(make([]byte, key.Size()))
		if got := hex.EncodeToString(decodePKCS1(secret[:], ciphertext, decrypted)); got != v.message {
			t.Errorf("%s: %s, want %s", name, got, v.message)
		}
	}
}

// Each way in which a block can be wrong gives what the ciphertext alone decides, and each that is right its message.
func TestBlocksAndTheirMessages(t *testing.T) {
	t.Parallel()
	const k = 256
	// Not random ones: of those one in some thousand has an empty message, and two of them the same.
	secret, ciphertext := bytes.Repeat([]byte{0x5e}, 32), bytes.Repeat([]byte{0xc1}, k)
	padded := func(kind string, padding int, message string) []byte {
		return []byte(kind + strings.Repeat("\xaa", padding) + "\x00" + message)
	}
	invented := decodePKCS1(secret, ciphertext, make([]byte, k))
	for name, c := range map[string]struct {
		block   []byte
		message string // "" for the invented one
	}{
		"right":                     {padded("\x00\x02", k-3-5, "hello"), "hello"},
		"right, longest":            {padded("\x00\x02", 8, strings.Repeat("x", k-11)), strings.Repeat("x", k-11)},
		"right, with zeros in it":   {padded("\x00\x02", k-3-3, "a\x00b"), "a\x00b"},
		"padding of seven bytes":    {padded("\x00\x02", 7, strings.Repeat("x", k-10)), ""},
		"no padding":                {padded("\x00\x02", 0, strings.Repeat("x", k-3)), ""},
		"no separator":              {bytes.Repeat([]byte{0xaa}, k), ""},
		"no separator after 00 02":  {append([]byte{0, 2}, bytes.Repeat([]byte{0xaa}, k-2)...), ""},
		"first byte":                {padded("\x01\x02", k-3-5, "hello"), ""},
		"second byte of signatures": {padded("\x00\x01", k-3-5, "hello"), ""},
	} {
		if len(c.block) != k {
			t.Fatalf("%s: %d bytes", name, len(c.block))
		}
		want := []byte(c.message)
		if c.message == "" {
			want = invented
		}
		if got := decodePKCS1(secret, ciphertext, c.block); !bytes.Equal(got, want) {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if empty := decodePKCS1(secret, ciphertext, padded("\x00\x02", k-3, "")); len(empty) != 0 {
		t.Errorf("an empty message is %q", empty)
	}

	other := bytes.Clone(ciphertext)
	other[9] ^= 1
	if bytes.Equal(decodePKCS1(secret, other, make([]byte, k)), invented) {
		t.Error("two ciphertexts have one message")
	}
	secret[9] ^= 1
	if bytes.Equal(decodePKCS1(secret, ciphertext, make([]byte, k)), invented) {
		t.Error("two keys have one message")
	}
}

// The block that a key's secret comes from is in range for every size of key.
func TestTheRejectionBlockIsInRange(t *testing.T) {
	t.Parallel()
	for _, bits := range []uint{2048, 3072, 4096} {
		key := &rsa.PublicKey{N: new(big.Int).SetBit(new(big.Int), int(bits)-1, 1), E: 65537}
		if block := rejectionBlock(key); len(block) != key.Size() || new(big.Int).SetBytes(block).Cmp(key.N) >= 0 {
			t.Errorf("%d bits: % x…", bits, block[:8])
		}
	}
}
