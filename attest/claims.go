package attest

import (
	"crypto/x509"
	"fmt"
	"strings"
	"time"
)

// Sizes of a document's fields, in bytes.
const (
	pcrCount         = 24
	pcrSize          = 48 // SHA-384
	maxPublicKey     = 1024
	maxUserData      = 512
	maxNonce         = 512
	maxModuleID      = 128
	maxCertificate   = 1024
	minCABundle      = 2
	maxCABundle      = 8
	moduleIDTPM      = "-tpm" // what follows the instance in a NitroTPM's module_id
	digestSHA384     = "SHA384"
	fieldNitroTPM    = "nitrotpm_pcrs"
	fieldEnclavePCRs = "pcrs"
)

// Claims are what an attestation document states. From Parse alone they are
// nobody's word; from Verify they are AWS's.
type Claims struct {
	ModuleID  string    // instance and TPM: "i-0123456789abcdef0-tpm0000000000000000"
	Timestamp time.Time // to the millisecond, UTC
	Digest    string    // "SHA384"
	PCRs      [pcrCount][]byte
	// Certificate is the leaf, which signed the document; CABundle its issuers, root first.
	Certificate *x509.Certificate
	CABundle    []*x509.Certificate
	// What the caller of the TPM had put in; nil when nothing.
	PublicKey, UserData, Nonce []byte

	sign1 sign1
}

// Instance is the EC2 instance of the module id, by the document's own word.
func (d *Claims) Instance() string {
	instance, _, _ := strings.Cut(d.ModuleID, moduleIDTPM)
	return instance
}

// Parse reads a document of at most MaxSize bytes without trusting it. Errors
// are ErrMalformed or ErrKind.
func Parse(b []byte) (*Claims, error) {
	if len(b) > MaxSize {
		return nil, fmt.Errorf("%w: %d bytes are more than %d", ErrMalformed, len(b), MaxSize)
	}
	s, err := parseSign1(b)
	if err != nil {
		return nil, err
	}
	var payload map[any]any
	if err := decoder.Unmarshal(s.payload, &payload); err != nil {
		return nil, fmt.Errorf("%w: payload: %w", ErrMalformed, err)
	}
	if _, is := payload[fieldEnclavePCRs]; is {
		return nil, fmt.Errorf("%w: it has an enclave's %q", ErrKind, fieldEnclavePCRs)
	}
	if _, is := payload[fieldNitroTPM]; !is {
		return nil, fmt.Errorf("%w: it lacks %q", ErrKind, fieldNitroTPM)
	}
	f := fields{m: payload}
	d := &Claims{
		ModuleID:    f.text("module_id", maxModuleID),
		Timestamp:   f.milliseconds("timestamp"),
		Digest:      f.text("digest", len(digestSHA384)),
		PCRs:        f.pcrs(fieldNitroTPM),
		Certificate: f.certificate("certificate"),
		CABundle:    f.certificates("cabundle"),
		PublicKey:   f.optionalBytes("public_key", maxPublicKey),
		UserData:    f.optionalBytes("user_data", maxUserData),
		Nonce:       f.optionalBytes("nonce", maxNonce),
		sign1:       s,
	}
	if f.err != nil {
		return nil, f.err
	}
	if d.Digest != digestSHA384 {
		return nil, fmt.Errorf("%w: digest is %q, not %q", ErrMalformed, d.Digest, digestSHA384)
	}
	if !strings.Contains(d.ModuleID, moduleIDTPM) || strings.ContainsFunc(d.ModuleID, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, fmt.Errorf("%w: module id %q", ErrKind, d.ModuleID)
	}
	return d, nil
}

// fields reads typed fields of a payload and keeps the first error.
type fields struct {
	m   map[any]any
	err error
}

func (f *fields) fail(field, format string, args ...any) {
	if f.err == nil {
		f.err = fmt.Errorf("%w: %s: %s", ErrMalformed, field, fmt.Sprintf(format, args...))
	}
}

func (f *fields) text(field string, most int) string {
	s, _ := f.m[field].(string)
	if s == "" || len(s) > most {
		f.fail(field, "must be a text of 1 to %d bytes", most)
	}
	return s
}

func (f *fields) milliseconds(field string) time.Time {
	const year9999 = 253402300799999
	ms, _ := f.m[field].(uint64)
	if ms == 0 || ms > year9999 {
		f.fail(field, "must be a time in milliseconds")
		return time.Time{}
	}
	return time.UnixMilli(int64(ms)).UTC()
}

func (f *fields) optionalBytes(field string, most int) []byte {
	v, present := f.m[field]
	if !present || v == nil {
		return nil
	}
	b, ok := v.([]byte)
	if !ok || len(b) > most {
		f.fail(field, "must be null or at most %d bytes", most)
		return nil
	}
	return b
}

func (f *fields) pcrs(field string) (pcrs [pcrCount][]byte) {
	m, _ := f.m[field].(map[any]any)
	if len(m) != pcrCount {
		f.fail(field, "must be a map of %d PCRs", pcrCount)
		return pcrs
	}
	for i := range pcrs {
		v, _ := m[uint64(i)].([]byte)
		if len(v) != pcrSize {
			f.fail(field, "PCR%d must have %d bytes", i, pcrSize)
			return pcrs
		}
		pcrs[i] = v
	}
	return pcrs
}

func (f *fields) certificate(field string) *x509.Certificate { return f.parse(field, f.m[field]) }

func (f *fields) certificates(field string) []*x509.Certificate {
	list, _ := f.m[field].([]any)
	if len(list) < minCABundle || len(list) > maxCABundle {
		f.fail(field, "must be a list of %d to %d certificates", minCABundle, maxCABundle)
		return nil
	}
	var certificates []*x509.Certificate
	for _, v := range list {
		certificates = append(certificates, f.parse(field, v))
	}
	return certificates
}

func (f *fields) parse(field string, v any) *x509.Certificate {
	der, _ := v.([]byte)
	if len(der) == 0 || len(der) > maxCertificate {
		f.fail(field, "must be 1 to %d bytes", maxCertificate)
		return nil
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		f.fail(field, "%v", err)
	}
	return c
}
