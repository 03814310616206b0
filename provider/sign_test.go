package provider_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	_ "crypto/sha1"
	"crypto/sha256"
	_ "crypto/sha512"
	"errors"
	"io"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/internal/faulttpm"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

func TestSignaturesVerifyInSoftware(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	rsaKey := b.key(t, provider.Template{Type: provider.RSA2048, Use: provider.Use{Sign: true}}, "")
	p256 := b.key(t, signKey, "")
	p384 := b.key(t, provider.Template{Type: provider.P384, Use: provider.Use{Sign: true}}, "")
	p521 := b.key(t, provider.Template{Type: provider.P521, Use: provider.Use{Sign: true}}, "")
	for _, tt := range []struct {
		name   string
		key    provider.Object
		scheme provider.SignScheme
		hash   crypto.Hash
	}{
		{"RSASSA SHA-1", rsaKey, provider.RSASSA, crypto.SHA1},
		{"RSASSA SHA-256", rsaKey, provider.RSASSA, crypto.SHA256},
		{"RSASSA SHA-512", rsaKey, provider.RSASSA, crypto.SHA512},
		{"RSAPSS SHA-256", rsaKey, provider.RSAPSS, crypto.SHA256},
		{"RSAPSS SHA-384", rsaKey, provider.RSAPSS, crypto.SHA384},
		{"RSAPSS SHA-512", rsaKey, provider.RSAPSS, crypto.SHA512},
		{"P-256 SHA-256", p256, provider.ECDSA, crypto.SHA256},
		{"P-256 with a digest longer than its order", p256, provider.ECDSA, crypto.SHA512},
		{"P-384 SHA-384", p384, provider.ECDSA, crypto.SHA384},
		{"P-384 SHA-256", p384, provider.ECDSA, crypto.SHA256},
		{"P-521 SHA-512", p521, provider.ECDSA, crypto.SHA512},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := tt.hash.New()
			h.Write([]byte("a message"))
			digest := h.Sum(nil)
			sig, err := b.Sign(t.Context(), tt.key, provider.Auth{}, tt.scheme, tt.hash, digest)
			if err != nil {
				t.Fatal(err)
			}
			key, err := tt.key.Public.Key()
			if err != nil {
				t.Fatal(err)
			}
			switch k := key.(type) {
			case *rsa.PublicKey:
				if tt.scheme == provider.RSASSA {
					err = rsa.VerifyPKCS1v15(k, tt.hash, digest, sig)
				} else {
					err = rsa.VerifyPSS(k, tt.hash, digest, sig, &rsa.PSSOptions{SaltLength: tt.hash.Size()})
				}
				if err != nil {
					t.Error(err)
				}
			case *ecdsa.PublicKey:
				n := len(sig) / 2
				if n != (k.Params().BitSize+7)/8 || !ecdsa.Verify(k, digest, new(big.Int).SetBytes(sig[:n]), new(big.Int).SetBytes(sig[n:])) {
					t.Errorf("a signature of %d bytes does not verify", len(sig))
				}
			}
		})
	}
}

func TestSigningWithAPersistentKeyCostsOneCommand(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	key := b.persisted(t, b.key(t, signKey, ""))

	tpm, wire := b.client(t)
	b.Release()
	digest := sha256.Sum256([]byte("a message"))
	checked := []tpm2.TPMCC{tpm2.TPMCCReadPublic, tpm2.TPMCCSign}
	for i, want := range [][]tpm2.TPMCC{checked, {tpm2.TPMCCSign}, {tpm2.TPMCCSign}, checked} {
		if i == 3 {
			tpm.Release() // somebody else may have changed what is at the handle
		}
		wire.Reset()
		if _, err := tpm.Sign(t.Context(), key, provider.Auth{}, provider.ECDSA, crypto.SHA256, digest[:]); err != nil {
			t.Fatal(err)
		}
		if got := wire.Codes(); !slices.Equal(got, want) {
			t.Errorf("signature %d took the commands %x, want %x", i+1, got, want)
		}
	}
}

// A key with a PIN costs one command too, once there is a session; its HMAC shows the TPM which key is meant.
func TestSigningWithAPINCostsOneCommand(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	key, other := b.persisted(t, b.key(t, signKey, "12345678")), b.key(t, signKey, "12345678")
	auth := provider.Auth{Value: pin("12345678")}
	b.Release()
	session := []tpm2.TPMCC{tpm2.TPMCCReadPublic, tpm2.TPMCCStartAuthSession, tpm2.TPMCCSign} // the SRK's Name is checked
	for i, want := range [][]tpm2.TPMCC{session, {tpm2.TPMCCSign}, {tpm2.TPMCCSign}} {
		if got := b.codes(t, key, auth); !slices.Equal(got, want) {
			t.Errorf("signature %d took the commands %x, want %x", i+1, got, want)
		}
	}
	if err := b.trySign(t.Context(), key, provider.Auth{Value: pin("87654321")}); !errors.Is(err, provider.ErrAuth) {
		t.Errorf("a wrong PIN: %v", err)
	}
	b.Release()
	wrong := key
	wrong.Public, wrong.Private = other.Public, nil
	var is *provider.OtherObjectError
	if err := b.trySign(t.Context(), wrong, auth); !errors.As(err, &is) || !bytes.Equal(is.Have, key.Public.Name()) {
		t.Errorf("another key at the handle: %v", err)
	}
}

// A Name that no HMAC has shown, since the use came to nothing before it, is not taken for known by the next use, which may have none.
func TestANameThatNothingHasShown(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	there, meant := b.persisted(t, b.key(t, signKey, "")), b.key(t, signKey, "")
	meant.Handle, meant.Private = there.Handle, nil
	b.Release()
	elsewhere := b.srk
	elsewhere.Public = there.Public
	b.UseSRK(elsewhere)
	if err := b.trySign(t.Context(), meant, provider.Auth{Value: pin("12345678")}); !errors.Is(err, provider.ErrParentChanged) {
		t.Fatalf("without the SRK that is meant: %v", err)
	}
	if err := b.trySign(t.Context(), meant, provider.Auth{}); !errors.Is(err, provider.ErrOtherObject) {
		t.Errorf("the key at the handle was used for another one: %v", err)
	}
}

// After a signature that does not verify nothing is believed any more of what was read before, although others use the TPM at once.
func TestWhatASignatureBeliesIsReadAgain(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	key := b.persisted(t, b.key(t, provider.Template{Type: provider.RSA2048, Use: provider.Use{Sign: true}}, ""))
	digest := make([]byte, 32)
	sign := func() error {
		_, err := b.Sign(t.Context(), key, provider.Auth{}, provider.RSASSA, crypto.SHA256, digest)
		return err
	}
	next := &noticed{Context: t.Context(), waits: make(chan struct{})}
	done, refused := make(chan error, 1), make(chan struct{})
	b.wire.Inject(func(ctx context.Context, command []byte, send func() ([]byte, error)) ([]byte, error) {
		switch faulttpm.Code(command) {
		case ccSign:
			go func() {
				_, err := b.ReadPCRs(next, tpm2.TPMAlgSHA256, []uint{7})
				done <- err
			}()
			<-next.waits
			return faulttpm.Flip(100)(ctx, command, send)
		case tpm2.TPMCCPCRRead:
			<-refused
		}
		return send()
	})
	if err := sign(); !errors.Is(err, provider.ErrIntegrity) {
		t.Errorf("a signature that does not verify: %v", err)
	}
	close(refused)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	b.wire.Inject(nil)
	b.wire.Reset()
	if err := sign(); err != nil || b.wire.Count(ccReadPublic) != 1 {
		t.Errorf("the next one: %v, after the commands %x", err, b.wire.Codes())
	}
}

// A signature of an ECDSA key is not verified each time, but one in a second: another process may put another key at the handle of one that
// is always in use.
func TestAKeyInAnothersPlaceDoesNotSignForLong(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	key := b.persisted(t, b.key(t, signKey, ""))
	sign := func() error { return b.trySign(t.Context(), key, provider.Auth{}) }
	if err := sign(); err != nil {
		t.Fatal(err)
	}
	provider.Age(b.TPM, time.Second)
	b.wire.Inject(faulttpm.Always(ccSign).Do(faulttpm.Answer(0x101)))
	if err := sign(); !errors.Is(err, provider.ErrFailure) { // which shows nothing of the key
		t.Errorf("a TPM that fails: %v", err)
	}
	b.wire.Inject(faulttpm.Always(ccSign).Do(faulttpm.Flip(20))) // as good as another key's
	if err := sign(); !errors.Is(err, provider.ErrIntegrity) {
		t.Errorf("a second later: %v", err)
	}
	b.wire.Inject(nil)
	b.wire.Reset()
	if err := sign(); err != nil || b.wire.Count(ccReadPublic) != 1 {
		t.Errorf("the next one: %v, after the commands %x", err, b.wire.Codes())
	}
	provider.Age(b.TPM, time.Second)
	if err := sign(); err != nil {
		t.Errorf("the key that is meant, a second later: %v", err)
	}
}

func TestSignRefusesBeforeTheTPMIsAsked(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	sign := b.key(t, signKey, "")
	decrypt := b.key(t, provider.Template{Type: provider.RSA2048, Use: provider.Use{Decrypt: true}}, "")
	rsaKey := b.key(t, provider.Template{Type: provider.RSA2048, Use: provider.Use{Sign: true}}, "")
	sealed, err := b.Seal(t.Context(), pin("data"), provider.Template{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	digest := make([]byte, 32)
	b.wire.Reset()
	for _, tt := range []struct {
		name   string
		key    provider.Object
		scheme provider.SignScheme
		hash   crypto.Hash
		digest []byte
		want   error
		text   string
	}{
		{"a decryption key", decrypt, provider.RSAPSS, crypto.SHA256, digest, provider.ErrWrongUse, "may not sign"},
		{"ECDSA with an RSA key", rsaKey, provider.ECDSA, crypto.SHA256, digest, provider.ErrWrongUse, "RSA key"},
		{"PSS with an EC key", sign, provider.RSAPSS, crypto.SHA256, digest, provider.ErrWrongUse, "elliptic curve key"},
		{"a digest of another hash", sign, provider.ECDSA, crypto.SHA384, digest, provider.ErrWrongUse, "32 bytes"},
		{"a hash that TPMs do not have", sign, provider.ECDSA, crypto.MD5, digest[:16], provider.ErrUnsupported, "MD5"},
		{"a storage key", provider.Object{Public: b.srk.Public, Handle: b.srk.Handle}, provider.ECDSA, crypto.SHA256, digest, provider.ErrWrongUse, "may not sign"},
		{"sealed data", sealed, provider.ECDSA, crypto.SHA256, digest, provider.ErrWrongUse, "sealed data"},
	} {
		_, err := b.Sign(t.Context(), tt.key, provider.Auth{Label: "web"}, tt.scheme, tt.hash, tt.digest)
		if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) || !strings.Contains(err.Error(), `"web"`) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	if n := len(b.wire.Exchanges()); n != 0 {
		t.Errorf("%d commands were sent", n)
	}
}

func TestAnAuthValueIsNeededAndNeverTravels(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	for _, value := range []string{"correct horse", "zero\x00inside", "\x00at the front", "zeros at the end\x00\x00"} {
		b.wire.Reset()
		key := b.key(t, signKey, value)
		if err := b.trySign(t.Context(), key, provider.Auth{Value: pin(value)}); err != nil {
			t.Errorf("with the auth value %q: %v", value, err)
		}
		if b.wire.Saw([]byte(value)) {
			t.Errorf("the auth value %q went over the wire", value)
		}
		for _, wrong := range []string{"", "wrong", strings.SplitN(value, "\x00", 2)[0] + "x"} {
			err := b.trySign(t.Context(), key, provider.Auth{Value: pin(wrong)})
			if !errors.Is(err, provider.ErrAuth) {
				t.Errorf("with the auth value %q instead of %q: %v", wrong, value, err)
			}
			if wrong != "" && strings.Contains(err.Error(), value) {
				t.Errorf("the error tells the auth value: %v", err)
			}
		}
	}
	t.Run("one session serves all uses", func(t *testing.T) {
		key := b.persisted(t, b.key(t, signKey, "PIN"))
		b.wire.Reset()
		for range 3 {
			if err := b.trySign(t.Context(), key, provider.Auth{Value: pin("PIN")}); err != nil {
				t.Fatal(err)
			}
		}
		if n := b.wire.Count(tpm2.TPMCCStartAuthSession); n != 0 {
			t.Errorf("%d sessions were started, there was one already", n)
		}
	})
}

func TestAPINIsGuessedOnceAlthoughTheConnectionIsLost(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	tmpl := signKey
	tmpl.DictionaryAttack = true
	key := b.key(t, tmpl, "PIN")
	failures := func() uint32 {
		p, err := b.Properties(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return p.LockoutCounter
	}
	if err := b.trySign(t.Context(), key, provider.Auth{Value: pin("PIN")}); err != nil {
		t.Fatal(err)
	}
	before := failures()
	b.wire.Reset()
	b.wire.Inject(at(tpm2.TPMCCSign, 1, func(_ context.Context, _ []byte, send func() ([]byte, error)) ([]byte, error) {
		send()
		return nil, io.ErrUnexpectedEOF
	}))
	if err := b.trySign(t.Context(), key, provider.Auth{Value: pin("wrong")}); !errors.Is(err, provider.ErrUnavailable) || errors.Is(err, provider.ErrAuth) {
		t.Errorf("the answer to a wrong PIN is lost: %v", err)
	}
	if n := b.wire.Count(tpm2.TPMCCSign); n != 1 || failures() != before+1 {
		t.Errorf("%d commands, %d failures", n, failures()-before)
	}
	b.wire.Inject(at(tpm2.TPMCCLoad, 1, func(context.Context, []byte, func() ([]byte, error)) ([]byte, error) {
		return nil, io.ErrUnexpectedEOF
	}))
	if err := b.trySign(t.Context(), key, provider.Auth{Value: pin("PIN")}); err != nil {
		t.Errorf("the connection is lost before the PIN is needed: %v", err)
	}
}

func TestAKeyUnderDictionaryAttackProtectionLocksAndIsFreed(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	tmpl := signKey
	tmpl.DictionaryAttack = true
	key := b.key(t, tmpl, "PIN")
	right := provider.Auth{Value: pin("PIN"), Label: "web"}
	if err := b.trySign(t.Context(), key, right); err != nil {
		t.Fatal(err)
	}
	p, err := b.Properties(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for range p.MaxAuthFail {
		if err := b.trySign(t.Context(), key, provider.Auth{Value: pin("wrong")}); !errors.Is(err, provider.ErrAuth) {
			t.Fatalf("a wrong PIN: %v", err)
		}
	}
	if err := b.trySign(t.Context(), key, right); !errors.Is(err, provider.ErrLockout) {
		t.Fatalf("under lockout: %v", err)
	}
	if p, err = b.Properties(t.Context()); err != nil || !p.InLockout || p.LockoutCounter != p.MaxAuthFail {
		t.Errorf("properties under lockout: %+v, %v", p, err)
	}

	b.hierarchyAuth(t, tpm2.TPMRHLockout, "lockout value")
	b.wire.Reset()
	if err := b.ResetLockout(t.Context(), pin("lockout value")); err != nil {
		t.Fatal(err)
	}
	if b.wire.Saw([]byte("lockout value")) {
		t.Error("the lockout auth value went over the wire")
	}
	if err := b.trySign(t.Context(), key, right); err != nil {
		t.Errorf("after the reset: %v", err)
	}
	if err := b.ResetLockout(t.Context(), pin("another value")); !errors.Is(err, provider.ErrHierarchyAuth) || errors.Is(err, provider.ErrAuth) {
		t.Errorf("with a wrong lockout auth value: %v", err)
	}
}
