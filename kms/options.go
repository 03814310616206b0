package kms

import (
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"regexp"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/tpm2-p11/tpm2-p11/config"
)

// Defaults of Options.
const (
	DefaultTimeout    = 30 * time.Second
	DefaultAttempts   = 4
	DefaultMaxBackoff = 5 * time.Second
)

// Options say where KMS is and who asks. The zero value is what an EC2 instance
// with a role needs.
type Options struct {
	// Region, if empty, comes from AWS_REGION, AWS_DEFAULT_REGION or the
	// instance's metadata service (IMDSv2).
	Region string
	// Endpoint is a URL in place of AWS's own for the region: a VPC endpoint, or an emulator.
	Endpoint string
	// AllowPlainHTTP permits an Endpoint with http, on this machine only.
	AllowPlainHTTP bool
	// Credentials, if nil, come from AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY
	// and AWS_SESSION_TOKEN, or are the instance role's by IMDSv2. Profiles and
	// other sources are not read.
	Credentials aws.CredentialsProvider
	// RootCAs, if not nil, are trusted for the endpoint in place of the system's, which SSL_CERT_FILE and SSL_CERT_DIR replace.
	RootCAs *x509.CertPool
	// Timeout bounds a request with all its attempts, Attempts their number,
	// MaxBackoff the pause between two. Zero stands for the defaults.
	Timeout    time.Duration
	Attempts   int
	MaxBackoff time.Duration
	// Metadata is the metadata service's URL; if empty, AWS_EC2_METADATA_SERVICE_ENDPOINT or the usual address.
	Metadata string
	// Getenv, if nil, is config.Getenv: the environment, which a process with AT_SECURE does not listen to.
	Getenv func(string) string
	// Log gets warnings, and for debugging a line for each request; nil for none.
	// Neither secrets nor the values of encryption contexts are logged.
	Log *slog.Logger
}

var regionName = regexp.MustCompile(`^[a-z0-9-]{1,64}$`)

// complete fills in what is not given, from the environment and the metadata service.
func (o Options) complete(ctx context.Context) (Options, error) {
	if o.Getenv == nil {
		o.Getenv = config.Getenv
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	if o.Attempts == 0 {
		o.Attempts = DefaultAttempts
	}
	if o.MaxBackoff == 0 {
		o.MaxBackoff = DefaultMaxBackoff
	}
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	metadata := o.metadata()
	var err error
	if o.Region, err = o.region(ctx, metadata); err != nil {
		return o, err
	}
	if !regionName.MatchString(o.Region) {
		return o, fmt.Errorf("%w: %q is no name of a region", ErrRegion, o.Region)
	}
	o.Credentials, err = o.credentials(metadata)
	return o, err
}
