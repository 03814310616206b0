// Package structure checks which package imports which: the layers that
// docs/ARCHITECTURE.md draws.
package structure

// module is the module's path with a slash after it.
const module = "github.com/tpm2-p11/tpm2-p11/"

// layers are the packages of this module from the bottom up. A package imports
// those of lower lines only; "x/..." is x and all below it, which may import
// each other. A package in no line is an error: whoever adds one says where it belongs.
var layers = [][]string{
	{"internal/keywrap", "internal/privatekey", "internal/secret", "internal/stamp", "internal/version", "internal/wildcard", "internal/wire", "internal/place"},
	{"internal/boundary/...", "internal/trusted", "internal/nitrosim/nsm", "internal/nitrosim/cms", "policy", "policy/predict/...", "policy/eventlog"},
	{"policy/policyfile"},
	{"config", "internal/p11uri", "internal/client", "provider/transport"},
	{"provider"},
	{"keystore/tss2", "internal/keyuse", "attest", "kms/cms"},
	{"internal/nitrosim/keyservice"},
	{"keystore", "kms"},
	{"internal/tokens", "internal/attested"},
	{"signer"},
	{"p11"},
	{"internal/serve", "internal/p11kit"},
	{"cgo"},
	{"internal/nitrosim/..."},
	{"cmd/tpm2-p11", "cmd/nitro-sim", "examples/..."},
}

// testOnly are packages that only test files import.
var testOnly = []string{"internal/tpmtest", "internal/imagetest", "internal/fuzztest", "internal/nitrosim/simtest", "internal/faulttpm/...", "internal/wiretap", "internal/freeport", "internal/promises/...", "tests/..."}

// testOnlyModules are dependencies that only test files import.
var testOnlyModules = []string{
	"github.com/miekg/pkcs11",
	"github.com/google/go-cmp",
	"github.com/google/go-tpm-tools",
	"testing",
	"net/http/httptest",
}

// apart names what a package must not reach, not even through others.
var apart = map[string][]string{
	"cgo":      {"github.com/spf13/cobra", "github.com/VictoriaMetrics", module + "internal/serve", module + "cmd", module + "internal/nitrosim"},
	"signer":   {"github.com/aws", module + "kms", module + "attest"},
	"keystore": {"github.com/aws"},
	"provider": {"github.com/aws", "github.com/BurntSushi/toml"},
	"policy":   {"os/exec"},

	"cmd/tpm2-p11": {module + "internal/nitrosim"},
}

// unsafeIn is the only folder whose packages import C and unsafe.
const unsafeIn = "cgo"
