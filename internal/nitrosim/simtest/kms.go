package simtest

import (
	"context"
	"encoding/json"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awskms "github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/tpm2-p11/tpm2-p11/internal/nitrosim/keyservice"
	"github.com/tpm2-p11/tpm2-p11/kms"
)

// Region is where an emulated KMS is, unless its options or flags say otherwise.
const Region = "us-east-1"

// Account is the account of the principals below.
const Account = "111122223333"

// The principals whom an emulated KMS knows, unless its options say otherwise:
// an attested machine's role, the role that encrypts for it, and the role that
// manages keys.
var (
	MachineRole = principal("web", "MACHINE")
	ReleaseRole = principal("release", "RELEASE")
	KeysRole    = principal("keys", "KEYS")
)

func principal(role, id string) keyservice.Principal {
	return keyservice.Principal{
		ARN: "arn:aws:iam::" + Account + ":role/" + role, AccessKeyID: "AKID" + id, SecretAccessKey: "secret of " + role,
	}
}

// KMS is an emulated KMS on loopback.
type KMS struct {
	URL                string
	Region             string
	*keyservice.Server          // of StartKMS; else nil
	process            *process // of the others
}

// StartKMS starts a KMS, which the test's end stops. Region and principals are
// those of this package if not given; without Roots (Sim.Root,
// nsm.Authority.Root) it accepts no document.
func StartKMS(t testing.TB, o keyservice.Options) *KMS {
	t.Helper()
	if o.Region == "" {
		o.Region = Region
	}
	if o.Principals == nil {
		o.Principals = []keyservice.Principal{MachineRole, ReleaseRole, KeysRole}
	}
	s, err := keyservice.New(o)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(s)
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // of connections that faults break
	server.Start()
	t.Cleanup(server.Close)
	return &KMS{URL: server.URL, Region: o.Region, Server: s}
}

// KMS is the one that --kms has this emulator serve.
func (s *Sim) KMS() *KMS { return s.process.kms() }

// ServeKMS starts `nitro-sim kms` with flags, at a port of its own, which the
// test's end stops.
func ServeKMS(t testing.TB, flags ...string) *KMS {
	t.Helper()
	binary, err := Binary()
	if err != nil {
		t.Fatal(err)
	}
	p, err := start(binary, append([]string{"kms", "--listen", "127.0.0.1:0"}, flags...)...)
	if err != nil {
		t.Fatalf("starting nitro-sim kms: %v", err)
	}
	t.Cleanup(func() { p.stop(t) })
	return p.kms()
}

func (p *process) kms() *KMS { return &KMS{URL: "http:" + p.word("http:"), Region: Region, process: p} }

// Named is the ARN of the key that --key made under a name.
func (k *KMS) Named(name string) string { return k.process.word("alias/" + name + "=") }

// WritePrincipals writes the three principals to a file for --principals, and
// gives its path.
func WritePrincipals(t testing.TB) string {
	t.Helper()
	b, err := json.Marshal([]keyservice.Principal{MachineRole, ReleaseRole, KeysRole})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "principals.json")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Key makes a symmetric key in a KMS of StartKMS, with a policy, or with the default one that lets
// the whole account use it, and gives its ARN.
func (k *KMS) Key(t testing.TB, policy string) (arn string) {
	t.Helper()
	arn, err := k.CreateKey(keyservice.KeyOptions{Account: Account, Policy: policy})
	if err != nil {
		t.Fatal(err)
	}
	return arn
}

// Environ is the environment in which the SDK and the command ask this KMS's
// region as a principal. The endpoint is for options and configuration.
func (k *KMS) Environ(p keyservice.Principal) []string {
	e := []string{"AWS_REGION=" + k.Region, "AWS_ACCESS_KEY_ID=" + p.AccessKeyID, "AWS_SECRET_ACCESS_KEY=" + p.SecretAccessKey}
	if p.SessionToken != "" {
		e = append(e, "AWS_SESSION_TOKEN="+p.SessionToken)
	}
	return e
}

// Options have package kms ask this KMS as a principal, whatever the
// environment says. Pauses between attempts are short.
func (k *KMS) Options(p keyservice.Principal) kms.Options {
	environment := map[string]string{}
	for _, e := range k.Environ(p) {
		name, value, _ := strings.Cut(e, "=")
		environment[name] = value
	}
	return kms.Options{
		Endpoint: k.URL, AllowPlainHTTP: true, MaxBackoff: time.Millisecond,
		Getenv: func(name string) string { return environment[name] },
	}
}

// Client is AWS's own client as a principal, with more options if given. It
// tries once, so that a test sees every answer.
func (k *KMS) Client(p keyservice.Principal, change ...func(*awskms.Options)) *awskms.Client {
	o := awskms.Options{
		Region: k.Region, BaseEndpoint: aws.String(k.URL), Retryer: aws.NopRetryer{},
		Credentials: aws.CredentialsProviderFunc(func(ctx context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: p.AccessKeyID, SecretAccessKey: p.SecretAccessKey, SessionToken: p.SessionToken}, nil
		}),
	}
	return awskms.New(o, change...)
}
