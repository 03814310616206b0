//go:build nitrosim

package main

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tpm2-p11/tpm2-p11/internal/nitrosim/cms"
	"github.com/tpm2-p11/tpm2-p11/internal/nitrosim/keyservice"
)

// service are the flags of the emulated KMS.
type service struct {
	principals, form string
	keys, faults     []string

	server   *keyservice.Server
	policies map[string]string // files by the ARN of their key
}

func (s *service) flags(f *pflag.FlagSet) {
	f.StringVar(&s.principals, "principals", "", "whom the KMS knows: a JSON list with Arn, AccessKeyId, SecretAccessKey (and SessionToken, Expiration) of each")
	f.StringArrayVar(&s.keys, "key", nil, "make a KMS key with the alias NAME and a key policy: NAME=POLICY.json, or NAME for AWS's default policy; at SIGUSR1 the policies are read again")
	f.StringVar(&s.form, "cms", "constructed", "form of the KMS's closed answers: constructed or primitive")
	f.StringArrayVar(&s.faults, "fault", nil, "let the KMS fail the next requests: throttle:2, unavailable, close, truncate, wrong-key, flip, short, open; also by POST to "+keyservice.PathFaults)
}

// given tells whether a flag of the KMS was set.
func (s *service) given() bool { return s.principals != "" || len(s.keys) > 0 || len(s.faults) > 0 }

const readHeaderTimeout = 10 * time.Second

// open serves a KMS at an address, and says so in words for the ready line.
func (s *service) open(d *doors, address string, o keyservice.Options) (ready string, err error) {
	if err := checkLoopback(address); err != nil {
		return "", usageError{err}
	}
	if o.Form, err = parseForm(s.form); err != nil {
		return "", usageError{err}
	}
	if o.Principals, err = s.readPrincipals(); err != nil {
		return "", err
	}
	if s.server, err = keyservice.New(o); err != nil {
		return "", fmt.Errorf("--principals: %w", err)
	}
	keys, err := s.makeKeys()
	if err != nil {
		return "", err
	}
	for _, text := range s.faults {
		fault, n, err := keyservice.ParseFault(text)
		if err != nil {
			return "", usageError{fmt.Errorf("--fault: %w", err)}
		}
		s.server.Inject(fault, n)
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return "", err
	}
	d.serve(l, (&http.Server{
		Handler: s.server, ReadHeaderTimeout: readHeaderTimeout, ErrorLog: slog.NewLogLogger(o.Log.Handler(), slog.LevelWarn),
	}).Serve)
	again := make(chan os.Signal, 1)
	signal.Notify(again, syscall.SIGUSR1)
	go s.reread(again)
	return " kms http://" + l.Addr().String() + keys, nil
}

func (s *service) readPrincipals() ([]keyservice.Principal, error) {
	if s.principals == "" {
		return nil, usageError{errors.New("the KMS knows nobody: give --principals FILE")}
	}
	f, err := os.Open(s.principals)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	all, err := keyservice.ReadPrincipals(f)
	if err == nil && len(all) == 0 {
		err = errors.New("it names nobody")
	}
	if err != nil {
		return nil, fmt.Errorf("--principals %s: %w", s.principals, err)
	}
	return all, nil
}

// makeKeys makes the keys of --key, in the account of the first principal.
func (s *service) makeKeys() (made string, err error) {
	s.policies = map[string]string{}
	for _, text := range s.keys {
		name, file, hasPolicy := strings.Cut(text, "=")
		o := keyservice.KeyOptions{Account: s.server.Principals[0].Account(), Alias: "alias/" + strings.TrimPrefix(name, "alias/")}
		if hasPolicy {
			policy, err := os.ReadFile(file)
			if err != nil {
				return "", fmt.Errorf("--key %s: %w", name, err)
			}
			o.Policy = string(policy)
		}
		arn, err := s.server.CreateKey(o)
		if err != nil {
			return "", fmt.Errorf("--key %s: %w", name, err)
		}
		if hasPolicy {
			s.policies[arn] = file
		}
		made += " " + o.Alias + "=" + arn
	}
	return made, nil
}

// reread reads the key policies at each signal. One that cannot be read leaves
// its key as it was.
func (s *service) reread(again <-chan os.Signal) {
	for range again {
		for arn, file := range s.policies {
			policy, err := os.ReadFile(file)
			if err == nil {
				err = s.server.SetPolicy(arn, string(policy))
			}
			if err != nil {
				s.server.Log.Error("key policy stays as it was", "file", file, "key", arn, "error", err)
				continue
			}
			s.server.Log.Info("key policy", "file", file, "key", arn)
		}
	}
}

func parseForm(name string) (cms.Form, error) {
	switch name {
	case "constructed":
		return cms.Constructed, nil
	case "primitive":
		return cms.Primitive, nil
	}
	return 0, fmt.Errorf("--cms %q is neither constructed nor primitive", name)
}

// checkLoopback refuses addresses that other machines reach: requests and
// answers are not encrypted.
func checkLoopback(address string) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("address of the KMS: %w", err)
	}
	ip, err := netip.ParseAddr(host)
	if host != "localhost" && (err != nil || !ip.IsLoopback()) {
		return fmt.Errorf("the KMS serves plain http to this machine only: %q is not like 127.0.0.1:4599", address)
	}
	return nil
}

func kmsCommand() *cobra.Command {
	var s service
	var listen, root, region, start string
	c := &cobra.Command{
		Use:   "kms",
		Short: "Serve a KMS that trusts an emulator's attestation documents",
		Long: `nitro-sim kms emulates AWS KMS for attested machines: it checks the signatures
of requests, decides by key policies whose conditions may ask for PCRs, and
closes its answers for the public key in a request's attestation document. It
speaks plain http on this machine. Keys are in memory.`,
		Example: `  nitro-sim --socket /tmp/tpm --root-out root.pem &
  nitro-sim kms --listen 127.0.0.1:4599 --root root.pem --principals principals.json --key web=policy.json`,
		Args: arguments(0),
		RunE: func(*cobra.Command, []string) error {
			if listen == "" || root == "" {
				return usageError{errors.New("give --listen ADDRESS:PORT and --root FILE")}
			}
			roots, err := readCertificates(root)
			if err != nil {
				return fmt.Errorf("--root: %w", err)
			}
			now, err := clock(start)
			if err != nil {
				return usageError{err}
			}
			var d doors
			defer d.close()
			stop := make(chan os.Signal, 1)
			signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
			ready, err := s.open(&d, listen, keyservice.Options{
				Region: region, Roots: roots, Now: now, Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
			})
			if err != nil {
				return err
			}
			fmt.Println("nitro-sim ready:" + ready)
			select {
			case <-stop:
				return nil
			case err := <-d.failed:
				return err
			}
		},
	}
	f := c.Flags()
	f.StringVar(&listen, "listen", "", "serve at ADDRESS:PORT of this machine, over plain http; port 0 is any")
	f.StringVar(&root, "root", "", "root certificates of attestation documents (PEM), as --root-out of the TPM writes them")
	f.StringVar(&region, "region", defaultRegion, "AWS region")
	f.StringVar(&start, "time", "", "start the clock that documents are compared with at TIME (RFC 3339)")
	s.flags(f)
	return c
}

func readCertificates(path string) ([]*x509.Certificate, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var all []*x509.Certificate
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		all = append(all, certificate)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s has no certificate", path)
	}
	return all, nil
}
