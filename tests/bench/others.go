package main

import (
	"context"
	"encoding/pem"
	"os"
	"path/filepath"
	"strconv"
)

// What others have made, where it is installed: Debian's libtpm2-pkcs11-1 with libtpm2-pkcs11-tools, and tpm2-openssl.
var otherRows = []row{
	{name: "tpm2-pkcs11", offers: func(r *rig, b batchOf) bool { return r.theirs[b.label()] != "" }, command: func(r *rig, b batchOf) ([]string, string, []string) {
		args := []string{theirModule(), "1", b.label(), b.name, r.theirs[b.label()], strconv.Itoa(b.ops), strconv.Itoa(b.threads), r.path("pin.txt")}
		return r.theirEnv(b.counted), r.path("host"), args
	}},
	{name: "tpm2-openssl", offers: func(r *rig, b batchOf) bool {
		return r.hasProvider && b.kind.name == "plain" && b.threads == 1 && b.use == "sign"
	}, command: func(r *rig, b batchOf) ([]string, string, []string) {
		return r.theirEnv(b.counted), r.path("provider"), []string{r.files[b.label()], b.name, strconv.Itoa(b.ops)}
	}},
}

// first is the first file that a pattern matches.
func first(pattern string) string {
	found, err := filepath.Glob(pattern)
	if err != nil || len(found) == 0 {
		return ""
	}
	return found[0]
}

func theirModule() string { return first("/usr/lib/*/libtpm2_pkcs11.so.1") }

func (r *rig) theirEnv(counted bool) []string {
	address := "swtpm:path=" + r.socket
	if counted {
		address = r.proxy.Address()
	}
	return []string{"TPM2OPENSSL_TCTI=" + address, "TPM2_PKCS11_TCTI=" + address, "TPM2TOOLS_TCTI=" + address, "TPM2_PKCS11_STORE=" + r.path("theirs")}
}

// others prepares the rows of others. tpm2_ptool leaves objects loaded, which takes a TPM that cleans up behind its clients: nitro-sim.
func (r *rig) others(ctx context.Context) error {
	if first("/usr/lib/*/ossl-modules/tpm2.so") != "" {
		if _, err := r.output(ctx, nil, "cc", "-O2", "-o", r.path("provider"), filepath.Join(r.build, "../tests/bench/testdata/provider.c"), "-lcrypto"); err != nil {
			return err
		}
		r.hasProvider = true
	}
	if theirModule() == "" || first("/usr/bin/tpm2_ptool") == "" || r.emulator != "nitro-sim" {
		return nil
	}
	if err := os.Mkdir(r.path("theirs"), 0o700); err != nil {
		return err
	}
	tool := func(args ...string) error {
		_, err := r.output(ctx, r.theirEnv(false), "tpm2_ptool", append(args, "--path", r.path("theirs"))...)
		return err
	}
	if err := tool("init"); err != nil {
		return err
	}
	if err := tool("addtoken", "--pid=1", "--sopin=12345678", "--userpin=12345678", "--label=theirs"); err != nil {
		return err
	}
	for _, c := range r.columns {
		if c.kind.name != "plain" || r.theirs[c.label()] != "" {
			continue
		}
		algorithm := map[string]string{"rsa2048": "rsa2048", "p256": "ecc256"}[c.keyType]
		if err := tool("addkey", "--algorithm="+algorithm, "--label=theirs", "--key-label="+c.label(), "--userpin=12345678"); err != nil {
			return err
		}
		r.theirs[c.label()] = r.path("theirs-" + c.label())
		if c.use != "decrypt" {
			continue
		}
		der := r.path("theirs.der")
		if _, err := r.output(ctx, r.theirEnv(false), "pkcs11-tool", "--module", theirModule(), "--token-label", "theirs", "--login", "--pin", "12345678",
			"--read-object", "--type", "pubkey", "--label", c.label(), "--output-file", der); err != nil {
			return err
		}
		public, err := os.ReadFile(der)
		if err != nil {
			return err
		}
		ciphertext, err := encrypt(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}))
		if err != nil {
			return err
		}
		if err := os.WriteFile(r.theirs[c.label()], ciphertext, 0o600); err != nil {
			return err
		}
	}
	return nil
}
