package kms

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/credentials/ec2rolecreds"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
)

const (
	metadataAddress  = "http://169.254.169.254"
	metadataTimeout  = 2 * time.Second // an attempt; the service is on the machine itself
	metadataAttempts = 2
)

// metadata is a client of the instance metadata service, version 2 only.
func (o Options) metadata() *imds.Client {
	endpoint := o.Metadata
	if endpoint == "" {
		endpoint = o.Getenv("AWS_EC2_METADATA_SERVICE_ENDPOINT")
	}
	if endpoint == "" {
		endpoint = metadataAddress
	}
	state := imds.ClientEnabled
	if strings.EqualFold(o.Getenv("AWS_EC2_METADATA_DISABLED"), "true") {
		state = imds.ClientDisabled
	}
	return imds.New(imds.Options{
		Endpoint:          endpoint,
		ClientEnableState: state,
		EnableFallback:    aws.FalseTernary,
		HTTPClient:        &http.Client{Timeout: metadataTimeout, Transport: &http.Transport{Proxy: nil}},
		Retryer:           retry.NewStandard(func(r *retry.StandardOptions) { r.MaxAttempts = metadataAttempts }),
	})
}

func (o Options) region(ctx context.Context, metadata *imds.Client) (string, error) {
	for _, given := range []string{o.Region, o.Getenv("AWS_REGION"), o.Getenv("AWS_DEFAULT_REGION")} {
		if given != "" {
			return given, nil
		}
	}
	answer, err := metadata.GetRegion(ctx, nil)
	if err != nil {
		return "", fmt.Errorf("%w: none is set and the instance's metadata service does not tell: set AWS_REGION: %w", ErrRegion, err)
	}
	return answer.Region, nil
}

func (o Options) credentials(metadata *imds.Client) (aws.CredentialsProvider, error) {
	if o.Credentials != nil {
		return aws.NewCredentialsCache(marked{o.Credentials}), nil
	}
	id, key := o.Getenv("AWS_ACCESS_KEY_ID"), o.Getenv("AWS_SECRET_ACCESS_KEY")
	switch {
	case id != "" && key != "":
		c := aws.Credentials{AccessKeyID: id, SecretAccessKey: key, SessionToken: o.Getenv("AWS_SESSION_TOKEN"), Source: "environment"}
		return aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) { return c, nil }), nil
	case id != "" || key != "":
		return nil, fmt.Errorf("%w: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY must be set both or not at all", ErrCredentials)
	}
	role := ec2rolecreds.New(func(r *ec2rolecreds.Options) { r.Client = metadata })
	return aws.NewCredentialsCache(marked{role}), nil
}

// marked makes the errors of a provider ErrCredentials.
type marked struct{ aws.CredentialsProvider }

func (m marked) Retrieve(ctx context.Context) (aws.Credentials, error) {
	c, err := m.CredentialsProvider.Retrieve(ctx)
	if err != nil {
		err = fmt.Errorf("%w: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the instance a role: %w", ErrCredentials, err)
	}
	return c, err
}
