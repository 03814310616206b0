package kms

import (
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
)

// A process with more rights than its caller trusts no server that the caller names by the environment, and any process goes by what
// its environment said at first.
func TestWhichServersAreTrustedWithoutTheEnvironment(t *testing.T) {
	server := httptest.NewTLSServer(http.NotFoundHandler())
	defer server.Close()
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	dir := t.TempDir()
	file := filepath.Join(dir, "ca.crt")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	trusted := func(variables map[string]string) bool {
		t.Helper()
		c, err := Options{Getenv: environmentOf(variables), Endpoint: server.URL}.newHTTPClient()
		if err != nil {
			t.Fatal(err)
		}
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := c.Do(r)
		if err == nil {
			response.Body.Close()
		}
		return err == nil
	}
	t.Setenv("SSL_CERT_FILE", file)
	t.Setenv("SSL_CERT_DIR", dir)
	if trusted(nil) {
		t.Error("the caller's server is trusted")
	}
	t.Setenv("SSL_CERT_FILE", "overwritten")
	t.Setenv("SSL_CERT_DIR", "overwritten")
	for _, atFirst := range []map[string]string{{"SSL_CERT_FILE": file, "SSL_CERT_DIR": "/nowhere"}, {"SSL_CERT_FILE": "/nowhere", "SSL_CERT_DIR": dir}} {
		if !trusted(atFirst) {
			t.Errorf("not by %v", atFirst)
		}
	}
	defer func(files []string) { rootFiles = files }(rootFiles)
	rootFiles = []string{"/nowhere", file}
	if !trusted(nil) {
		t.Error("the system's certificates are not")
	}
	other := filepath.Join(t.TempDir(), "other.crt")
	if err := os.WriteFile(other, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	rootFiles = []string{other, file}
	if trusted(nil) {
		t.Error("what Go would not read, as there is a file before it, is trusted")
	}
}
