package keyservice_test

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	awskms "github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/tpm2-p11/tpm2-p11/internal/nitrosim/keyservice"
	"github.com/tpm2-p11/tpm2-p11/internal/nitrosim/simtest"
)

// encrypted is a ciphertext of a new key that the whole account may use.
func (m *machine) encrypted(plaintext string) (key string, ciphertext []byte) {
	m.t.Helper()
	key = m.kms.Key(m.t, "")
	out, err := m.kms.Client(simtest.ReleaseRole).Encrypt(m.t.Context(), &awskms.EncryptInput{KeyId: &key, Plaintext: []byte(plaintext), EncryptionContext: purpose})
	if err != nil {
		m.t.Fatal(err)
	}
	return key, out.CiphertextBlob
}

func TestDecryptionInTheClear(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	key, ciphertext := m.encrypted("secret")
	client := m.kms.Client(simtest.MachineRole)
	for name, id := range map[string]*string{"by its ARN": &key, "by its id": aws.String(key[strings.LastIndex(key, "/")+1:]), "unnamed": nil} {
		out, err := client.Decrypt(t.Context(), &awskms.DecryptInput{KeyId: id, CiphertextBlob: ciphertext, EncryptionContext: purpose})
		if err != nil || string(out.Plaintext) != "secret" || aws.ToString(out.KeyId) != key || out.CiphertextForRecipient != nil || out.EncryptionAlgorithm != types.EncryptionAlgorithmSpecSymmetricDefault {
			t.Errorf("%s: %+v, error %v", name, out, err)
		}
	}
}

func TestACiphertextIsBoundToItsContextAndKey(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	_, ciphertext := m.encrypted("secret")
	client := m.kms.Client(simtest.MachineRole)
	for _, context := range []map[string]string{
		nil, {"service": "payroll"}, {"service": "payroll", "stage": "test"}, {"service": "payrollstage", "": "production"},
		{"service": "payroll", "stage": "production", "more": ""}, {"stage": "payroll", "service": "production"},
	} {
		_, err := client.Decrypt(t.Context(), &awskms.DecryptInput{CiphertextBlob: ciphertext, EncryptionContext: context})
		refused(t, "another context", err, "InvalidCiphertextException")
	}
	other := m.kms.Key(t, "")
	_, err := client.Decrypt(t.Context(), &awskms.DecryptInput{KeyId: &other, CiphertextBlob: ciphertext, EncryptionContext: purpose})
	refused(t, "another key", err, "IncorrectKeyException")
	for i := range ciphertext {
		bent := slices.Clone(ciphertext)
		bent[i] ^= 1
		// A flipped bit of the key's id makes it one that nobody knows.
		if _, err := client.Decrypt(t.Context(), &awskms.DecryptInput{CiphertextBlob: bent, EncryptionContext: purpose}); err == nil {
			t.Errorf("with a flipped bit in byte %d it decrypts", i)
		} else if i == 0 || i > 40 {
			refused(t, "a flipped bit", err, "InvalidCiphertextException")
		}
	}
	for _, n := range []int{1, 36, 37, 38, 60, len(ciphertext) - 1} {
		_, err := client.Decrypt(t.Context(), &awskms.DecryptInput{CiphertextBlob: ciphertext[:n], EncryptionContext: purpose})
		refused(t, "a piece of a ciphertext", err, "InvalidCiphertextException")
	}
	elsewhere := newMachine(t)
	_, err = elsewhere.kms.Client(simtest.MachineRole).Decrypt(t.Context(), &awskms.DecryptInput{CiphertextBlob: ciphertext, EncryptionContext: purpose})
	refused(t, "a ciphertext of another KMS", err, "AccessDeniedException")
}

// The key that is named must let the caller in before he learns that it is not the right one.
func TestAWrongKeyIsNotAnOracle(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	_, ciphertext := m.encrypted("secret")
	closed := m.kms.Key(t, statements())
	_, err := m.kms.Client(simtest.MachineRole).Decrypt(t.Context(), &awskms.DecryptInput{KeyId: &closed, CiphertextBlob: ciphertext, EncryptionContext: purpose})
	refused(t, "a key of others", err, "AccessDeniedException")
}

func TestNewKeysWithAndWithoutPlaintext(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	key := m.kms.Key(t, "")
	client := m.kms.Client(simtest.MachineRole)
	decrypt := func(ciphertext []byte) []byte {
		out, err := client.Decrypt(t.Context(), &awskms.DecryptInput{CiphertextBlob: ciphertext})
		if err != nil {
			t.Fatal(err)
		}
		return out.Plaintext
	}
	for size, r := range map[int]*awskms.GenerateDataKeyInput{
		16: {KeySpec: types.DataKeySpecAes128}, 32: {KeySpec: types.DataKeySpecAes256}, 1: {NumberOfBytes: aws.Int32(1)}, 1024: {NumberOfBytes: aws.Int32(1024)},
	} {
		r.KeyId = &key
		with, err := client.GenerateDataKey(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		if len(with.Plaintext) != size || !bytes.Equal(with.Plaintext, decrypt(with.CiphertextBlob)) {
			t.Errorf("a data key of %d bytes has %d", size, len(with.Plaintext))
		}
		without, err := client.GenerateDataKeyWithoutPlaintext(t.Context(), &awskms.GenerateDataKeyWithoutPlaintextInput{KeyId: &key, KeySpec: r.KeySpec, NumberOfBytes: r.NumberOfBytes})
		if err != nil || len(decrypt(without.CiphertextBlob)) != size {
			t.Errorf("a data key of %d bytes without plaintext: error %v", size, err)
		}
	}
	pair, err := client.GenerateDataKeyPair(t.Context(), &awskms.GenerateDataKeyPairInput{KeyId: &key, KeyPairSpec: types.DataKeyPairSpecEccNistP256})
	if err != nil || !bytes.Equal(pair.PrivateKeyPlaintext, decrypt(pair.PrivateKeyCiphertextBlob)) {
		t.Fatalf("a key pair: error %v", err)
	}
	isPair(t, pair.PrivateKeyPlaintext, pair.PublicKey)
	closed, err := client.GenerateDataKeyPairWithoutPlaintext(t.Context(), &awskms.GenerateDataKeyPairWithoutPlaintextInput{KeyId: &key, KeyPairSpec: types.DataKeyPairSpecEccNistP256})
	if err != nil {
		t.Fatal(err)
	}
	isPair(t, decrypt(closed.PrivateKeyCiphertextBlob), closed.PublicKey)
}

func TestAnRSAKeyEncryptsAndDecrypts(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	client := m.kms.Client(simtest.MachineRole)
	made, err := client.CreateKey(t.Context(), &awskms.CreateKeyInput{KeySpec: types.KeySpecRsa2048, KeyUsage: types.KeyUsageTypeEncryptDecrypt})
	if err != nil {
		t.Fatal(err)
	}
	key := made.KeyMetadata.Arn
	public, err := client.GetPublicKey(t.Context(), &awskms.GetPublicKeyInput{KeyId: key})
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParsePKIXPublicKey(public.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	offline, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, parsed.(*rsa.PublicKey), []byte("secret"), nil)
	if err != nil {
		t.Fatal(err)
	}
	const oaep = types.EncryptionAlgorithmSpecRsaesOaepSha256
	online, err := client.Encrypt(t.Context(), &awskms.EncryptInput{KeyId: key, Plaintext: []byte("secret"), EncryptionAlgorithm: oaep})
	if err != nil {
		t.Fatal(err)
	}
	for _, ciphertext := range [][]byte{offline, online.CiphertextBlob} {
		out, err := client.Decrypt(t.Context(), &awskms.DecryptInput{KeyId: key, CiphertextBlob: ciphertext, EncryptionAlgorithm: oaep, Recipient: m.recipient()})
		if err != nil {
			t.Fatal(err)
		}
		if got := open(t, out.CiphertextForRecipient); string(got) != "secret" {
			t.Errorf("it decrypts to %q", got)
		}
	}
	offline[7] ^= 1
	for what, c := range map[string]struct {
		request *awskms.DecryptInput
		code    string
	}{
		"a flipped bit":      {&awskms.DecryptInput{CiphertextBlob: offline, EncryptionAlgorithm: oaep}, "InvalidCiphertextException"},
		"another algorithm":  {&awskms.DecryptInput{CiphertextBlob: online.CiphertextBlob, EncryptionAlgorithm: types.EncryptionAlgorithmSpecRsaesOaepSha1}, "InvalidCiphertextException"},
		"none":               {&awskms.DecryptInput{CiphertextBlob: online.CiphertextBlob}, "InvalidKeyUsageException"},
		"an unknown one":     {&awskms.DecryptInput{CiphertextBlob: online.CiphertextBlob, EncryptionAlgorithm: "ROT13"}, "ValidationException"},
		"with a context too": {&awskms.DecryptInput{CiphertextBlob: online.CiphertextBlob, EncryptionAlgorithm: oaep, EncryptionContext: purpose}, "ValidationException"},
	} {
		c.request.KeyId = key
		_, err := client.Decrypt(t.Context(), c.request)
		refused(t, what, err, c.code)
	}
	_, err = client.Encrypt(t.Context(), &awskms.EncryptInput{KeyId: key, Plaintext: make([]byte, 191), EncryptionAlgorithm: oaep})
	refused(t, "too much", err, "ValidationException")
	_, err = client.GenerateDataKey(t.Context(), &awskms.GenerateDataKeyInput{KeyId: key, KeySpec: types.DataKeySpecAes256})
	refused(t, "a data key of an RSA key", err, "InvalidKeyUsageException")
}

func TestKeysAreMadeDescribedAndNamed(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	keys := m.kms.Client(simtest.KeysRole)
	policy := statements(statement("Allow", simtest.KeysRole.ARN, "kms:*", nil))
	made, err := keys.CreateKey(t.Context(), &awskms.CreateKeyInput{Policy: &policy, Description: aws.String("for the web servers")})
	if err != nil {
		t.Fatal(err)
	}
	key := made.KeyMetadata
	if _, err := keys.CreateAlias(t.Context(), &awskms.CreateAliasInput{AliasName: aws.String("alias/web"), TargetKeyId: key.KeyId}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{*key.Arn, *key.KeyId, "alias/web", "arn:aws:kms:" + simtest.Region + ":" + simtest.Account + ":alias/web"} {
		out, err := keys.DescribeKey(t.Context(), &awskms.DescribeKeyInput{KeyId: &name})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if d := out.KeyMetadata; *d.Arn != *key.Arn || *d.Description != "for the web servers" || d.KeyState != types.KeyStateEnabled ||
			d.KeySpec != types.KeySpecSymmetricDefault || d.KeyUsage != types.KeyUsageTypeEncryptDecrypt || !d.CreationDate.Equal(*key.CreationDate) {
			t.Errorf("%s: %+v", name, d)
		}
	}
	if out, err := keys.GetKeyPolicy(t.Context(), &awskms.GetKeyPolicyInput{KeyId: key.KeyId}); err != nil || *out.Policy != policy {
		t.Errorf("its policy: %v", err)
	}
	changed := statements(statement("Allow", simtest.MachineRole.ARN, "kms:DescribeKey", nil))
	if _, err := keys.PutKeyPolicy(t.Context(), &awskms.PutKeyPolicyInput{KeyId: key.KeyId, Policy: &changed, PolicyName: aws.String("default")}); err != nil {
		t.Fatal(err)
	}
	if _, err := m.kms.Client(simtest.MachineRole).DescribeKey(t.Context(), &awskms.DescribeKeyInput{KeyId: key.KeyId}); err != nil {
		t.Errorf("with a new policy: %v", err)
	}
}

func TestADisabledKeyIsNotUsed(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	key, ciphertext := m.encrypted("secret")
	client := m.kms.Client(simtest.MachineRole)
	if _, err := client.DisableKey(t.Context(), &awskms.DisableKeyInput{KeyId: &key}); err != nil {
		t.Fatal(err)
	}
	request := &awskms.DecryptInput{CiphertextBlob: ciphertext, EncryptionContext: purpose}
	_, err := client.Decrypt(t.Context(), request)
	refused(t, "decryption", err, "DisabledException")
	_, err = client.Encrypt(t.Context(), &awskms.EncryptInput{KeyId: &key, Plaintext: []byte("x")})
	refused(t, "encryption", err, "DisabledException")
	if out, err := client.DescribeKey(t.Context(), &awskms.DescribeKeyInput{KeyId: &key}); err != nil || out.KeyMetadata.Enabled || out.KeyMetadata.KeyState != types.KeyStateDisabled {
		t.Errorf("%+v, error %v", out, err)
	}
	if _, err := client.EnableKey(t.Context(), &awskms.EnableKeyInput{KeyId: &key}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Decrypt(t.Context(), request); err != nil {
		t.Error(err)
	}
}

func TestRequestsThatKMSDoesNotCarryOut(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	c := m.kms.Client(simtest.MachineRole)
	key, ciphertext := m.encrypted("secret")
	agreement, err := m.kms.CreateKey(keyservice.KeyOptions{Account: simtest.Account, Spec: "ECC_NIST_P256", Alias: "alias/agreement"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, id, data := t.Context(), aws.String, []byte("x")
	abroad := strings.Replace(key, simtest.Region, "eu-west-1", 1)
	for what, r := range map[string]struct {
		code string
		send func() error
	}{
		"an unknown key": {"NotFoundException", func() error { _, err := c.DescribeKey(ctx, &awskms.DescribeKeyInput{KeyId: id("1234")}); return err }},
		"an unknown alias": {"NotFoundException", func() error {
			_, err := c.DescribeKey(ctx, &awskms.DescribeKeyInput{KeyId: id("alias/db")})
			return err
		}},
		"a key elsewhere": {"NotFoundException", func() error { _, err := c.DescribeKey(ctx, &awskms.DescribeKeyInput{KeyId: &abroad}); return err }},
		"no ARN of a key": {"InvalidArnException", func() error {
			_, err := c.DescribeKey(ctx, &awskms.DescribeKeyInput{KeyId: id("arn:aws:s3:::bucket")})
			return err
		}},
		"half an ARN": {"InvalidArnException", func() error {
			_, err := c.DescribeKey(ctx, &awskms.DescribeKeyInput{KeyId: id("arn:aws:kms")})
			return err
		}},
		"no key": {"ValidationException", func() error { _, err := c.DescribeKey(ctx, &awskms.DescribeKeyInput{KeyId: id("")}); return err }},
		"nothing to encrypt": {"ValidationException", func() error {
			_, err := c.Encrypt(ctx, &awskms.EncryptInput{KeyId: &key, Plaintext: []byte{}})
			return err
		}},
		"too much to encrypt": {"ValidationException", func() error {
			_, err := c.Encrypt(ctx, &awskms.EncryptInput{KeyId: &key, Plaintext: make([]byte, 4097)})
			return err
		}},
		"nothing to decrypt": {"ValidationException", func() error { _, err := c.Decrypt(ctx, &awskms.DecryptInput{CiphertextBlob: []byte{}}); return err }},
		"too much to decrypt": {"ValidationException", func() error {
			_, err := c.Decrypt(ctx, &awskms.DecryptInput{CiphertextBlob: make([]byte, 6145)})
			return err
		}},
		"what is no ciphertext": {"InvalidCiphertextException", func() error {
			_, err := c.Decrypt(ctx, &awskms.DecryptInput{CiphertextBlob: []byte("ciphertext"), KeyId: &key})
			return err
		}},
		"a context of 9 KiB": {"ValidationException", func() error {
			_, err := c.Encrypt(ctx, &awskms.EncryptInput{KeyId: &key, Plaintext: data, EncryptionContext: map[string]string{"a": strings.Repeat("b", 9<<10)}})
			return err
		}},
		"a context that has no case": {"ValidationException", func() error {
			_, err := c.Encrypt(ctx, &awskms.EncryptInput{KeyId: &key, Plaintext: data, EncryptionContext: map[string]string{"a": "b", "A": "c"}})
			return err
		}},
		"a key for agreement that encrypts": {"InvalidKeyUsageException", func() error {
			_, err := c.Encrypt(ctx, &awskms.EncryptInput{KeyId: &agreement, Plaintext: data})
			return err
		}},
		"a key for encryption that agrees": {"InvalidKeyUsageException", func() error {
			_, err := c.DeriveSharedSecret(ctx, &awskms.DeriveSharedSecretInput{KeyId: &key, KeyAgreementAlgorithm: "ECDH", PublicKey: data})
			return err
		}},
		"agreement of another kind": {"ValidationException", func() error {
			_, err := c.DeriveSharedSecret(ctx, &awskms.DeriveSharedSecretInput{KeyId: &agreement, KeyAgreementAlgorithm: "X25519", PublicKey: data})
			return err
		}},
		"no size": {"ValidationException", func() error { _, err := c.GenerateDataKey(ctx, &awskms.GenerateDataKeyInput{KeyId: &key}); return err }},
		"an odd spec": {"ValidationException", func() error {
			_, err := c.GenerateDataKey(ctx, &awskms.GenerateDataKeyInput{KeyId: &key, KeySpec: "AES_192"})
			return err
		}},
		"a size of zero": {"ValidationException", func() error {
			_, err := c.GenerateDataKey(ctx, &awskms.GenerateDataKeyInput{KeyId: &key, NumberOfBytes: aws.Int32(0)})
			return err
		}},
		"two sizes": {"ValidationException", func() error {
			_, err := c.GenerateDataKey(ctx, &awskms.GenerateDataKeyInput{KeyId: &key, NumberOfBytes: aws.Int32(32), KeySpec: types.DataKeySpecAes256})
			return err
		}},
		"an unknown kind of pair": {"UnsupportedOperationException", func() error {
			_, err := c.GenerateDataKeyPair(ctx, &awskms.GenerateDataKeyPairInput{KeyId: &key, KeyPairSpec: types.DataKeyPairSpecSm2})
			return err
		}},
		"no random": {"ValidationException", func() error { _, err := c.GenerateRandom(ctx, &awskms.GenerateRandomInput{}); return err }},
		"too much random": {"ValidationException", func() error {
			_, err := c.GenerateRandom(ctx, &awskms.GenerateRandomInput{NumberOfBytes: aws.Int32(1025)})
			return err
		}},
		"a key of an unknown kind": {"UnsupportedOperationException", func() error {
			_, err := c.CreateKey(ctx, &awskms.CreateKeyInput{KeySpec: types.KeySpecHmac256, KeyUsage: types.KeyUsageTypeEncryptDecrypt})
			return err
		}},
		"a key for another use": {"ValidationException", func() error {
			_, err := c.CreateKey(ctx, &awskms.CreateKeyInput{KeySpec: types.KeySpecEccNistP256, KeyUsage: types.KeyUsageTypeSignVerify})
			return err
		}},
		"a key of another origin": {"SerializationException", func() error {
			_, err := c.CreateKey(ctx, &awskms.CreateKeyInput{Origin: types.OriginTypeExternal})
			return err
		}},
		"a public key of none": {"UnsupportedOperationException", func() error { _, err := c.GetPublicKey(ctx, &awskms.GetPublicKeyInput{KeyId: &key}); return err }},
		"another policy": {"NotFoundException", func() error {
			_, err := c.GetKeyPolicy(ctx, &awskms.GetKeyPolicyInput{KeyId: &key, PolicyName: id("second")})
			return err
		}},
		"an alias twice": {"AlreadyExistsException", func() error {
			_, err := c.CreateAlias(ctx, &awskms.CreateAliasInput{AliasName: id("alias/agreement"), TargetKeyId: &key})
			return err
		}},
		"an alias without its prefix": {"InvalidAliasNameException", func() error {
			_, err := c.CreateAlias(ctx, &awskms.CreateAliasInput{AliasName: id("web"), TargetKeyId: &key})
			return err
		}},
		"an operation that is not emulated": {"UnknownOperationException", func() error { _, err := c.ListKeys(ctx, &awskms.ListKeysInput{}); return err }},
		"a grant, which is not emulated": {"SerializationException", func() error {
			_, err := c.Decrypt(ctx, &awskms.DecryptInput{CiphertextBlob: ciphertext, GrantTokens: []string{"token"}})
			return err
		}},
		"a dry run": {"DryRunOperationException", func() error {
			_, err := c.Decrypt(ctx, &awskms.DecryptInput{CiphertextBlob: ciphertext, EncryptionContext: purpose, DryRun: aws.Bool(true)})
			return err
		}},
	} {
		refused(t, what, r.send(), r.code)
	}
	if _, err := m.kms.CreateKey(keyservice.KeyOptions{Account: "me"}); err == nil {
		t.Error("a key of no account is made")
	}
}

// The log tells who was refused with which PCRs, and no secret.
func TestTheLogNamesWhatPoliciesLookAt(t *testing.T) {
	t.Parallel()
	var log lockedBuffer
	m := newMachine(t, func(o *keyservice.Options) {
		o.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	key, ciphertext := m.encrypted("canary-plaintext")
	client := m.kms.Client(simtest.MachineRole)
	decrypt := func() error {
		_, err := client.Decrypt(t.Context(), &awskms.DecryptInput{CiphertextBlob: ciphertext, EncryptionContext: purpose, Recipient: m.recipient()})
		return err
	}
	if err := decrypt(); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Decrypt(t.Context(), &awskms.DecryptInput{CiphertextBlob: ciphertext, EncryptionContext: purpose}); err != nil {
		t.Fatal(err)
	}
	if err := m.kms.SetPolicy(key, statements()); err != nil {
		t.Fatal(err)
	}
	refused(t, "after the policy changed", decrypt(), "AccessDeniedException")
	impostor := simtest.MachineRole
	impostor.SecretAccessKey = "canary-guess"
	refused(t, "an impostor", random(t.Context(), m.kms.Client(impostor)), "InvalidSignatureException")

	lines := log.String()
	for _, wanted := range []string{simtest.MachineRole.ARN, key, "AccessDeniedException", "InvalidSignatureException", hex.EncodeToString(m.pcrs[4]), hex.EncodeToString(m.pcrs[7]), hex.EncodeToString(m.pcrs[12])} {
		if !strings.Contains(lines, wanted) {
			t.Errorf("the log does not tell %s:\n%s", wanted, lines)
		}
	}
	for _, secret := range []string{"canary", simtest.MachineRole.SecretAccessKey, base64.StdEncoding.EncodeToString([]byte("canary-plaintext")), purpose["service"]} {
		if strings.Contains(lines, secret) {
			t.Errorf("the log has %q:\n%s", secret, lines)
		}
	}
}

// lockedBuffer is a buffer for handlers of several requests.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
