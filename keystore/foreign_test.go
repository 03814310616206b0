package keystore

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/tpm2-p11/tpm2-p11/keystore/tss2"
	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// tools are tpm2-tools on a test's TPM, in a folder of their own.
type tools struct {
	dir string
	run func(name string, args ...string)
}

func (s *store) tools(t *testing.T, token *Token) tools {
	t.Helper()
	f := tools{dir: t.TempDir()}
	f.run = func(name string, args ...string) {
		t.Helper()
		token.TPM().Release()
		cmd := exec.Command(name, args...)
		cmd.Dir = f.dir
		cmd.Env = append(os.Environ(), "TPM2TOOLS_TCTI="+s.address)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s %v: %v\n%s", name, args, err, out)
		}
	}
	return f
}

// policy makes a file "policy" with the digest of a PCR policy.
func (f tools) policy(t *testing.T, pcrs string) {
	t.Helper()
	f.run("tpm2_startauthsession", "-Q", "-S", "session.ctx")
	f.run("tpm2_policypcr", "-Q", "-S", "session.ctx", "-l", pcrs, "-L", "policy")
	f.run("tpm2_flushcontext", "session.ctx")
}

// object is what tpm2_create wrote as k.pub and k.priv.
func (f tools) object(t *testing.T) provider.Object {
	t.Helper()
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(f.dir, name))
		must(t, err)
		return b
	}
	public, err := tss2.DecodePublic(read("k.pub"))
	must(t, err)
	private, err := tss2.DecodePrivate(read("k.priv"))
	must(t, err)
	return provider.Object{Public: public, Private: private, Parent: 0x81000001}
}

func TestAKeyThatToolsPersistedIsLinked(t *testing.T) {
	t.Parallel()
	s := tpmStore(t)
	token := s.initialized(t, "", "")
	f := s.tools(t, token)
	f.run("tpm2_create", "-Q", "-C", "0x81000001", "-G", "ecc", "-u", "k.pub", "-r", "k.priv", "-a",
		"fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign")
	f.run("tpm2_load", "-Q", "-C", "0x81000001", "-u", "k.pub", "-r", "k.priv", "-c", "k.ctx")
	f.run("tpm2_evictcontrol", "-Q", "-c", "k.ctx", "0x81000005")
	f.run("tpm2_flushcontext", "-t")
	e, err := token.Link(ctx, 0x81000005, KeySpec{Label: "old"})
	must(t, err)
	if !e.Linked() || e.Object.Handle != 0x81000005 || !e.EmptyAuth {
		t.Errorf("%+v", e)
	}
	signs(t, token, e, nil)
	if _, err := token.Link(ctx, 0x81000005, KeySpec{Label: "again"}); !errors.Is(err, ErrExists) {
		t.Errorf("linked twice: %v", err)
	}
	if _, err := token.Evict(ctx, e); !errors.Is(err, ErrInvalid) {
		t.Errorf("evicting what would be lost: %v", err)
	}
	must(t, token.Delete(ctx, e, false))
	if public, err := token.TPM().ReadPublic(ctx, 0x81000005); err != nil {
		t.Errorf("unlinking took it away: %v, %v", public, err)
	}
	e, err = token.Link(ctx, 0x81000005, KeySpec{Label: "old"})
	must(t, err)
	must(t, token.Delete(ctx, e, true))
	if _, err := token.TPM().ReadPublic(ctx, 0x81000005); !errors.Is(err, provider.ErrNoObject) {
		t.Errorf("it is still there: %v", err)
	}
	for name, c := range map[string]struct {
		handle provider.Handle
		want   error
	}{
		"nothing":            {0x81000005, provider.ErrNoObject},
		"a storage key":      {0x81000001, ErrInvalid},
		"no handle":          {0, ErrInvalid},
		"a transient handle": {0x80000000, ErrInvalid},
	} {
		if _, err := token.Link(ctx, c.handle, KeySpec{Label: "old"}); !errors.Is(err, c.want) {
			t.Errorf("linking %s: %v", name, err)
		}
	}
}

func TestWrappedObjectsOfToolsAreAdded(t *testing.T) {
	t.Parallel()
	s := tpmStore(t)
	token := s.initialized(t, "", "")
	f := s.tools(t, token)
	f.policy(t, "sha256:8")
	bound := policy.Policy{Root: policy.PCR{Bank: 0x000B, Values: map[uint][]byte{8: make([]byte, 32)}}}
	const attributes = "fixedtpm|fixedparent|sensitivedataorigin|sign"
	createWith := func(args ...string) provider.Object {
		f.run("tpm2_create", append([]string{"-Q", "-C", "0x81000001", "-G", "ecc", "-u", "k.pub", "-r", "k.priv"}, args...)...)
		return f.object(t)
	}

	plain := createWith("-a", attributes+"|userwithauth")
	e, err := token.AddObject(ctx, plain, true, KeySpec{Label: "plain"})
	must(t, err)
	if e.Object.Handle != FirstHandle || e.Object.Parent != 0x81000001 {
		t.Errorf("%+v", e)
	}
	signs(t, token, e, nil)
	if _, err := token.AddObject(ctx, plain, true, KeySpec{Label: "again"}); !errors.Is(err, ErrExists) {
		t.Errorf("added twice: %v", err)
	}

	withPIN := createWith("-a", attributes+"|userwithauth", "-p", "secret")
	e, err = token.AddObject(ctx, withPIN, false, KeySpec{Label: "with a password", Wrapped: true})
	must(t, err)
	if !e.OwnPIN {
		t.Errorf("%+v", e)
	}
	signs(t, token, e, pin("secret"))

	guarded := createWith("-a", attributes, "-L", "policy")
	if _, err := token.AddObject(ctx, guarded, true, KeySpec{Label: "guarded"}); !errors.Is(err, ErrPolicyUnknown) {
		t.Errorf("without its policy: %v", err)
	}
	if _, err := token.AddObject(ctx, guarded, true, KeySpec{Label: "guarded", Policy: current(17)}); !errors.Is(err, ErrInvalid) {
		t.Errorf("with another policy: %v", err)
	}
	e, err = token.AddObject(ctx, guarded, true, KeySpec{Label: "guarded", Policy: bound, Wrapped: true})
	must(t, err)
	signs(t, token, e, nil)

	decorated := createWith("-a", attributes+"|userwithauth", "-L", "policy")
	if _, err := token.AddObject(ctx, decorated, true, KeySpec{Label: "decorated", Policy: bound}); !errors.Is(err, ErrPolicyIgnored) {
		t.Errorf("with a policy that is decoration: %v", err)
	}
	e, err = token.AddObject(ctx, decorated, true, KeySpec{Label: "decorated", Policy: bound, Force: true, Wrapped: true})
	must(t, err)
	if !e.PolicyIgnored() {
		t.Errorf("it is not said that its policy is decoration: %+v", e)
	}
	signs(t, token, e, nil)

	damaged := createWith("-a", attributes+"|userwithauth")
	damaged.Private[len(damaged.Private)-1] ^= 1
	if _, err := token.AddObject(ctx, damaged, true, KeySpec{Label: "damaged"}); !errors.Is(err, provider.ErrWrongTPM) {
		t.Errorf("a damaged object: %v", err)
	}
}

func TestPrivateKeysAreImported(t *testing.T) {
	t.Parallel()
	token := tpmStore(t).initialized(t, "user pin", "so pin")
	must(t, token.Login(ctx, User, pin("user pin")))
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	for label, key := range map[string]crypto.Signer{"rsa": rsaKey, "ec": ecKey} {
		spec := KeySpec{Label: label, Use: provider.Use{Sign: true}, Policy: current(8)}
		e, err := token.ImportKey(ctx, key, spec)
		must(t, err)
		public, err := e.Object.Public.Key()
		must(t, err)
		if !key.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(public) {
			t.Errorf("%s: another key was imported", label)
		}
		if a := e.Object.Public.Attributes(); a.FixedTPM || a.FixedParent || a.SensitiveDataOrigin || a.UserWithAuth {
			t.Errorf("%s: attributes %+v", label, a)
		}
		signs(t, token, e, nil)
	}
	if _, err := token.ImportKey(ctx, "what is this", KeySpec{Label: "x", Use: provider.Use{Sign: true}}); err == nil {
		t.Error("something that is no key was imported")
	}
	if n := len(labels(t, token)); n != 2 {
		t.Errorf("%d keys", n)
	}
}
