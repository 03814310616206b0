package config

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"time"

	"github.com/tpm2-p11/tpm2-p11/policy"
)

// KMS is the [kms] table: how secrets are asked of AWS KMS. All of it may be empty.
type KMS struct {
	KeyID       string            // id, ARN or alias of the KMS key
	Region      string            // "" for the environment's or the instance's
	Endpoint    string            // a URL in place of AWS's own; CheckEndpoint accepts it
	PlainHTTP   bool              // Endpoint may be http, to this machine
	Context     map[string]string // encryption context of every request that can have one
	Recipient   string            // label or URI of the RSA key that answers are closed for, "" for a new one each time
	Timeout     time.Duration     // of a request with all its attempts, 0 for package kms's own
	Attempts    int               // 0 for package kms's own
	CacheFor    time.Duration     // how long a plaintext is kept, 0 for not at all
	Offline     KMSOffline        // copies of plaintexts for when KMS is out of reach; zero for none
	Extractable bool              // unwrapped secrets may leave the module where their template says so too
	Line        int               // where it is declared, 0 without [kms]
}

// KMSOffline is the table [kms.offline]. All of it is needed.
type KMSOffline struct {
	Dir  string        // absolute path of the folder of the copies
	PCRs policy.PCR    // whose values of when a copy is made it opens with
	For  time.Duration // of the TPM's running time
}

// IsZero tells that no copies are kept.
func (o KMSOffline) IsZero() bool { return o.Dir == "" }

// Bounds of KMS's members.
const (
	MaxKMSTimeout  = 10 * time.Minute
	MaxKMSAttempts = 10
	MaxKMSCache    = 24 * time.Hour
	MaxKMSOffline  = 366 * 24 * time.Hour
	// MaxKMSContext bounds the names and values of an encryption context together, in bytes: KMS's own limit.
	MaxKMSContext = 8192
)

func readKMS(v value, to *KMS) error {
	t, err := v.table("kms")
	if err != nil {
		return err
	}
	k := KMS{Line: t.line()}
	err = t.read(fields{
		"key_id":      func(v value) error { return v.text(&k.KeyID) },
		"region":      func(v value) error { return v.text(&k.Region) },
		"endpoint":    func(v value) error { return v.text(&k.Endpoint) },
		"plain_http":  func(v value) error { return v.boolean(&k.PlainHTTP) },
		"context":     func(v value) error { return v.encryptionContext(&k.Context) },
		"recipient":   func(v value) error { return v.text(&k.Recipient) },
		"timeout":     func(v value) error { return v.duration(&k.Timeout, MaxKMSTimeout) },
		"attempts":    func(v value) error { return v.number(&k.Attempts, 1, MaxKMSAttempts) },
		"cache_for":   func(v value) error { return v.duration(&k.CacheFor, MaxKMSCache) },
		"offline":     func(v value) error { return readKMSOffline(v, &k.Offline) },
		"extractable": func(v value) error { return v.boolean(&k.Extractable) },
	})
	if err != nil {
		return err
	}
	// Whether http is allowed is known only now.
	if endpoint, given := t.member("endpoint"); given {
		if _, err := CheckEndpoint(k.Endpoint, k.PlainHTTP); err != nil {
			return endpoint.errorf("endpoint %w", err)
		}
	}
	*to = k
	return nil
}

func readKMSOffline(v value, to *KMSOffline) error {
	t, err := v.table("kms.offline")
	if err != nil {
		return err
	}
	var o KMSOffline
	err = t.read(fields{
		"dir":  func(v value) error { return v.path(&o.Dir) },
		"pcrs": func(v value) error { return v.pcrs(&o.PCRs) },
		"for":  func(v value) error { return v.duration(&o.For, MaxKMSOffline) },
	})
	if err != nil {
		return err
	}
	for _, name := range []string{"dir", "pcrs", "for"} {
		if _, given := t.member(name); !given {
			return t.errorf("[kms.offline] needs %s", name)
		}
	}
	*to = o
	return nil
}

// pcrs reads a selection such as "sha384:4,7".
func (v value) pcrs(to *policy.PCR) error {
	var text string
	if err := v.text(&text); err != nil {
		return err
	}
	pcrs, err := policy.ParsePCR(text)
	if err != nil {
		return v.errorf("%s: %w", v.name, err)
	}
	*to = pcrs
	return nil
}

func (v value) encryptionContext(to *map[string]string) error {
	t, err := v.table("kms.context")
	if err != nil {
		return err
	}
	pairs, size := make(map[string]string), 0
	for _, name := range slices.Sorted(maps.Keys(t.members)) {
		member, _ := t.member(name)
		var text string
		if err := member.text(&text); err != nil {
			return err
		}
		if name == "" {
			return member.errorf("a name in %s is empty", v.name)
		}
		pairs[name] = text
		size += len(name) + len(text)
	}
	if size > MaxKMSContext {
		return v.errorf("%s has %d bytes, and KMS takes %d", v.name, size, MaxKMSContext)
	}
	*to = pairs
	return nil
}

// CheckEndpoint tells whether requests with secrets may go to a URL: to any host by https, and by http to this machine where
// plain says so. local tells the latter, so that a name that leads elsewhere can be refused when connecting.
func CheckEndpoint(endpoint string, plain bool) (local bool, err error) {
	u, err := url.Parse(endpoint)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return false, fmt.Errorf("%q is not a URL like https://host", endpoint)
	case u.Scheme == "https":
		return false, nil
	case u.Scheme != "http":
		err = errors.New("https is required")
	case !plain:
		err = errors.New("https is required, and plain http must be asked for, to this machine only")
	case !isLoopback(u.Hostname()):
		err = errors.New("plain http is for this machine only (127.0.0.1, [::1], localhost)")
	default:
		return true, nil
	}
	return false, fmt.Errorf("%q: %w", endpoint, err)
}

func isLoopback(host string) bool {
	address, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && address.IsLoopback()
}
