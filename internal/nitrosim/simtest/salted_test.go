package simtest

import (
	"encoding/binary"
	"testing"

	"github.com/google/go-tpm/tpm2"
)

// A salted session as a real client of NitroTPM has it, by go-tpm's own
// computation of the HMACs, while another client takes its turns.
func TestASaltedSessionAuthorisesThroughTurns(t *testing.T) {
	t.Parallel()
	sim := Start(t)
	c, other := connect(t, sim.Address()), connect(t, sim.Address())
	v := c.vault(8192, request(map[string]any{}))
	ek, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHEndorsement, InPublic: tpm2.New2B(tpm2.ECCEKTemplate)}.Execute(c)
	if err != nil {
		t.Fatal(err)
	}
	public, err := ek.OutPublic.Contents()
	if err != nil {
		t.Fatal(err)
	}
	session, _, err := tpm2.HMACSession(c, tpm2.TPMAlgSHA512, 32, tpm2.Auth(v.auth), tpm2.Salted(ek.ObjectHandle, *public))
	if err != nil {
		t.Fatal(err)
	}
	names := []tpm2.TPM2BName{{Buffer: v.name}, {Buffer: v.name}}
	for range 3 {
		other.makeKey()
		if err := session.NewNonceCaller(); err != nil {
			t.Fatal(err)
		}
		auth, err := session.Authorize(ccAttest, nil, nil, names, 0)
		if err != nil {
			t.Fatal(err)
		}
		area := tpm2.Marshal(auth)
		command := append([]byte{0x80, 0x02}, words(uint32(22+len(area)), ccAttest, uint32(nvIndex), uint32(nvIndex), uint32(len(area)))...)
		response, err := c.Send(append(command, area...))
		if err != nil {
			t.Fatal(err)
		}
		if rc := binary.BigEndian.Uint32(response[6:]); rc != 0 {
			t.Fatalf("response code 0x%03x", rc)
		}
		answer, err := tpm2.Unmarshal[tpm2.TPMSAuthResponse](response[14:])
		if err != nil {
			t.Fatal(err)
		}
		if err := session.Validate(tpm2.TPMRCSuccess, ccAttest, nil, names, 0, answer); err != nil {
			t.Errorf("the response: %v", err)
		}
		v.write([]byte{0xff}) // spoil the answer
	}
	if stats := sim.Stats(t); stats.Loads == 0 {
		t.Errorf("nobody took turns: %+v", stats)
	}
}
