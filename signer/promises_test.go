package signer

import (
	"bufio"
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/pprof"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/internal/promises"
	"github.com/tpm2-p11/tpm2-p11/keystore"
	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// promisedErrors are the errors that the table names.
var promisedErrors = map[string]error{
	"nil":            nil,
	"ErrBusy":        ErrBusy,
	"ErrUnavailable": ErrUnavailable,
	"ErrPolicy":      ErrPolicy,
	"ErrPIN":         ErrPIN,
	"ErrLockout":     ErrLockout,
	"ErrWrongTPM":    ErrWrongTPM,
	"ErrFailure":     ErrFailure, "ErrIntegrity": ErrIntegrity, "ErrMalformed": ErrMalformed, "ErrNoMemory": ErrNoMemory, "ErrParentChanged": ErrParentChanged,
	"ErrNoObject":    ErrNoObject,
	"ErrOtherObject": ErrOtherObject,
	"ErrDecrypt":     ErrDecrypt,
}

// The package answers each fault as the table says, with a key that stays open.
func TestPromisesOfTheSigner(t *testing.T) {
	t.Parallel()
	var all sync.WaitGroup
	defer all.Wait()
	for _, batch := range promises.Batches(testing.Short()) {
		all.Go(func() { // at once, as they mostly wait
			t.Run(batch.Name, func(t *testing.T) {
				p := newPromised(t, batch.Token, batch.Rows)
				for _, row := range batch.Rows {
					p.run(row)
				}
			})
		})
	}
}

// promised is a token with the keys that rows of the table use.
type promised struct {
	*store
	machine *promises.Machine
	test    *testing.T
}

func newPromised(t *testing.T, token promises.Token, rows []promises.Row) *promised {
	t.Helper()
	pin := ""
	if token == promises.Guarded {
		pin = promises.PIN
	}
	s := newStore(t, pin)
	for _, k := range promises.KeysOf(rows) {
		spec := keystore.KeySpec{Label: k.Label, Type: provider.KeyType(k.Type), Wrapped: k.Wrapped}
		if k.Decrypt {
			spec.Use = provider.Use{Decrypt: true}
		}
		if k.PCR {
			spec.Policy = policy.Policy{Root: policy.PCR{Bank: tpm2.TPMAlgSHA256, Values: map[uint][]byte{promises.BoundPCR: nil}}}
		}
		s.create(spec)
	}
	return &promised{s, promises.NewMachine(t, s.tpm), t}
}

// run runs a row: the fault, the same use afterwards, and what is left.
func (p *promised) run(row promises.Row) {
	t := p.test
	t.Helper()
	if row.Signer == "" {
		return
	}
	want, known := promisedErrors[row.Signer]
	if !known {
		t.Errorf("%s: there is no %s", row.Name, row.Signer)
		return
	}
	held := p.held()
	// Other tests run beside: the goroutines of this use are told by a label, which those that they start inherit.
	in := func(do func()) {
		pprof.Do(t.Context(), pprof.Labels("row", row.Name), func(context.Context) {
			do()
			if goroutines(t, row.Name) == 0 {
				t.Error("no goroutine was counted, not even this one")
			}
		})
	}
	var key *Key
	var err error
	in(func() { key, err = p.key(row.Use.Right()) })
	if err != nil {
		t.Errorf("%s, before: %v", row.Name, err)
		return
	}
	p.machine.Begin(row)
	in(func() {
		if row.Use.PIN == "" {
			err = use(key, row.Use)
			return
		}
		var other *Key
		if other, err = p.key(row.Use); err == nil {
			other.Close()
		}
	})
	if (want == nil) != (err == nil) || !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", row.Name, err, want)
	}
	p.machine.End(row)
	in(func() {
		if err := use(key, row.Use.Right()); err != nil && !row.Lost {
			t.Errorf("%s, afterwards: %v", row.Name, err)
		}
		if err := key.Close(); err != nil {
			t.Errorf("%s: closing the key: %v", row.Name, err)
		}
	})
	if now := p.held(); now != held && !row.Lost {
		t.Errorf("%s: the TPM holds %s, before %s", row.Name, now, held)
	}
	deadline := time.Now().Add(time.Minute)
	for goroutines(t, row.Name) != 0 || descriptors(t, p.dir) != 0 {
		if time.Now().After(deadline) {
			t.Fatalf("%s: %d goroutines and %d descriptors are left", row.Name, goroutines(t, row.Name), descriptors(t, p.dir))
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// key opens a key.
func (p *promised) key(u promises.Use) (*Key, error) {
	options := []Option{WithTPM(p.machine.Wire.Address()), WithStore(p.dir)}
	if p.pin != "" {
		pin := p.pin
		if u.PIN != "" {
			pin = u.PIN
		}
		options = append(options, WithPIN(func() ([]byte, error) { return []byte(pin), nil }))
	}
	return Open(p.test.Context(), u.Key, options...)
}

// use is one use of a key, whose result must be right if there is one.
func use(key *Key, u promises.Use) error {
	digest := sha256.Sum256([]byte("a message"))
	if u.Verb == promises.Decrypt {
		ciphertext := []byte(u.Ciphertext)
		if u.Ciphertext == "" {
			var err error
			if ciphertext, err = rsa.EncryptOAEP(sha256.New(), rand.Reader, key.Public().(*rsa.PublicKey), []byte("a message"), nil); err != nil {
				return err
			}
		}
		plaintext, err := key.Decrypt(nil, ciphertext, &rsa.OAEPOptions{Hash: crypto.SHA256})
		if err == nil && string(plaintext) != "a message" {
			err = fmt.Errorf("decrypted %q", plaintext)
		}
		return err
	}
	signature, err := key.Sign(nil, digest[:], crypto.SHA256)
	if err != nil {
		return err
	}
	return verify(key.Public(), digest[:], signature)
}

func verify(public crypto.PublicKey, digest, signature []byte) error {
	switch public := public.(type) {
	case *ecdsa.PublicKey:
		if !ecdsa.VerifyASN1(public, digest, signature) {
			return errors.New("a wrong signature")
		}
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(public, crypto.SHA256, digest, signature)
	}
	return nil
}

// held is what the TPM holds once it was let go.
func (p *promised) held() string {
	t := p.test
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := p.machine.Wire.AwaitIdle(ctx); err != nil {
		t.Errorf("the TPM is not let go: %v", err)
	}
	return fmt.Sprintf("%+v", p.tpm.Count(t))
}

// goroutines counts those with a test's label.
func goroutines(t *testing.T, label string) (n int) {
	t.Helper()
	var profile bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&profile, 1); err != nil {
		t.Fatal(err)
	}
	count := 0
	for lines := bufio.NewScanner(&profile); lines.Scan(); {
		switch line := lines.Text(); {
		case strings.HasPrefix(line, "# labels:"):
			if strings.Contains(line, fmt.Sprintf("%q", label)) {
				n += count
			}
		default:
			fmt.Sscanf(line, "%d @", &count)
		}
	}
	return n
}

// descriptors counts those of files in a folder.
func descriptors(t *testing.T, folder string) (n int) {
	t.Helper()
	all, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range all {
		if path, err := os.Readlink(fd); err == nil && strings.HasPrefix(path, folder) {
			n++
		}
	}
	return n
}

// Somebody gives two keys the private parts of each other. The TPM does not load what does not belong together.
func TestSwappedPartsOfTwoKeys(t *testing.T) {
	t.Parallel()
	s := newStore(t, "")
	var pems [2]string
	for i, label := range []string{"one", "two"} {
		pems[i] = filepath.Join(s.dir, s.create(keystore.KeySpec{Label: label, Type: provider.P256, Wrapped: true}).ID+".pem")
	}
	one, err := os.ReadFile(pems[0])
	if err != nil {
		t.Fatal(err)
	}
	two, err := os.ReadFile(pems[1])
	if err != nil {
		t.Fatal(err)
	}
	one, two, err = promises.SwapPrivateParts(one, two)
	if err := errors.Join(err, os.WriteFile(pems[0], one, 0o600), os.WriteFile(pems[1], two, 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, label := range []string{"one", "two"} {
		if err := s.refusal(label); !errors.Is(err, ErrWrongTPM) {
			t.Errorf("%s: %v", label, err)
		}
	}
}
