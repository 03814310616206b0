package predict

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/tpm2-p11/tpm2-p11/policy/predict/esl"
	"github.com/tpm2-p11/tpm2-p11/policy/predict/pe"
)

// Variables are the contents of the UEFI variables of secure boot, as esl.Variable gives them; empty for those that are not set.
type Variables struct{ PK, KEK, DB, DBX []byte }

// Enabled tells whether secure boot is on.
func (v Variables) Enabled() bool { return len(v.PK) > 0 }

var (
	globalVariable   = esl.GUID{0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c}
	securityDatabase = esl.GUID{0xcb, 0xb2, 0x19, 0xd7, 0x3a, 0x3d, 0x96, 0x45, 0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f}
)

// policy is PCR 7.
func (b Boot) policy(l *log) error {
	on := byte(0)
	if b.SecureBoot.Enabled() {
		on = 1
	}
	for _, v := range []struct {
		vendor   esl.GUID
		name     string
		contents []byte
	}{
		{globalVariable, "SecureBoot", []byte{on}},
		{globalVariable, "PK", b.SecureBoot.PK},
		{globalVariable, "KEK", b.SecureBoot.KEK},
		{securityDatabase, "db", b.SecureBoot.DB},
		{securityDatabase, "dbx", b.SecureBoot.DBX},
	} {
		l.variable("EV_EFI_VARIABLE_DRIVER_CONFIG", v.vendor, v.name, v.contents, v.name)
	}
	l.separator(PCRSecureBoot)
	if on == 0 {
		return nil
	}
	return b.authorities(l)
}

// variable is a measurement of UEFI_VARIABLE_DATA.
func (l *log) variable(kind string, vendor esl.GUID, name string, contents []byte, what string) {
	lengths := binary.LittleEndian.AppendUint64(nil, uint64(len(name)))
	lengths = binary.LittleEndian.AppendUint64(lengths, uint64(len(contents)))
	l.measure(PCRSecureBoot, kind, what, vendor[:], lengths, utf16le(name), contents)
}

// authorities are the entries of db that let the images start, each once.
func (b Boot) authorities(l *log) error {
	db, err := esl.Parse(b.SecureBoot.DB)
	if err != nil {
		return fmt.Errorf("db: %w", err)
	}
	dbx, err := esl.Parse(b.SecureBoot.DBX)
	if err != nil {
		return fmt.Errorf("dbx: %w", err)
	}
	var measured [][]byte
	for n, image := range append(slices.Clone(b.Loaders), b.Image) {
		entry, err := authority(image, db, dbx)
		if err != nil {
			if n < len(b.Loaders) {
				err = fmt.Errorf("loader %d: %w", n+1, err)
			}
			return err
		}
		data := entry.Bytes()
		if slices.ContainsFunc(measured, func(m []byte) bool { return bytes.Equal(m, data) }) {
			continue
		}
		measured = append(measured, data)
		l.variable("EV_EFI_VARIABLE_AUTHORITY", securityDatabase, "db", data, "the entry of db that lets the image start: "+describe(entry))
	}
	return nil
}

func describe(e esl.Entry) string {
	if e.Type == esl.X509 {
		if c, err := x509.ParseCertificate(e.Data); err == nil {
			return c.Subject.String()
		}
	}
	return "a hash"
}

// authority is the entry of db by which firmware starts an image, in the order in which EDK II looks: the first certificate that
// verifies the first signature, else the image's hash, else certificates for the next signature.
func authority(image *pe.Image, db, dbx []esl.Entry) (esl.Entry, error) {
	if _, denied := findHash(image, dbx); denied {
		return esl.Entry{}, fmt.Errorf("%w: its hash is in dbx", ErrNotStarted)
	}
	signatures, err := image.Signatures()
	if err != nil {
		return esl.Entry{}, fmt.Errorf("%w: %w", ErrNotStarted, err)
	}
	for _, s := range signatures {
		if err := denied(s, dbx); err != nil {
			return esl.Entry{}, err
		}
	}
	hash, listed := findHash(image, db)
	for _, s := range signatures {
		for _, entry := range db {
			if entry.Type != esl.X509 {
				continue
			}
			anchor, err := x509.ParseCertificate(entry.Data)
			if err != nil {
				return esl.Entry{}, fmt.Errorf("%w: a certificate in db: %w", ErrUnpredictable, err)
			}
			if s.VerifiedBy(anchor) {
				return entry, nil
			}
		}
		if listed {
			break // before the next signature is looked at
		}
	}
	if listed {
		return hash, nil
	}
	if len(signatures) == 0 {
		return esl.Entry{}, fmt.Errorf("%w: it is not signed, and its hash is not in db", ErrNotStarted)
	}
	return esl.Entry{}, fmt.Errorf("%w: no certificate in db verifies its signature by %s", ErrNotStarted, signatures[0].Signer.Subject)
}

// findHash finds an image's hash in a database.
func findHash(image *pe.Image, database []esl.Entry) (esl.Entry, bool) {
	digests := map[esl.GUID][]byte{}
	for _, e := range database {
		h := map[esl.GUID]crypto.Hash{esl.SHA256: crypto.SHA256, esl.SHA384: crypto.SHA384, esl.SHA512: crypto.SHA512}[e.Type]
		if h == 0 {
			continue
		}
		if digests[e.Type] == nil {
			digests[e.Type] = image.Digest(h)
		}
		if bytes.Equal(digests[e.Type], e.Data) {
			return e, true
		}
	}
	return esl.Entry{}, false
}

// denied tells whether dbx holds a certificate that a signature comes from.
func denied(s *pe.Signature, dbx []esl.Entry) error {
	forbidden := func(c *x509.Certificate) error {
		return fmt.Errorf("%w: the certificate %s is in dbx", ErrNotStarted, c.Subject)
	}
	for _, e := range dbx {
		switch e.Type {
		case esl.X509:
			c, err := x509.ParseCertificate(e.Data)
			if err != nil {
				return fmt.Errorf("%w: a certificate in dbx: %w", ErrUnpredictable, err)
			}
			if s.VerifiedBy(c) {
				return forbidden(c)
			}
		case esl.X509SHA256, esl.X509SHA384, esl.X509SHA512:
			h := map[esl.GUID]crypto.Hash{esl.X509SHA256: crypto.SHA256, esl.X509SHA384: crypto.SHA384, esl.X509SHA512: crypto.SHA512}[e.Type]
			for _, c := range s.Certificates {
				sum := h.New()
				sum.Write(c.RawTBSCertificate)
				if bytes.HasPrefix(e.Data, sum.Sum(nil)) { // the time of revocation follows
					return forbidden(c)
				}
			}
		}
	}
	return nil
}
