package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"regexp"
	"time"

	"github.com/spf13/cobra"

	"github.com/tpm2-p11/tpm2-p11/signer"
)

// certifyFlags say whom a certificate or a request is for.
type certifyFlags struct {
	pin     pinSource
	subject string
	dns     []string
	ips     []net.IP
	out     string
}

func (f *certifyFlags) register(c *cobra.Command) {
	c.Flags().StringVar(&f.subject, "subject", "", "`NAME` as CN=www.example.com,O=Example")
	c.Flags().StringSliceVar(&f.dns, "dns", nil, "DNS `NAME` of the server; may be repeated")
	c.Flags().IPSliceVar(&f.ips, "ip", nil, "IP `ADDRESS` of the server; may be repeated")
	c.Flags().StringVarP(&f.out, "out", "o", "", "output `FILE`")
	pinFlag(c, &f.pin)
}

func (f *certifyFlags) name() (pkix.Name, error) {
	if f.subject == "" {
		return pkix.Name{}, usagef("--subject is missing")
	}
	name, err := parseSubject(f.subject)
	if err != nil {
		return name, usagef("--subject %s: %w", f.subject, err)
	}
	return name, nil
}

var dnsName = regexp.MustCompile(`^(\*\.)?([a-zA-Z0-9_]([a-zA-Z0-9_-]{0,61}[a-zA-Z0-9_])?\.)*[a-zA-Z0-9_]([a-zA-Z0-9_-]{0,61}[a-zA-Z0-9_])?$`)

// checkDNS refuses what no client takes for the name of a server.
func checkDNS(names []string) error {
	const longest = 253 // RFC 1035, section 2.3.4, as text
	for _, name := range names {
		switch {
		case net.ParseIP(name) != nil:
			return withHint(usagef("--dns %s: it is an IP address", name), "give addresses by --ip")
		case len(name) > longest || !dnsName.MatchString(name):
			return withHint(usagef("--dns %q: it is not a DNS name", name), "names are like www.example.com or *.example.com, others in their xn-- form")
		}
	}
	return nil
}

func keyCSRCommand(a *app) *cobra.Command {
	var f certifyFlags
	c := &cobra.Command{
		Use:     "csr KEY",
		Short:   "Make a certificate signing request",
		Example: `  tpm2-p11 key csr web --subject CN=www.example.com,O=Example --dns www.example.com --out web.csr`,
		Args:    exactly("KEY"), ValidArgsFunction: a.completeKeys,
		RunE: a.verb(func(ctx context.Context, args []string) error {
			subject, err := f.name()
			if err != nil {
				return err
			}
			if err := checkDNS(f.dns); err != nil {
				return err
			}
			k, err := a.find(args[0])
			if err != nil {
				return err
			}
			k.pin = k.pinOf(f.pin)
			var der []byte
			err = a.use(ctx, k, func(key *signer.Key) error {
				request := x509.CertificateRequest{Subject: subject, DNSNames: f.dns, IPAddresses: f.ips}
				der, err = x509.CreateCertificateRequest(rand.Reader, &request, contextSigner{ctx, key})
				return err
			})
			if err != nil {
				return err
			}
			text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
			return a.deliver(map[string]any{"csr": string(text)}, f.out, text, 0o644)
		}),
	}
	f.register(c)
	return c
}

func keySelfSignCommand(a *app) *cobra.Command {
	var f certifyFlags
	var days int
	c := &cobra.Command{
		Use:   "self-sign KEY",
		Short: "Make a self-signed certificate and store it with the key",
		Example: `  tpm2-p11 key self-sign web --subject CN=localhost --dns localhost
  tpm2-p11 key self-sign web --subject CN=localhost --ip 127.0.0.1 --days 30 --out web.crt`,
		Args: exactly("KEY"), ValidArgsFunction: a.completeKeys,
		RunE: a.verb(func(ctx context.Context, args []string) error {
			subject, err := f.name()
			if err != nil {
				return err
			}
			if err := checkDNS(f.dns); err != nil {
				return err
			}
			if days < 1 || days > 36500 {
				return usagef("--days %d: from 1 to 36500", days)
			}
			k, err := a.find(args[0])
			if err != nil {
				return err
			}
			k.pin = k.pinOf(f.pin)
			var der []byte
			err = a.use(ctx, k, func(key *signer.Key) error {
				template, err := serverTemplate(key.Public(), k.entry.Object.Public.Attributes().Decrypt)
				if err != nil {
					return err
				}
				template.Subject, template.DNSNames, template.IPAddresses = subject, f.dns, f.ips
				template.NotAfter = template.NotBefore.AddDate(0, 0, days)
				der, err = x509.CreateCertificate(rand.Reader, template, template, key.Public(), contextSigner{ctx, key})
				return err
			})
			if err != nil {
				return err
			}
			certificate, err := x509.ParseCertificate(der)
			if err != nil {
				return err
			}
			if _, err := k.token.SetCertificates(k.entry, []*x509.Certificate{certificate}); err != nil {
				return err
			}
			text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
			return a.deliver(map[string]any{"certificate": string(text)}, f.out, text, 0o644)
		}),
	}
	f.register(c)
	c.Flags().IntVar(&days, "days", 365, "how many `DAYS` the certificate is valid")
	return c
}

// serverTemplate is a certificate for a TLS server or client, valid from now on.
func serverTemplate(public crypto.PublicKey, decrypts bool) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	usage := x509.KeyUsageDigitalSignature
	if _, isRSA := public.(*rsa.PublicKey); isRSA && decrypts {
		usage |= x509.KeyUsageKeyEncipherment
	}
	return &x509.Certificate{
		SerialNumber:          serial.Add(serial, big.NewInt(1)),
		NotBefore:             time.Now().UTC().Truncate(time.Second),
		KeyUsage:              usage,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}, nil
}

// contextSigner lets crypto/x509, which knows no contexts, be interrupted.
type contextSigner struct {
	ctx context.Context
	key *signer.Key
}

func (s contextSigner) Public() crypto.PublicKey { return s.key.Public() }

func (s contextSigner) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return s.key.SignContext(s.ctx, digest, opts)
}

// readChain reads a PEM certificate chain.
func (a *app) readChain(path string) ([]*x509.Certificate, error) {
	text, err := a.read("FILE", path, maxInput)
	if err != nil {
		return nil, err
	}
	var chain []*x509.Certificate
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: certificate %d: %w", inputName(path), len(chain)+1, err)
		}
		chain = append(chain, c)
	}
	if len(chain) == 0 {
		return nil, withHint(fmt.Errorf("%s: no certificate in PEM form", inputName(path)), "it begins with -----BEGIN CERTIFICATE-----; `openssl x509 -inform der` makes it of DER")
	}
	return chain, nil
}

// readPublic reads a public key from a PEM or DER file, of a key or of a certificate.
func (a *app) readPublic(flag, path string) (crypto.PublicKey, error) {
	data, err := a.read(flag, path, maxInput)
	if err != nil {
		return nil, err
	}
	if block, _ := pem.Decode(data); block != nil {
		data = block.Bytes
	}
	var key any
	if c, err := x509.ParseCertificate(data); err == nil {
		key = c.PublicKey
	} else if key, err = x509.ParsePKIXPublicKey(data); err != nil {
		return nil, fmt.Errorf("%s: neither a public key nor a certificate in PEM or DER form", inputName(path))
	}
	switch key.(type) {
	case *rsa.PublicKey, *ecdsa.PublicKey:
		return key, nil
	}
	return nil, fmt.Errorf("%s: a key of type %T, only RSA and ECDSA are known", inputName(path), key)
}
