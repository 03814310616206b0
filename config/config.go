// Package config reads tpm2-p11.conf into one typed value, strictly: an
// unknown key, a wrong type or an impossible value is an error with file and line.
//
// It opens the configuration's file and nothing else: what the file names is
// for others to open.
package config

import "github.com/tpm2-p11/tpm2-p11/policy"

// Config is a whole configuration. Defaults are already in it.
type Config struct {
	Path   string   // the file it came from, "" for defaults alone
	Log    string   // "syslog" (default), "stderr", "file:/path", "off"
	Debug  bool     // log_level = "debug"; "warning" is the default
	Verify string   // "rsa" (default), "all", "none": which signatures are verified before they are returned
	Helper string   // absolute path of the command that serves forked children, "" for the one installed with the module
	Forked string   // "use" (default), "all": what forked children may do with keys
	Socket string   // absolute path of a running server's socket, "" to use the TPM in the process itself
	Limits Limits   // of what clients of a server's socket can take
	Legacy []string // of LegacyUses: what keys do only because the configuration says so
	Access []Access // who may use what through a server's socket; nobody but root and the server's user where it is empty
	KMS    KMS      // how secrets are asked of AWS KMS
	Tokens []Token  // at least one
}

// Access lets users use keys through a server's socket, for some purposes.
type Access struct {
	Users    []string // names or numbers; not both these and Groups are empty
	Groups   []string
	Token    string   // its label, "" for all
	Keys     []string // their labels, none for all
	Purposes []string // "sign", "decrypt", "unwrap", "manage"; at least one
	Line     int      // where it is declared
}

// MaxTokenLabel is the most bytes of a token's label: Cryptoki's (CK_TOKEN_INFO).
const MaxTokenLabel = 32

// Token is one store on one TPM: one token, one slot.
type Token struct {
	Label               string        // what `key ensure` names a store that it makes; "" if none is given without [[token]]
	TPM                 string        // address as provider/transport.Parse reads it, "" for the first device
	TPMLine             int           // where the address is, 0 for the default
	Store               string        // absolute path
	OwnerAuthFile       string        // absolute path, "" for an empty owner auth
	EndorsementAuthFile string        // the same of the endorsement hierarchy
	Policy              policy.Policy // of keys and sealed data that are made without another; zero for none
	Approved            []string      // absolute paths of files and folders with approved policies, beside the store's own
	Keys                []Key         // declared keys
	Line                int           // where it is declared, 0 without [[token]]
}

// Key is a declared key ([[key]]).
type Key struct {
	Label       string
	Handle      uint32        // persistent handle, required
	Type        string        // one of KeyTypes; "rsa2048" by default
	Use         string        // "sign" (default), "decrypt", "sign,decrypt"; for elliptic curves "derive", "sign,derive"
	Policy      policy.Policy // zero for none; may hold current values to resolve
	Certificate string        // absolute path of a PEM chain, "" for none
	Line        int           // where it is declared
}

// What keys can be let do for old applications' sake (`legacy`).
const (
	RawRSA          = "raw-rsa"          // the RSA operation without padding: CKM_RSA_X_509
	SHA1Signatures  = "sha1-signatures"  // signatures of messages that are hashed with SHA-1
	PKCS1Decryption = "pkcs1-decryption" // RSAES-PKCS1-v1_5
)

// LegacyUses are the words of `legacy`.
func LegacyUses() []string { return []string{RawRSA, SHA1Signatures, PKCS1Decryption} }

// KeyTypes are the types that a key can be declared with: provider's, which is above this package.
func KeyTypes() []string { return []string{"rsa2048", "rsa3072", "rsa4096", "p256", "p384", "p521"} }

// The persistent handles that a declared key can have: those of the owner
// hierarchy (TPM 2.0 Part 2, "PERSISTENT_FIRST" to below "PLATFORM_PERSISTENT").
const (
	FirstHandle = 0x81000000
	LastHandle  = 0x817fffff
)
