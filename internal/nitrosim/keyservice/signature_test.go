package keyservice_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	awskms "github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/tpm2-p11/tpm2-p11/internal/nitrosim/keyservice"
	"github.com/tpm2-p11/tpm2-p11/internal/nitrosim/simtest"
)

// random is the request that any principal may make.
func random(ctx context.Context, c *awskms.Client) error {
	_, err := c.GenerateRandom(ctx, &awskms.GenerateRandomInput{NumberOfBytes: aws.Int32(16)})
	return err
}

// bentSigner signs as AWS's client does, with something changed before or after.
type bentSigner struct {
	region, service string
	ahead           time.Duration
	after           func(*http.Request)
}

func (s bentSigner) SignHTTP(ctx context.Context, c aws.Credentials, r *http.Request, hash, service, region string, now time.Time, o ...func(*v4.SignerOptions)) error {
	if s.service != "" {
		service = s.service
	}
	if s.region != "" {
		region = s.region
	}
	err := v4.NewSigner().SignHTTP(ctx, c, r, hash, service, region, now.Add(s.ahead), o...)
	if s.after != nil {
		s.after(r)
	}
	return err
}

func withHeader(name, value string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set(name, value) }
}

func TestSignaturesThatAreNotBelieved(t *testing.T) {
	t.Parallel()
	k := simtest.StartKMS(t, keyservice.Options{})
	authorization := func(change func(string) string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set("Authorization", change(r.Header.Get("Authorization"))) }
	}
	replace := func(from, to string) func(*http.Request) {
		return authorization(func(a string) string { return strings.Replace(a, from, to, 1) })
	}
	today := time.Now().UTC().Format("20060102")
	for name, c := range map[string]struct {
		signer     bentSigner
		code, says string
	}{
		"another region's":         {bentSigner{region: "eu-west-1"}, "InvalidSignatureException", "valid region"},
		"another service's":        {bentSigner{service: "s3"}, "InvalidSignatureException", "correct service"},
		"six minutes old":          {bentSigner{ahead: -6 * time.Minute}, "InvalidSignatureException", "expired"},
		"six minutes ahead":        {bentSigner{ahead: 6 * time.Minute}, "InvalidSignatureException", "not yet current"},
		"of another day":           {bentSigner{after: replace(today, "20150830")}, "InvalidSignatureException", "Date in Credential scope"},
		"with another digit":       {bentSigner{after: authorization(flipLast)}, "InvalidSignatureException", "does not match"},
		"of another operation":     {bentSigner{after: withHeader("X-Amz-Target", "TrentService.CreateKey")}, "InvalidSignatureException", "does not match"},
		"with a header more":       {bentSigner{after: withHeader("X-Amz-Meta", "x")}, "InvalidSignatureException", "SignedHeader"},
		"of another host":          {bentSigner{after: func(r *http.Request) { r.Host = "kms.us-east-1.amazonaws.com" }}, "InvalidSignatureException", "does not match"},
		"that leaves the host out": {bentSigner{after: replace("host;", "")}, "InvalidSignatureException", "SignedHeader"},
		"that is missing":          {bentSigner{after: func(r *http.Request) { r.Header.Del("Authorization") }}, "MissingAuthenticationTokenException", ""},
		"of another kind":          {bentSigner{after: withHeader("Authorization", "Basic d2ViOnNlY3JldA==")}, "IncompleteSignatureException", "Credential"},
		"without a date":           {bentSigner{after: func(r *http.Request) { r.Header.Del("X-Amz-Date") }}, "IncompleteSignatureException", "X-Amz-Date"},
		"of a stranger":            {bentSigner{after: replace("AKIDMACHINE", "AKIDSTRANGER")}, "UnrecognizedClientException", "invalid"},
		"of somebody else":         {bentSigner{after: replace("AKIDMACHINE", "AKIDKEYS")}, "InvalidSignatureException", "does not match"},
		"with a needless one":      {bentSigner{after: withHeader("X-Amz-Security-Token", "token")}, "UnrecognizedClientException", "invalid"},
	} {
		err := random(t.Context(), k.Client(simtest.MachineRole, func(o *awskms.Options) { o.HTTPSignerV4 = c.signer }))
		if api := refused(t, name, err, c.code); !strings.Contains(api.ErrorMessage(), c.says) {
			t.Errorf("%s: it says %q", name, api.ErrorMessage())
		}
	}
	if err := random(t.Context(), k.Client(simtest.MachineRole)); err != nil {
		t.Error(err)
	}
	// Clocks need not agree to the second.
	for _, ahead := range []time.Duration{-4 * time.Minute, 4 * time.Minute} {
		if err := random(t.Context(), k.Client(simtest.MachineRole, func(o *awskms.Options) { o.HTTPSignerV4 = bentSigner{ahead: ahead} })); err != nil {
			t.Errorf("%v ahead: %v", ahead, err)
		}
	}
}

// sender sends something else than what was signed.
type sender func(*http.Request)

func (change sender) Do(r *http.Request) (*http.Response, error) {
	change(r)
	return http.DefaultClient.Do(r)
}

func TestASignatureIsOfItsBody(t *testing.T) {
	t.Parallel()
	k := simtest.StartKMS(t, keyservice.Options{})
	another := sender(func(r *http.Request) { r.Body = io.NopCloser(strings.NewReader(`{"NumberOfBytes":17}`)) })
	err := random(t.Context(), k.Client(simtest.MachineRole, func(o *awskms.Options) { o.HTTPClient = another }))
	refused(t, "another body", err, "InvalidSignatureException")
}

// flipLast changes the last hexadecimal digit of a signature.
func flipLast(a string) string {
	if last := a[len(a)-1]; last != '0' {
		return a[:len(a)-1] + "0"
	}
	return a[:len(a)-1] + "1"
}

func TestTemporaryCredentials(t *testing.T) {
	t.Parallel()
	session := keyservice.Principal{
		ARN:         "arn:aws:sts::" + simtest.Account + ":assumed-role/web/i-0123456789abcdef0",
		AccessKeyID: "ASIASESSION", SecretAccessKey: "secret", SessionToken: "token", Expiration: time.Now().Add(time.Hour),
	}
	expired := session
	expired.AccessKeyID, expired.Expiration = "ASIAEXPIRED", time.Now().Add(-time.Minute)
	k := simtest.StartKMS(t, keyservice.Options{Principals: []keyservice.Principal{session, expired}})
	if err := random(t.Context(), k.Client(session)); err != nil {
		t.Error(err)
	}
	refused(t, "expired", random(t.Context(), k.Client(expired)), "ExpiredTokenException")
	for _, token := range []string{"", "tokem", "token0"} {
		other := session
		other.SessionToken = token
		refused(t, fmt.Sprintf("token %q", token), random(t.Context(), k.Client(other)), "UnrecognizedClientException")
	}
	other := session
	other.SecretAccessKey = "another"
	refused(t, "another secret", random(t.Context(), k.Client(other)), "InvalidSignatureException")
}

func TestPrincipalsThatAreNoneAreRefused(t *testing.T) {
	t.Parallel()
	for name, list := range map[string][]keyservice.Principal{
		"a service":              {{ARN: "arn:aws:iam::111122223333:service/ec2", AccessKeyID: "a", SecretAccessKey: "b"}},
		"of no account":          {{ARN: "arn:aws:iam:::role/web", AccessKeyID: "a", SecretAccessKey: "b"}},
		"many":                   {{ARN: "arn:aws:iam::111122223333:role/*", AccessKeyID: "a", SecretAccessKey: "b"}},
		"without a key id":       {{ARN: simtest.MachineRole.ARN, SecretAccessKey: "b"}},
		"two with the same keys": {simtest.MachineRole, simtest.MachineRole},
	} {
		if _, err := keyservice.New(keyservice.Options{Region: simtest.Region, Principals: list}); err == nil {
			t.Errorf("a principal that is %s is taken", name)
		}
	}
	if _, err := keyservice.New(keyservice.Options{}); err == nil {
		t.Error("a KMS of no region is made")
	}
	if s := fmt.Sprintf("%v %+v %#v", simtest.MachineRole, simtest.MachineRole, simtest.MachineRole); strings.Contains(s, simtest.MachineRole.SecretAccessKey) {
		t.Errorf("printed, it is %s", s)
	}
}

// post sends something that AWS's client would not, signed.
func post(t *testing.T, k *simtest.KMS, method, path string, body []byte, change func(*http.Request)) (status int, answer string, header http.Header) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, k.URL+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-amz-json-1.1")
	r.Header.Set("X-Amz-Target", "TrentService.GenerateRandom")
	if change != nil {
		change(r)
	}
	sum := sha256.Sum256(body)
	c := aws.Credentials{AccessKeyID: simtest.MachineRole.AccessKeyID, SecretAccessKey: simtest.MachineRole.SecretAccessKey}
	if err := v4.NewSigner().SignHTTP(t.Context(), c, r, hex.EncodeToString(sum[:]), "kms", k.Region, time.Now()); err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	b, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(b), response.Header
}

func TestRequestsOfAnotherShape(t *testing.T) {
	t.Parallel()
	k := simtest.StartKMS(t, keyservice.Options{})
	good := []byte(`{"NumberOfBytes": 16}`)
	for name, c := range map[string]struct {
		method, path string
		body         []byte
		change       func(*http.Request)
		status       int
		code         string
	}{
		"a GET":                    {"GET", "/", good, nil, 404, "UnknownOperationException"},
		"another path":             {"POST", "/kms", good, nil, 404, "UnknownOperationException"},
		"a query":                  {"POST", "/?Action=Decrypt", good, nil, 404, "UnknownOperationException"},
		"another content type":     {"POST", "/", good, withHeader("Content-Type", "application/json"), 404, "UnknownOperationException"},
		"an unknown operation":     {"POST", "/", good, withHeader("X-Amz-Target", "TrentService.Sign"), 400, "UnknownOperationException"},
		"not JSON":                 {"POST", "/", []byte("NumberOfBytes=16"), nil, 400, "SerializationException"},
		"a string for a number":    {"POST", "/", []byte(`{"NumberOfBytes":"16"}`), nil, 400, "SerializationException"},
		"a field of the future":    {"POST", "/", []byte(`{"NumberOfBytes":16,"Quantum":true}`), nil, 400, "SerializationException"},
		"more than one request":    {"POST", "/", []byte(`{"NumberOfBytes":16}{}`), nil, 400, "SerializationException"},
		"more than any request is": {"POST", "/", bytes.Repeat([]byte(" "), 1<<20+1), nil, 413, "RequestEntityTooLargeException"},
	} {
		status, answer, header := post(t, k, c.method, c.path, c.body, c.change)
		if status != c.status || !strings.HasPrefix(answer, `{"__type":"`+c.code+`","message":`) || header.Get("Content-Type") != "application/x-amz-json-1.1" {
			t.Errorf("%s: HTTP status %d, %s", name, status, answer)
		}
	}
	status, _, first := post(t, k, "POST", "/", good, nil)
	_, _, second := post(t, k, "POST", "/", good, nil)
	if a, b := first.Get("X-Amzn-Requestid"), second.Get("X-Amzn-Requestid"); status != 200 || len(a) != 36 || a == b {
		t.Errorf("HTTP status %d, request ids %q and %q", status, a, b)
	}
}
