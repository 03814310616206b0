package tss2_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/asn1"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/tpm2-p11/tpm2-p11/internal/tpmtest"
	"github.com/tpm2-p11/tpm2-p11/keystore/tss2"
	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/provider"
	"github.com/tpm2-p11/tpm2-p11/provider/transport"
)

// bench is a TPM that our code and other people's tools use in turn, and a folder for their files.
type bench struct {
	swtpm *tpmtest.TPM
	tpm   *provider.TPM
	dir   string
}

func newBench(t *testing.T) *bench {
	t.Helper()
	swtpm := tpmtest.Start(t)
	dialer, err := transport.Parse(swtpm.Address())
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{swtpm: swtpm, tpm: provider.New(dialer), dir: t.TempDir()}
	t.Cleanup(func() { _ = b.tpm.Close() })
	srk, err := b.tpm.ProvisionSRK(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	b.tpm.UseSRK(srk)
	return b
}

// run runs another tool in the folder.
func (b *bench) run(t *testing.T, name string, args ...string) {
	t.Helper()
	b.tpm.Release()
	cmd := exec.Command(name, args...)
	cmd.Dir = b.dir
	cmd.Env = append(os.Environ(), "TPM2TOOLS_TCTI="+b.swtpm.Address(), "TPM2OPENSSL_TCTI="+b.swtpm.Address())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}

func (b *bench) write(t *testing.T, name string, content []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(b.dir, name), content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func (b *bench) read(t *testing.T, name string) []byte {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(b.dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func (b *bench) decode(t *testing.T, name string) tss2.Key {
	t.Helper()
	k, err := tss2.Decode(b.read(t, name))
	if err != nil {
		t.Fatalf("%v\n%s", err, b.read(t, name))
	}
	return k
}

var message = []byte("what is to be signed")

// sign signs the message with a key that was read, and checks the signature.
func (b *bench) sign(t *testing.T, k tss2.Key) {
	t.Helper()
	digest := sha256.Sum256(message)
	scheme := provider.ECDSA
	key, err := k.Object.Public.Key()
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := key.(*rsa.PublicKey); ok {
		scheme = provider.RSASSA
	}
	sig, err := b.tpm.Sign(context.Background(), k.Object, provider.Auth{Policy: k.Policy}, scheme, crypto.SHA256, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	switch key := key.(type) {
	case *rsa.PublicKey:
		err = rsa.VerifyPKCS1v15(key, crypto.SHA256, digest[:], sig)
		if err != nil {
			t.Error(err)
		}
	case *ecdsa.PublicKey:
		if !ecdsa.Verify(key, digest[:], new(big.Int).SetBytes(sig[:len(sig)/2]), new(big.Int).SetBytes(sig[len(sig)/2:])) {
			t.Error("the signature does not verify")
		}
	}
}

func TestOpenSSLSignsWithAKeyThatWasWrittenHere(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	o, err := b.tpm.CreateKey(context.Background(), provider.Template{Type: provider.P256, Use: provider.Use{Sign: true}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	text, err := tss2.Encode(tss2.Key{Object: o, EmptyAuth: true})
	if err != nil {
		t.Fatal(err)
	}
	b.write(t, "key.pem", text)
	b.write(t, "message", message)
	b.run(t, "openssl", "dgst", "-provider", "tpm2", "-provider", "default", "-propquery", "?provider=tpm2", "-sha256",
		"-sign", "key.pem", "-out", "signature", "message")
	key, err := o.Public.Key()
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(message)
	if !ecdsa.VerifyASN1(key.(*ecdsa.PublicKey), digest[:], b.read(t, "signature")) {
		t.Error("OpenSSL's signature does not verify")
	}
}

func TestAKeyThatOpenSSLMadeSigns(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.run(t, "openssl", "genpkey", "-provider", "tpm2", "-provider", "default", "-algorithm", "EC", "-pkeyopt", "group:P-256", "-out", "key.pem")
	k := b.decode(t, "key.pem")
	if !k.EmptyAuth || k.Object.Parent != tpm2.TPMRHOwner {
		t.Errorf("%+v", k)
	}
	b.sign(t, k)
}

func TestToolsLoadAKeyThatWasWrittenHere(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	o, err := b.tpm.CreateKey(context.Background(), provider.Template{Type: provider.P256, Use: provider.Use{Sign: true}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	b.write(t, "key.pub", tss2.EncodePublic(o.Public))
	b.write(t, "key.priv", tss2.EncodePrivate(o.Private))
	b.write(t, "message", message)
	b.run(t, "tpm2_load", "-Q", "-C", "0x81000001", "-u", "key.pub", "-r", "key.priv", "-c", "key.ctx")
	b.run(t, "tpm2_flushcontext", "-t")
	b.run(t, "tpm2_sign", "-Q", "-c", "key.ctx", "-g", "sha256", "-f", "plain", "-o", "signature", "message")
	b.run(t, "tpm2_flushcontext", "-t")
	key, err := o.Public.Key()
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(message)
	var sig struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(b.read(t, "signature"), &sig); err != nil {
		t.Fatal(err)
	}
	if !ecdsa.Verify(key.(*ecdsa.PublicKey), digest[:], sig.R, sig.S) {
		t.Error("the signature of tpm2_sign does not verify")
	}
}

func TestFilesOfToolsAreRead(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.run(t, "tpm2_create", "-Q", "-C", "0x81000001", "-G", "rsa2048", "-u", "key.pub", "-r", "key.priv")
	public, err := tss2.DecodePublic(b.read(t, "key.pub"))
	if err != nil {
		t.Fatal(err)
	}
	private, err := tss2.DecodePrivate(b.read(t, "key.priv"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(tss2.EncodePublic(public), b.read(t, "key.pub")) || !bytes.Equal(tss2.EncodePrivate(private), b.read(t, "key.priv")) {
		t.Error("what is written is not what was read")
	}
	b.run(t, "tpm2_encodeobject", "-C", "0x81000001", "-u", "key.pub", "-r", "key.priv", "-o", "key.pem")
	b.run(t, "tpm2_flushcontext", "-l") // tpm2_encodeobject 5.4 leaves its session behind
	k := b.decode(t, "key.pem")
	if k.Object.Parent != 0x81000001 || !bytes.Equal(k.Object.Public.Name(), public.Name()) || !bytes.Equal(k.Object.Private, private) {
		t.Errorf("%+v", k)
	}
	b.sign(t, k)
}

func TestAPolicyOfAPEMOpensTheKey(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ctx := context.Background()
	b.swtpm.Extend(t, "sha256", 7, []byte("boot"))
	p, err := policy.Policy{Root: policy.PCR{Bank: tpm2.TPMAlgSHA256, Values: map[uint][]byte{7: nil, 8: nil}}}.Resolve(b.tpm.PolicyState(ctx), false)
	if err != nil {
		t.Fatal(err)
	}
	digest, err := p.Digest(tpm2.TPMAlgSHA256)
	if err != nil {
		t.Fatal(err)
	}
	o, err := b.tpm.CreateKey(ctx, provider.Template{Type: provider.P256, Use: provider.Use{Sign: true}, AuthPolicy: digest}, nil)
	if err != nil {
		t.Fatal(err)
	}
	text, err := tss2.Encode(tss2.Key{Object: o, EmptyAuth: true, Policy: p})
	if err != nil {
		t.Fatal(err)
	}
	k, err := tss2.Decode(text)
	if err != nil {
		t.Fatal(err)
	}
	b.sign(t, k)
}
