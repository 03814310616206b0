package kms

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"

	"github.com/tpm2-p11/tpm2-p11/config"
)

const (
	maxAnswer      = 256 << 10 // bytes of an HTTP answer; a closed one has at most some 90,000
	connectTimeout = 5 * time.Second
	idleTimeout    = 30 * time.Second
)

// httpClient bounds what it reads and follows no redirection.
type httpClient struct{ client *http.Client }

// newHTTPClient checks the endpoint: https, or http to this machine where that is allowed.
func (o Options) newHTTPClient() (*httpClient, error) {
	dialer := &net.Dialer{Timeout: connectTimeout}
	transport := &http.Transport{
		DialContext:         dialer.DialContext,
		TLSClientConfig:     &tls.Config{RootCAs: o.roots(), MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout: connectTimeout,
		IdleConnTimeout:     idleTimeout,
		ForceAttemptHTTP2:   true,
	}
	if o.Endpoint != "" {
		local, err := config.CheckEndpoint(o.Endpoint, o.AllowPlainHTTP)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrEndpoint, err)
		}
		if local {
			dialer.Control = loopbackOnly
		}
	}
	if dialer.Control == nil && (o.Getenv("HTTPS_PROXY") != "" || o.Getenv("https_proxy") != "") {
		transport.Proxy = http.ProxyFromEnvironment
	}
	return &httpClient{&http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// Do implements the SDK's HTTPClient.
func (c *httpClient) Do(r *http.Request) (*http.Response, error) {
	response, err := c.client.Do(r)
	if err == nil {
		response.Body = bounded{io.LimitReader(response.Body, maxAnswer), response.Body}
	}
	return response, err
}

// bounded ends an answer early rather than read without end.
type bounded struct {
	io.Reader
	io.Closer
}

// loopbackOnly is a net.Dialer's Control, for names that resolve to somewhere else.
func loopbackOnly(_, address string, _ syscall.RawConn) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil || !to.Addr().IsLoopback() {
		return fmt.Errorf("%w: %s is not this machine", ErrEndpoint, address)
	}
	return nil
}
