package attested_test

import (
	"bytes"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"testing"

	awskms "github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/smithy-go"
	"github.com/google/go-tpm/tpm2"

	"github.com/tpm2-p11/tpm2-p11/config"
	"github.com/tpm2-p11/tpm2-p11/internal/attested"
	"github.com/tpm2-p11/tpm2-p11/internal/nitrosim/keyservice"
	"github.com/tpm2-p11/tpm2-p11/internal/nitrosim/simtest"
	"github.com/tpm2-p11/tpm2-p11/kms"
	"github.com/tpm2-p11/tpm2-p11/kms/cms"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// instance is an emulated machine and a KMS with a key for what it booted.
type instance struct {
	sim *simtest.Sim
	tpm *provider.TPM
	kms *simtest.KMS
	key string // ARN
}

func newInstance(t *testing.T) *instance {
	t.Helper()
	sim := simtest.Start(t)
	i := &instance{sim: sim, tpm: open(t, sim.Address())}
	values, err := i.tpm.ReadPCRs(t.Context(), tpm2.TPMAlgSHA384, []uint{4, 7, 12})
	if err != nil {
		t.Fatal(err)
	}
	policy, err := kms.KeyPolicy(kms.PolicyPrincipals{
		Machines: []string{simtest.MachineRole.ARN}, Encrypters: []string{simtest.ReleaseRole.ARN}, Administrators: []string{simtest.KeysRole.ARN},
	}, kms.Image{Name: "November", PCRs: map[int][]byte{4: values[4], 7: values[7], 12: values[12]}})
	if err != nil {
		t.Fatal(err)
	}
	i.kms = simtest.StartKMS(t, keyservice.Options{Roots: []*x509.Certificate{sim.Root(t)}})
	i.key = i.kms.Key(t, string(policy))
	return i
}

func (i *instance) unwrapper(t *testing.T) *kms.Unwrapper {
	t.Helper()
	s, err := kms.NewService(t.Context(), i.kms.Options(simtest.MachineRole))
	if err != nil {
		t.Fatal(err)
	}
	r, err := attested.Ephemeral(t.Context(), i.tpm)
	if err != nil {
		t.Fatal(err)
	}
	u, err := attested.Unwrapper(s, config.KMS{KeyID: i.key}, r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { u.Close() })
	return u
}

var purpose = map[string]string{"service": "payroll"}

// A data key is made, kept as a ciphertext and read again by the machine that
// the key policy is for; after it booted something else, no more.
func TestOnlyTheMeasuredMachineReadsItsDataKey(t *testing.T) {
	t.Parallel()
	i := newInstance(t)
	u := i.unwrapper(t)
	made, ciphertext, err := u.DataKey(t.Context(), purpose)
	if err != nil {
		t.Fatal(err)
	}
	read, err := i.unwrapper(t).Unwrap(t.Context(), ciphertext, purpose)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(made.Bytes(), read.Bytes()) || read.Len() != 32 {
		t.Error("another data key than the one that was made")
	}
	made.Wipe()
	read.Wipe()
	if _, err := u.Unwrap(t.Context(), ciphertext, map[string]string{"service": "payments"}); !errors.Is(err, kms.ErrCiphertext) {
		t.Errorf("for something else: %v", err)
	}

	i.tpm.Release()
	i.sim.Extend(t, "sha384", 7, []byte("another boot"))
	_, err = u.Unwrap(t.Context(), ciphertext, purpose)
	var denied *kms.AccessError
	if !errors.As(err, &denied) {
		t.Fatalf("after another boot: %v", err)
	}
	if now, err := i.tpm.ReadPCRs(t.Context(), tpm2.TPMAlgSHA384, []uint{7}); err != nil || denied.PCRs[7] != hex.EncodeToString(now[7]) {
		t.Errorf("the refusal names PCR 7 as %s, error %v", denied.PCRs[7], err)
	}
}

// The key policy that is recommended lets in neither the machine's credentials
// from elsewhere, without a document, nor anybody else's.
func TestCredentialsAloneDoNotDecrypt(t *testing.T) {
	t.Parallel()
	i := newInstance(t)
	_, ciphertext, err := i.unwrapper(t).DataKey(t.Context(), purpose)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []keyservice.Principal{simtest.MachineRole, simtest.ReleaseRole, simtest.KeysRole} {
		if err := decryptInTheClear(t, i.kms, p, ciphertext); apiCode(err) != "AccessDeniedException" {
			t.Errorf("%s: %v", p, err)
		}
	}
}

func TestWhatGoesWrongOnTheWayToKMS(t *testing.T) {
	t.Parallel()
	i := newInstance(t)
	u := i.unwrapper(t)
	for fault, want := range map[keyservice.Fault]error{
		keyservice.WrongKey: cms.ErrRecipient, keyservice.Flip: cms.ErrDecrypt, keyservice.Short: kms.ErrAnswer, keyservice.Open: kms.ErrPlaintext,
	} {
		i.kms.Inject(fault, 1)
		if _, _, err := u.DataKey(t.Context(), purpose); !errors.Is(err, want) {
			t.Errorf("%s: %v", fault, err)
		}
	}
	for fault, want := range map[keyservice.Fault]error{
		keyservice.Throttle: kms.ErrThrottled, keyservice.Unavailable: kms.ErrUnavailable, keyservice.Close: kms.ErrUnreachable,
	} {
		i.kms.Inject(fault, kms.DefaultAttempts-1)
		if s, _, err := u.DataKey(t.Context(), purpose); err != nil {
			t.Errorf("%s, but not for long: %v", fault, err)
		} else {
			s.Wipe()
		}
		i.kms.Inject(fault, kms.DefaultAttempts)
		if _, _, err := u.DataKey(t.Context(), purpose); !errors.Is(err, want) {
			t.Errorf("%s: %v", fault, err)
		}
	}
	i.kms.Inject(keyservice.Truncate, kms.DefaultAttempts)
	if _, _, err := u.DataKey(t.Context(), purpose); err == nil {
		t.Error("an answer that is cut short each time is taken")
	}
	i.kms.Inject(keyservice.Truncate, 0)

	for name, c := range map[string]struct {
		change func(*kms.Options)
		want   error
	}{
		"another region":      {func(o *kms.Options) { o.Region = "eu-west-1" }, kms.ErrRegion},
		"another secret":      {func(o *kms.Options) { o.Getenv = with(o.Getenv, "AWS_SECRET_ACCESS_KEY", "guess") }, kms.ErrCredentials},
		"a stranger":          {func(o *kms.Options) { o.Getenv = with(o.Getenv, "AWS_ACCESS_KEY_ID", "AKIDSTRANGER") }, kms.ErrCredentials},
		"a token of somebody": {func(o *kms.Options) { o.Getenv = with(o.Getenv, "AWS_SESSION_TOKEN", "token") }, kms.ErrCredentials},
	} {
		o := i.kms.Options(simtest.ReleaseRole)
		c.change(&o)
		s, err := kms.NewService(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Encrypt(t.Context(), kms.EncryptRequest{KeyID: "alias/web", Plaintext: []byte("x"), Context: purpose}); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// with changes one variable of an environment.
func with(getenv func(string) string, name, value string) func(string) string {
	return func(n string) string {
		if n == name {
			return value
		}
		return getenv(n)
	}
}

func decryptInTheClear(t *testing.T, k *simtest.KMS, p keyservice.Principal, ciphertext []byte) error {
	t.Helper()
	_, err := k.Client(p).Decrypt(t.Context(), &awskms.DecryptInput{CiphertextBlob: ciphertext, EncryptionContext: purpose})
	return err
}

func apiCode(err error) string {
	var api smithy.APIError
	if errors.As(err, &api) {
		return api.ErrorCode()
	}
	return ""
}
