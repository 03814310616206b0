package main

import (
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/tpm2-p11/tpm2-p11/attest"
)

// admission is how long a peer is let in before it must prove itself again.
const admission = time.Hour

// serverTLS wants a certificate of every client, whoever issued it: the
// document says whose key it is.
func serverTLS(own tls.Certificate) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{own}, ClientAuth: tls.RequireAnyClientCert, MinVersion: tls.VersionTLS13}
}

// door lets in whose key was attested.
type door struct {
	http.Handler
	verifier *attest.Verifier

	mu       sync.Mutex
	admitted map[[sha256.Size]byte]time.Time // until when, by the hash of a key
}

func newDoor(v *attest.Verifier) *door {
	mux := http.NewServeMux()
	d := &door{Handler: mux, verifier: v, admitted: make(map[[sha256.Size]byte]time.Time)}
	mux.HandleFunc("GET /challenge", d.challenge)
	mux.HandleFunc("POST /attest", d.attest)
	mux.HandleFunc("GET /{$}", d.hello)
	return d
}

// peerKey is the key that the peer has proved to have, by TLS.
func peerKey(r *http.Request) []byte { return r.TLS.PeerCertificates[0].RawSubjectPublicKeyInfo }

func (d *door) challenge(w http.ResponseWriter, _ *http.Request) { w.Write(d.verifier.Challenge()) }

func (d *door) attest(w http.ResponseWriter, r *http.Request) {
	document, err := io.ReadAll(http.MaxBytesReader(w, r.Body, attest.MaxSize))
	if err != nil {
		http.Error(w, "the document cannot be read", http.StatusBadRequest)
		return
	}
	claims, err := d.verifier.Verify(document, peerKey(r))
	if err != nil {
		http.Error(w, err.Error(), http.StatusForbidden)
		return
	}
	d.admit(sha256.Sum256(claims.PublicKey))
	fmt.Fprintf(w, "welcome, %s\n", claims.Instance())
}

func (d *door) admit(key [sha256.Size]byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	for k, until := range d.admitted {
		if now.After(until) {
			delete(d.admitted, k)
		}
	}
	d.admitted[key] = now.Add(admission)
}

func (d *door) hello(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	until := d.admitted[sha256.Sum256(peerKey(r))]
	d.mu.Unlock()
	if time.Now().After(until) {
		http.Error(w, "not attested: GET /challenge, then POST /attest", http.StatusForbidden)
		return
	}
	fmt.Fprintln(w, "hello to a machine of the approved image")
}
