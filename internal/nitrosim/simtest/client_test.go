package simtest

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/tpm2-p11/tpm2-p11/provider/transport"
)

// client is a connection by provider/transport, as go-tpm takes it.
type client struct {
	t    testing.TB
	conn transport.Conn
}

// connect makes a new client, which leaves at the test's end if not before.
func connect(t testing.TB, address string) *client {
	t.Helper()
	dialer, err := transport.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := dialer.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &client{t, conn}
}

func (c *client) Send(command []byte) ([]byte, error) {
	response, err := c.conn.Transmit(c.t.Context(), command)
	return bytes.Clone(response), err
}

func (c *client) leave() { c.conn.Close() }

// key is an ECDSA P-256 key of a client's.
type key struct{ tpm2.NamedHandle }

func (c *client) makeKey() key {
	c.t.Helper()
	template := tpm2.ECCSRKTemplate
	template.ObjectAttributes.Restricted = false
	template.ObjectAttributes.Decrypt = false
	template.ObjectAttributes.SignEncrypt = true
	template.ObjectAttributes.NoDA = true
	template.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: tpm2.TPMECCNistP256})
	r, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHNull, InPublic: tpm2.New2B(template)}.Execute(c)
	if err != nil {
		c.t.Fatalf("making a key: %v", err)
	}
	return key{tpm2.NamedHandle{Handle: r.ObjectHandle, Name: r.Name}}
}

// sign signs under an authorisation.
func (c *client) sign(k key, auth tpm2.Session) error {
	_, err := tpm2.Sign{
		KeyHandle: tpm2.AuthHandle{Handle: k.Handle, Name: k.Name, Auth: auth},
		Digest:    tpm2.TPM2BDigest{Buffer: make([]byte, 32)},
		InScheme: tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgECDSA,
			Details: tpm2.NewTPMUSigScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSchemeHash{HashAlg: tpm2.TPMAlgSHA256})},
		Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck},
	}.Execute(c)
	return err
}

// session starts an HMAC session, which the test ends.
func (c *client) session() (tpm2.Session, func() error) {
	c.t.Helper()
	s, end, err := tpm2.HMACSession(c, tpm2.TPMAlgSHA256, 16)
	if err != nil {
		c.t.Fatalf("starting a session: %v", err)
	}
	return s, end
}

func (c *client) handles(first tpm2.TPMHandle) []tpm2.TPMHandle {
	c.t.Helper()
	r, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: uint32(first), PropertyCount: 64}.Execute(c)
	if err != nil {
		c.t.Fatal(err)
	}
	list, err := r.CapabilityData.Data.Handles()
	if err != nil {
		c.t.Fatal(err)
	}
	return list.Handle
}

func (c *client) flush(h tpm2.TPMHandle) error {
	_, err := tpm2.FlushContext{FlushHandle: h}.Execute(c)
	return err
}

func (c *client) pcr(alg tpm2.TPMAlgID, pcr uint) []byte {
	c.t.Helper()
	r, err := tpm2.PCRRead{PCRSelectionIn: tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{
		{Hash: alg, PCRSelect: tpm2.PCClientCompatible.PCRs(pcr)},
	}}}.Execute(c)
	if err != nil {
		c.t.Fatal(err)
	}
	return r.PCRValues.Digests[0].Buffer
}

// refused fails the test unless the TPM answered with code.
func refused(t testing.TB, what string, err error, code tpm2.TPMRC) {
	t.Helper()
	var rc tpm2.TPMRC
	if !errors.As(err, &rc) || rc != code {
		t.Errorf("%s: error %v, want response code 0x%03x", what, err, uint32(code))
	}
}
