package provider

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/provider/transport"
)

// A secret parameter is encrypted, or the command is not sent.
func TestASecretParameterNeverGoesInTheClear(t *testing.T) {
	t.Parallel()
	secret := []byte("the index's authValue")
	salted := &session{hash: crypto.SHA256, key: make([]byte, 32), nonceCaller: make([]byte, 32), nonceTPM: make([]byte, 32)}
	unsalted := &session{hash: crypto.SHA256, nonceCaller: make([]byte, 32), nonceTPM: make([]byte, 32)}
	for name, c := range map[string]struct {
		session *session
		params  []byte
		sent    bool
	}{
		"a salted session":       {salted, put2B(nil, secret), true},
		"an empty password":      {nil, put2B(nil, secret), false},
		"an unsalted session":    {unsalted, put2B(nil, secret), false},
		"no parameter":           {salted, nil, false},
		"a parameter cut short":  {salted, put2B(nil, secret)[:10], false},
		"a wiped session's salt": {wiped(), put2B(nil, secret), false},
	} {
		cmd := command{code: tpm2.TPMCCNVDefineSpace, auths: []authorization{{session: c.session, decrypt: true}}, params: c.params}
		b, err := cmd.marshal(nil)
		if c.sent != (err == nil) || !c.sent && (b != nil || !errors.Is(err, errNothingHidden)) {
			t.Errorf("%s: %x, %v", name, b, err)
		}
		if bytes.Contains(b, secret) {
			t.Errorf("%s: the secret would be sent as it is", name)
		}
	}
}

func wiped() *session {
	s := &session{hash: crypto.SHA256, key: bytes.Repeat([]byte{1}, 32)}
	s.wipe()
	return s
}

// What keyed a session is wiped when its connection is dropped.
func TestASessionsKeyIsWipedWithItsConnection(t *testing.T) {
	t.Parallel()
	key := bytes.Repeat([]byte{1}, 32)
	l := &link{dialer: nowhere{}, conn: &connection{conn: nowhere{}, session: &session{key: key}}}
	l.drop()
	if !bytes.Equal(key, make([]byte, 32)) {
		t.Errorf("it is still %x", key)
	}
}

// nowhere is a TPM that is never asked.
type nowhere struct{ transport.Conn }

func (nowhere) Dial(context.Context) (transport.Conn, error) { return nowhere{}, nil }
func (nowhere) String() string                               { return "nowhere" }
func (nowhere) Managed() bool                                { return true }
func (nowhere) Close() error                                 { return nil }
