package main

import "fmt"

// operation is one private operation.
type operation struct {
	name      string
	keyType   string // of `key create`
	use       string
	mechanism string // of the C host
	command   uint32 // TPM command code that does it
}

// TPM_CC_Sign and TPM_CC_RSA_Decrypt (TPM 2.0 Part 2, section 6.5.2).
const (
	commandSign       = 0x15D
	commandRSADecrypt = 0x159
)

var operationsByName = map[string]operation{
	"pkcs1": {"pkcs1", "rsa2048", "sign", "pkcs1", commandSign},
	"pss":   {"pss", "rsa2048", "sign", "pss", commandSign},
	"ecdsa": {"ecdsa", "p256", "sign", "ecdsa", commandSign},
	"oaep":  {"oaep", "rsa2048", "decrypt", "oaep", commandRSADecrypt},
}

// kind is how a key is guarded.
type kind struct {
	name   string
	pin    bool // in the token with a PIN
	create []string
}

const (
	selection = "sha256:0,1,2,7"
	// A key with signed policies has this one, and of the images that may use it one is approved.
	signedFile   = "signed.toml"
	signedPolicy = "authorize = { signer = \"file:ci.pub\", ref = \"bench\" }\n"
	imageFile    = "image.toml"
	imagePolicy  = "pcr = { bank = \"sha256\", indices = [0, 1, 2, 7] }\n"
)

var kindsByName = map[string]kind{
	"plain":   {name: "plain"},
	"pin":     {name: "pin", pin: true},
	"pcr":     {name: "pcr", create: []string{"--pcr", selection, "--force"}},
	"pcr+pin": {name: "pcr+pin", pin: true, create: []string{"--pcr", selection, "--force"}},
	"signed":  {name: "signed", create: []string{"--policy", signedFile}},
}

// column is what is measured: an operation with a kind of key.
type column struct {
	operation
	kind kind
}

func (c column) String() string { return c.name + " " + c.kind.name }

// label is the key's: operations that can share a key do.
func (c column) label() string { return fmt.Sprintf("%s-%s-%s", c.keyType, c.use, c.kind.name) }

// public is the file of the key's public half, "" for keys whose signatures are not verified.
func (c column) public() string {
	if c.keyType != "rsa2048" || c.use != "sign" {
		return ""
	}
	return c.label() + ".pub"
}
