package main

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

// Scripts lean on these names: adding one is fine, changing or removing one is not.
func TestJSONNamesAreStable(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.tpm.Extend(t, "sha256", 7, []byte("boot"))
	m.configure("[[key]]\nlabel = \"declared\"\nhandle = 0x81000200\ntype = \"p256\"\n")
	m.write("in", "what is signed")
	m.releases()
	m.bootLog()
	m.write("pin.toml", "pin = true")
	m.buildKey("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
	const key = "certificate certificate_until cka_id created file handle label name pin policy policy_enforced state type uri use"
	for _, c := range []struct{ args, path, names string }{
		{"init --no-pin", "token", "label pin serial store tpm"},
		{"key create web --type p256 --pcr sha256:7", "key", strings.TrimPrefix(key, "certificate certificate_until ")},
		{"key self-sign web --subject CN=a", "", "certificate"},
		{"key csr web --subject CN=a", "", "csr"},
		{"key csr web --subject CN=a -o @csr", "", "csr file"},
		{"key list", "keys", key},
		{"key show web", "", "attributes auth_policy certificates key"},
		{"key show web", "key", key},
		{"key show web", "key.policy.pcr", "7 bank"},
		{"key public web", "", "format public_key"},
		{"key export web", "", "pem"},
		{"key export web --format tpm2-tools -o @x", "", "files"},
		{"key ensure", "keys", "handle label outcome token"},
		{"handles", "", "handles"},
		{"handles", "handles", "handle name owner type"},
		{"pcr read sha256:7", "pcrs.sha256", "7"},
		{"lockout show", "", "auth_set counter interval locked max recovery"},
		{"lockout reset", "", "auth_set counter interval locked max recovery"},
		{"sign web -i @in -o @sig", "", "file format hash scheme signature"},
		{"verify web -i @in --signature @sig", "", "hash scheme valid"},
		{"seal -i @in", "", "pem"},
		{"seal -i @in -o @sealed", "", "file pem"},
		{"unseal @sealed", "", "bytes data"},
		{"unseal @sealed -o @opened", "", "bytes file"},
		{"policy show @pin.toml", "", "hash policy"},
		{"policy digest @pin.toml", "", "digest hash"},
		{"policy digest @pin.toml -o @digest", "", "digest file hash"},
		{"policy check web", "", "allowed enforced label pin"},
		{"policy sign @pin.toml --key @ci.pem", "", "approved version"},
		{"policy sign @pin.toml --key @ci.pem -o @pin.json", "", "file"},
		{"policy approve @pin.json", "", "file keys policies"},
		{"policy approve @pin.toml --nv 0x01800001", "", "digest file name nv_index"},
		{"policy revoke 0x01800001", "", "nv_index"},
		{"policy counter 0x01800010 --advance", "", "name nv_index value"},
		{"policy predict @november.efi", "", "images policy policy_digest policy_hash"},
		{"policy predict @november.efi", "images", "events file name pcrs"},
		{"policy predict @november.efi", "images.events", "digests pcr type what"},
		{"policy events @boot.log", "", "bank pcrs"},
		{"policy events @boot.log", "pcrs", "events pcr value"},
		{"policy events @boot.log", "pcrs.events", "digest number type verified"},
		{"doctor", "", "checks ok"},
		{"doctor", "checks", "check detail status"},
		{"version", "", "go platform version"},
		{"key delete web --yes", "deleted", key},
	} {
		var v any = m.json(strings.Fields(c.args)...)
		for _, step := range strings.FieldsFunc(c.path, func(r rune) bool { return r == '.' }) {
			v = v.(map[string]any)[step]
			if list, ok := v.([]any); ok {
				v = list[0]
			}
		}
		object, ok := v.(map[string]any)
		if !ok {
			t.Errorf("%s: no object at %q", c.args, c.path)
			continue
		}
		delete(object, "revision")
		if got := strings.Join(slices.Sorted(maps.Keys(object)), " "); got != c.names {
			t.Errorf("%s --json: %s holds %s, want %s", c.args, c.path, got, c.names)
		}
	}
}
