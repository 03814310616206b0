package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"

	"github.com/tpm2-p11/tpm2-p11/attest"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// enter proves to the service that the TLS client's key is one of this machine.
func enter(ctx context.Context, client *http.Client, url string, tpm *provider.TPM, certificate *x509.Certificate) error {
	nonce, err := fetch(ctx, client, http.MethodGet, url+"/challenge", nil)
	if err != nil {
		return err
	}
	document, err := attest.Document(ctx, tpm, attest.Request{Nonce: nonce, PublicKey: certificate.RawSubjectPublicKeyInfo})
	if err != nil {
		return err
	}
	_, err = fetch(ctx, client, http.MethodPost, url+"/attest", document)
	return err
}

// fetch does a request and gives the answer's body.
func fetch(ctx context.Context, client *http.Client, method, url string, body []byte) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s %s: %s: %s", method, url, response.Status, bytes.TrimSpace(answer))
	}
	return answer, err
}
