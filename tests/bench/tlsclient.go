package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/tpm2-p11/tpm2-p11/signer"
)

// client makes a connection of its own for each request: each takes a handshake, which no ticket shortens.
type client struct{ *http.Client }

// handshakeTimeout is how long a request may take.
const handshakeTimeout = time.Minute

func newClient(address, certificate string) (client, error) {
	text, err := os.ReadFile(certificate)
	if err != nil {
		return client{}, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return client{}, fmt.Errorf("%s: no certificate", certificate)
	}
	return client{&http.Client{Timeout: handshakeTimeout, Transport: &http.Transport{
		TLSClientConfig:   &tls.Config{RootCAs: roots, ServerName: "localhost", MinVersion: tls.VersionTLS13},
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, address)
		},
	}}}, nil
}

// handshake has one request answered.
func (c client) handshake() error {
	answer, err := c.Get("https://localhost/")
	if err != nil {
		return err
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return errors.New(answer.Status)
	}
	return nil
}

// handshakes makes n of them by several clients at once.
func handshakes(c client, clients, n int) (latencies []int64, failed []error) {
	var begun atomic.Int64
	var mu sync.Mutex
	var group sync.WaitGroup
	for range clients {
		group.Go(func() {
			for begun.Add(1) <= int64(n) {
				start := time.Now()
				err := c.handshake()
				took := time.Since(start).Nanoseconds()
				mu.Lock()
				if err != nil {
					failed = append(failed, err)
				} else {
					latencies = append(latencies, took)
				}
				mu.Unlock()
			}
		})
	}
	group.Wait()
	return latencies, failed
}

// tlsServerWorker is a server with a tls.Config.
//
//	tls-server URI CERTIFICATE ADDRESS
func tlsServerWorker(args []string) error {
	if len(args) != 3 {
		return fmt.Errorf("tls-server: %d arguments", len(args))
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	key, err := signer.Open(ctx, args[0])
	if err != nil {
		return err
	}
	defer key.Close()
	text, err := os.ReadFile(args[1])
	if err != nil {
		return err
	}
	leaf, err := parseCertificate(text)
	if err != nil {
		return err
	}
	certificate, err := key.TLSCertificate(leaf)
	if err != nil {
		return err
	}
	l, err := tls.Listen("tcp", args[2], &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS13})
	if err != nil {
		return err
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("signed by the TPM\n")) })}
	go func() {
		<-ctx.Done()
		server.Close()
	}()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func parseCertificate(text []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("no PEM")
	}
	return x509.ParseCertificate(block.Bytes)
}
