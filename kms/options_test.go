package kms_test

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/tpm2-p11/tpm2-p11/kms"
)

func TestPlainHTTPIsForThisMachineAndOnlyWhenAskedFor(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	plain := newFake(t, httptest.NewServer, m.authority, m.pcrs[4])
	for endpoint, allowed := range map[string]bool{
		plain.URL: true, "http://localhost:1": true, "http://[::1]:1": true, "http://127.8.9.1:1": true,
		"http://192.0.2.1": false, "http://kms.eu-central-1.amazonaws.com": false, "http://localhost.example.com": false,
		"ftp://127.0.0.1": false, "127.0.0.1:4566": false, "": true, "https://": false,
		"https://user:password@127.0.0.1": false, "https://127.0.0.1/?x": false,
	} {
		o := m.options()
		o.Endpoint, o.AllowPlainHTTP = endpoint, true
		if _, err := kms.NewService(t.Context(), o); (err == nil) != allowed || err != nil && !errors.Is(err, kms.ErrEndpoint) {
			t.Errorf("%q: %v", endpoint, err)
		}
		o.AllowPlainHTTP = false
		if _, err := kms.NewService(t.Context(), o); strings.HasPrefix(endpoint, "http:") && !errors.Is(err, kms.ErrEndpoint) {
			t.Errorf("%q without being asked for: %v", endpoint, err)
		}
	}
	c := m.client(t, recipientKey(), func(o *kms.Options) { o.Endpoint, o.AllowPlainHTTP = plain.URL, true })
	if _, err := c.GenerateRandom(t.Context(), 32); err != nil {
		t.Error(err)
	}
}

func TestAServerThatTLSDoesNotTrustGetsNothing(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	c := m.client(t, recipientKey(), func(o *kms.Options) { o.RootCAs = x509.NewCertPool() })
	if _, err := c.GenerateRandom(t.Context(), 32); !errors.Is(err, kms.ErrUnreachable) {
		t.Errorf("got %v", err)
	}
	if n := len(m.kms.seen()); n != 0 {
		t.Errorf("it saw %d requests", n)
	}
}

func TestRedirectionsAreNotFollowed(t *testing.T) {
	t.Parallel()
	m, other := newMachine(t), newMachine(t)
	for _, status := range []int{http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect} {
		m.kms.fault = func(_ int, _ question, w http.ResponseWriter) bool {
			w.Header().Set("Location", other.kms.URL)
			w.WriteHeader(status)
			return true
		}
		if _, err := m.client(t, recipientKey()).GenerateRandom(t.Context(), 32); err == nil {
			t.Errorf("status %d: an answer by redirection was taken", status)
		}
	}
	other.kms.mu.Lock()
	defer other.kms.mu.Unlock()
	if other.kms.hits != 0 {
		t.Errorf("the other server saw %d requests", other.kms.hits)
	}
}

func TestAKeyOfAnotherRegionIsNoticedBeforeItIsAskedFor(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	c := m.client(t, recipientKey())
	_, err := c.GenerateDataKey(t.Context(), kms.DataKeyRequest{KeyID: strings.Replace(keyARN, region, "us-east-1", 1), Context: context1})
	if !errors.Is(err, kms.ErrRegion) || !strings.Contains(err.Error(), "us-east-1") {
		t.Errorf("got %v", err)
	}
	if n := len(m.kms.seen()); n != 0 {
		t.Errorf("%d requests were sent", n)
	}
	for _, id := range []string{keyARN, keyARN[len(keyARN)-36:], "alias/machines"} {
		if _, err := c.GenerateDataKey(t.Context(), kms.DataKeyRequest{KeyID: id, Context: context1}); err != nil {
			t.Errorf("%s: %v", id, err)
		}
	}
}

// metadataService is an instance's, of version 2 only unless old.
func metadataService(t *testing.T, role, old bool) (url string) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		const token = "a-token"
		switch {
		case r.URL.Path == "/latest/api/token" && r.Method == http.MethodPut && !old:
			w.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "21600")
			w.Write([]byte(token))
		case r.Header.Get("X-Aws-Ec2-Metadata-Token") != token && !old:
			w.WriteHeader(http.StatusUnauthorized)
		case r.URL.Path == "/latest/dynamic/instance-identity/document":
			json.NewEncoder(w).Encode(map[string]string{"region": region})
		case r.URL.Path == "/latest/meta-data/iam/security-credentials/" && role:
			w.Write([]byte("machine-role"))
		case r.URL.Path == "/latest/meta-data/iam/security-credentials/machine-role" && role:
			json.NewEncoder(w).Encode(map[string]string{
				"Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": "ASIAROLE", "SecretAccessKey": "secret", "Token": "session",
				"LastUpdated": time.Now().UTC().Format(time.RFC3339), "Expiration": time.Now().Add(time.Hour).UTC().Format(time.RFC3339),
			})
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	t.Cleanup(server.Close)
	return server.URL
}

func TestAnInstanceWithARoleNeedsNoSettings(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	url := metadataService(t, true, false)
	for name, change := range map[string]func(*kms.Options){
		"by option":      func(o *kms.Options) { o.Metadata, o.Getenv = url, environment() },
		"by environment": func(o *kms.Options) { o.Getenv = environment("AWS_EC2_METADATA_SERVICE_ENDPOINT", url) },
	} {
		s := m.service(t, change)
		if s.Region() != region {
			t.Errorf("%s: region %q", name, s.Region())
		}
		if _, err := m.client(t, recipientKey(), change).GenerateRandom(t.Context(), 32); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWithoutRegionOrCredentialsTheErrorSaysWhatToSet(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	noRole, version1 := metadataService(t, false, false), metadataService(t, true, true)
	for _, c := range []struct {
		name   string
		change func(*kms.Options)
		want   error
		says   string
	}{
		{"nothing at all", func(o *kms.Options) { o.Getenv = environment("AWS_EC2_METADATA_DISABLED", "true") }, kms.ErrRegion, "AWS_REGION"},
		{"metadata of version 1", func(o *kms.Options) { o.Metadata, o.Getenv = version1, environment() }, kms.ErrRegion, "AWS_REGION"},
		{"an odd region", func(o *kms.Options) { o.Region = "eu-central-1.example.com/" }, kms.ErrRegion, "no name of a region"},
		{"half of the credentials", func(o *kms.Options) { o.Getenv = environment("AWS_REGION", region, "AWS_ACCESS_KEY_ID", "AKID") }, kms.ErrCredentials, "AWS_SECRET_ACCESS_KEY"},
		{"an instance without role", func(o *kms.Options) { o.Metadata, o.Getenv = noRole, environment() }, kms.ErrCredentials, "give the instance a role"},
		{"region alone", func(o *kms.Options) {
			o.Getenv = environment("AWS_DEFAULT_REGION", region, "AWS_EC2_METADATA_DISABLED", "true")
		}, kms.ErrCredentials, "AWS_ACCESS_KEY_ID"},
	} {
		o := m.options()
		c.change(&o)
		s, err := kms.NewService(t.Context(), o)
		if err == nil {
			client, err2 := kms.NewClient(s, m.document, recipientKey())
			if err2 != nil {
				t.Fatal(err2)
			}
			_, err = client.GenerateRandom(t.Context(), 32)
		}
		if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if n := len(m.kms.seen()); n != 0 {
		t.Errorf("%d requests were sent", n)
	}
}
