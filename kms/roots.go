package kms

import (
	"cmp"
	"crypto/x509"
	"os"
	"path/filepath"
)

// Where systems keep the certificates that they trust, as Go looks for them: in the first file that can be read, and in all folders.
var (
	rootFiles = []string{
		"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem", "/etc/pki/tls/cacert.pem",
		"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", "/etc/ssl/cert.pem",
	}
	rootDirs = "/etc/ssl/certs:/etc/pki/tls/certs"
)

// roots are the certificates that a server is trusted by, nil for those that Go finds itself. It goes by the environment: where that
// is not listened to (AT_SECURE), or was overwritten since, they are read here.
func (o Options) roots() *x509.CertPool {
	file, dirs := o.Getenv("SSL_CERT_FILE"), o.Getenv("SSL_CERT_DIR")
	if o.RootCAs != nil || file == os.Getenv("SSL_CERT_FILE") && dirs == os.Getenv("SSL_CERT_DIR") {
		return o.RootCAs
	}
	files := rootFiles
	if file != "" {
		files = []string{file}
	}
	pool := x509.NewCertPool()
	trust := func(path string) bool {
		text, err := os.ReadFile(path)
		if err == nil {
			pool.AppendCertsFromPEM(text)
		}
		return err == nil
	}
	for _, path := range files {
		if trust(path) {
			break
		}
	}
	for _, dir := range filepath.SplitList(cmp.Or(dirs, rootDirs)) {
		found, _ := filepath.Glob(filepath.Join(dir, "*"))
		for _, path := range found {
			trust(path)
		}
	}
	return pool
}
