package tokens

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/tpm2-p11/tpm2-p11/config"
	"github.com/tpm2-p11/tpm2-p11/internal/trusted"
	"github.com/tpm2-p11/tpm2-p11/keystore"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// Declaration is a key that the configuration declares.
type Declaration struct {
	keystore.Declared       // its Label, if Err is set
	Err               error // why it cannot be read: its certificate, say; names the configuration's line
}

// DeclaredFor turns the declared keys of token i into what keystore takes (reads certificates).
func (s *Set) DeclaredFor(i int) []Declaration {
	var declared []Declaration
	for _, k := range s.Config.Tokens[i].Keys {
		d, err := declare(k)
		if err != nil {
			err = s.errorf(k.Line, "key %q: %w", k.Label, err)
		}
		declared = append(declared, Declaration{d, err})
	}
	return declared
}

func declare(k config.Key) (keystore.Declared, error) {
	d := keystore.Declared{Label: k.Label, Handle: provider.Handle(k.Handle), Policy: k.Policy}
	var err error
	if d.Type, err = provider.ParseKeyType(k.Type); err != nil {
		return d, err
	}
	if d.Use, err = provider.ParseUse(k.Use); err != nil {
		return d, err
	}
	if k.Certificate != "" {
		if d.Chain, err = readChain(k.Certificate); err != nil {
			return d, fmt.Errorf("certificate %s: %w", k.Certificate, err)
		}
	}
	return d, nil
}

// readChain reads a PEM file of certificates and nothing else.
func readChain(path string) ([]*x509.Certificate, error) {
	text, err := trusted.Read(path, trusted.MaxText, trusted.Rules{})
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
			return nil, fmt.Errorf("a chain holds certificates alone, not a %s", block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d of the file: %w", len(chain)+1, err)
		}
		chain = append(chain, c)
	}
	if len(chain) == 0 {
		return nil, errors.New("no certificate in PEM form is in it")
	}
	return chain, nil
}
