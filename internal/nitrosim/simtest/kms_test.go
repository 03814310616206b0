package simtest

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awskms "github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"
	"github.com/google/go-tpm/tpm2"

	"github.com/tpm2-p11/tpm2-p11/internal/nitrosim/keyservice"
	"github.com/tpm2-p11/tpm2-p11/internal/nitrosim/nsm"
	"github.com/tpm2-p11/tpm2-p11/kms"
	"github.com/tpm2-p11/tpm2-p11/kms/cms"
)

// recipient is a request's Recipient: a document of the TPM for a key.
func (c *client) recipient(key *rsa.PrivateKey) *types.RecipientInfo {
	c.t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		c.t.Fatal(err)
	}
	return &types.RecipientInfo{
		AttestationDocument:    c.document(map[string]any{"public_key": der}),
		KeyEncryptionAlgorithm: types.KeyEncryptionMechanismRsaesOaepSha256,
	}
}

// policyFile is a key policy of package kms for the TPM's PCRs as they are.
func (c *client) policyFile() string {
	c.t.Helper()
	policy, err := kms.KeyPolicy(kms.PolicyPrincipals{
		Machines: []string{MachineRole.ARN}, Encrypters: []string{ReleaseRole.ARN}, Administrators: []string{KeysRole.ARN},
	}, kms.Image{Name: "November", PCRs: map[int][]byte{4: c.pcr(tpm2.TPMAlgSHA384, 4), 7: c.pcr(tpm2.TPMAlgSHA384, 7)}})
	if err != nil {
		c.t.Fatal(err)
	}
	return writeFile(c.t, "policy.json", policy)
}

func writeFile(t testing.TB, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// The TPM in one process, the KMS in another: what the machine booted decides.
func TestTheKMSGoesByTheTPMsPCRs(t *testing.T) {
	t.Parallel()
	root := filepath.Join(t.TempDir(), "root.pem")
	sim := Start(t, "--root-out", root)
	c := connect(t, sim.Address())
	service := ServeKMS(t, "--root", root, "--principals", WritePrincipals(t), "--key", "web="+c.policyFile(), "--cms", "primitive")
	key := service.Named("web")
	if !strings.HasPrefix(key, "arn:aws:kms:"+Region+":"+Account+":key/") {
		t.Fatalf("the key's ARN is %q", key)
	}
	encrypted, err := service.Client(ReleaseRole).Encrypt(t.Context(), &awskms.EncryptInput{KeyId: aws.String("alias/web"), Plaintext: []byte("secret")})
	if err != nil {
		t.Fatal(err)
	}
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	decrypt := func() (*awskms.DecryptOutput, error) {
		return service.Client(MachineRole).Decrypt(t.Context(), &awskms.DecryptInput{KeyId: &key, CiphertextBlob: encrypted.CiphertextBlob, Recipient: c.recipient(private)})
	}
	out, err := decrypt()
	if err != nil {
		t.Fatal(err)
	}
	plaintext, err := cms.Open(t.Context(), out.CiphertextForRecipient, private)
	if err != nil {
		t.Fatal(err)
	}
	defer plaintext.Wipe()
	if string(plaintext.Bytes()) != "secret" {
		t.Error("the machine got something else")
	}
	sim.Extend(t, "sha384", 7, []byte("another loader"))
	if _, err = decrypt(); apiCode(err) != "AccessDeniedException" {
		t.Errorf("after another loader: %v", err)
	}
}

func apiCode(err error) string {
	var api smithy.APIError
	if errors.As(err, &api) {
		return api.ErrorCode()
	}
	return ""
}

func TestTPMAndKMSInOneProcess(t *testing.T) {
	t.Parallel()
	sim := Start(t, "--kms", "127.0.0.1:0", "--principals", WritePrincipals(t), "--key", "web", "--fault", "throttle", "--time", "2031-01-01T00:00:00Z")
	client := sim.KMS().Client(MachineRole)
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	request := &awskms.GenerateDataKeyInput{KeyId: aws.String("alias/web"), KeySpec: types.DataKeySpecAes256, Recipient: connect(t, sim.Address()).recipient(private)}
	if _, err = client.GenerateDataKey(t.Context(), request); apiCode(err) != "ThrottlingException" {
		t.Errorf("with --fault throttle: %v", err)
	}
	out, err := client.GenerateDataKey(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	plaintext, err := cms.Open(t.Context(), out.CiphertextForRecipient, private)
	if err != nil {
		t.Fatal(err)
	}
	plaintext.Wipe()

	response, err := http.Post(sim.KMS().URL+keyservice.PathFaults, "text/plain", strings.NewReader("unavailable:1\n"))
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if _, err = client.GenerateDataKey(t.Context(), request); response.StatusCode != http.StatusOK || apiCode(err) != "KMSInternalException" {
		t.Errorf("HTTP status %d, then %v", response.StatusCode, err)
	}
}

func TestAKMSThatWasStartedWrong(t *testing.T) {
	t.Parallel()
	root := writeFile(t, "root.pem", pemOf(t))
	who := WritePrincipals(t)
	one := func(change func(p *keyservice.Principal)) string {
		p := MachineRole
		change(&p)
		b, err := json.Marshal([]keyservice.Principal{p})
		if err != nil {
			t.Fatal(err)
		}
		return writeFile(t, "principals.json", b)
	}
	served := func(more ...string) []string {
		return append([]string{"kms", "--listen", "127.0.0.1:0", "--root", root}, more...)
	}
	for name, c := range map[string]struct {
		args []string
		says string
	}{
		"nowhere":                  {[]string{"kms", "--root", root, "--principals", who}, "--listen"},
		"trusting nobody":          {[]string{"kms", "--listen", "127.0.0.1:0", "--principals", who}, "--root"},
		"trusting a missing file":  {[]string{"kms", "--listen", "127.0.0.1:0", "--root", root + "x", "--principals", who}, "--root"},
		"trusting no certificate":  {[]string{"kms", "--listen", "127.0.0.1:0", "--root", who, "--principals", who}, "no certificate"},
		"to the whole network":     {[]string{"kms", "--listen", "0.0.0.0:0", "--root", root, "--principals", who}, "this machine only"},
		"at no address":            {[]string{"kms", "--listen", "4599", "--root", root, "--principals", who}, "address"},
		"knowing nobody":           {served(), "--principals"},
		"knowing an empty list":    {served("--principals", writeFile(t, "none.json", []byte("[]"))), "names nobody"},
		"knowing no list":          {served("--principals", root), "not a list"},
		"knowing two lists":        {served("--principals", writeFile(t, "two.json", []byte("[][]"))), "follows"},
		"with another field":       {served("--principals", writeFile(t, "field.json", []byte(`[{"Password":"x"}]`))), "Password"},
		"knowing no ARN":           {served("--principals", one(func(p *keyservice.Principal) { p.ARN = "web" })), "ARN"},
		"without a secret":         {served("--principals", one(func(p *keyservice.Principal) { p.SecretAccessKey = "" })), "access key"},
		"with a bad policy":        {served("--principals", who, "--key", "web="+who), "MalformedPolicyDocumentException"},
		"with a missing policy":    {served("--principals", who, "--key", "web="+who+"x"), "--key web"},
		"with an alias twice":      {served("--principals", who, "--key", "web", "--key", "web"), "AlreadyExistsException"},
		"with a strange alias":     {served("--principals", who, "--key", "my key"), "InvalidAliasNameException"},
		"in an unknown form":       {served("--principals", who, "--cms", "der"), "--cms"},
		"with an unknown fault":    {served("--principals", who, "--fault", "fire"), "throttle"},
		"with a strange number":    {served("--principals", who, "--fault", "throttle:-1"), "throttle"},
		"at a strange time":        {served("--principals", who, "--time", "noon"), "--time"},
		"beside a TPM, unasked":    {[]string{"--socket", "unused", "--key", "web"}, "--kms"},
		"beside a TPM, everywhere": {[]string{"--socket", filepath.Join(t.TempDir(), "s"), "--kms", ":0", "--principals", who}, "this machine only"},
	} {
		if output, err := nitroSim(t, c.args...); err == nil || !strings.Contains(output, c.says) || strings.Contains(output, MachineRole.SecretAccessKey) {
			t.Errorf("a KMS %s: error %v, output %s", name, err, output)
		}
	}
}

// pemOf is some root certificate.
func pemOf(t *testing.T) []byte {
	t.Helper()
	authority, err := nsm.New("i-0123456789abcdef0", Region, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: authority.Root().Raw})
}

// The policy file is a pipe, a new one each time, so that the test sees when it is read.
func TestKeyPoliciesAreReadAgainAtASignal(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "policy.json")
	pipe := func() {
		err := syscall.Mkfifo(file+".new", 0o600)
		if err == nil {
			err = os.Rename(file+".new", file)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	give := func(policy string) {
		if err := os.WriteFile(file, []byte(policy), 0o600); err != nil { // it waits for a reader
			t.Error(err)
		}
	}
	policy := func(id string) string {
		return `{"Version":"2012-10-17","Id":"` + id + `","Statement":{"Effect":"Allow","Principal":{"AWS":"` + KeysRole.ARN + `"},"Action":"kms:*","Resource":"*"}}`
	}
	pipe()
	go give(policy("first"))
	service := ServeKMS(t, "--root", writeFile(t, "root.pem", pemOf(t)), "--principals", WritePrincipals(t), "--key", "web="+file)
	again := func(p string) {
		pipe()
		if err := service.process.Signal(syscall.SIGUSR1); err != nil {
			t.Fatal(err)
		}
		give(p)
	}
	current := func() string {
		out, err := service.Client(KeysRole).GetKeyPolicy(t.Context(), &awskms.GetKeyPolicyInput{KeyId: aws.String(service.Named("web"))})
		if err != nil {
			t.Fatal(err)
		}
		return *out.Policy
	}
	again("not a policy")
	again(policy("second")) // when this is read, what came before was dealt with
	again(policy("third"))
	if p := current(); p != policy("second") && p != policy("third") {
		t.Errorf("the policy is %s", p)
	}
	again("not a policy")
	again("not a policy")
	if p := current(); p != policy("third") {
		t.Errorf("after what is no policy, it is %s", p)
	}
}
