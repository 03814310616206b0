package provider

import (
	"context"
	"crypto"
	"crypto/hmac"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/google/go-tpm/tpm2"
)

// entity is one entry of a command's handle area. The Name goes into cpHash.
type entity struct {
	handle Handle
	name   Name
}

// permanent is a hierarchy or a session: its handle is its Name.
func permanent(h Handle) entity { return entity{h, put32(nil, uint32(h))} }

// authorization is one entry of a command's authorization area (TPM 2.0 Part 1, section 16.4).
type authorization struct {
	session *session // nil is TPM_RS_PW with the empty auth value
	value   []byte   // authValue of the entity that the session authorises, without trailing zeros
	decrypt bool     // encrypts the first command parameter
	encrypt bool     // encrypts the first response parameter
	audit   bool     // adds the command and its response to the session's audit digest
}

// command is a TPM command. The authorizations stand in the order of the handles they authorise; those that only
// encrypt come last. A decrypt authorization encrypts the first parameter in place.
type command struct {
	code   tpm2.TPMCC
	in     []entity
	auths  []authorization
	params []byte
	loads  bool // the response has a handle: something stays loaded
	whole  bool // is not cut off by the caller's context: whether it was carried out must be known
}

func (cmd *command) String() string { return commandName(cmd.code) }

func commandName(code tpm2.TPMCC) string {
	if name, ok := commandNames[code]; ok {
		return name
	}
	return fmt.Sprintf("TPM command 0x%X", uint32(code))
}

// response is what a successful command gave. Its parameters are valid until the next command.
type response struct {
	handle Handle
	reader
}

// patience is how long the command runs on though the caller's context ended; 0 for one that may be cut off.
func (cmd *command) patience() time.Duration {
	switch {
	case cmd.code == tpm2.TPMCCCreatePrimary:
		return primaryTimeout
	case cmd.loads || cmd.whole:
		return loadTimeout
	}
	return 0
}

// send sends a command and checks the response.
func (c *connection) send(ctx context.Context, cmd command) (*response, error) {
	for i := range cmd.auths {
		if s := cmd.auths[i].session; s != nil {
			s.roll()
		}
	}
	sent, err := cmd.marshal(c.frame[:0])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", &cmd, err)
	}
	c.frame = sent
	raw, err := c.transmit(ctx, cmd.String(), sent, cmd.patience())
	if err != nil {
		return nil, err
	}
	r, err := cmd.parse(raw)
	if cmd.loads && r != nil && r.handle != 0 {
		c.live[r.handle] = struct{}{}
		c.unkeep(r.handle)
	}
	if err != nil {
		return nil, err
	}
	for i := range cmd.auths {
		if s := cmd.auths[i].session; s != nil && !s.reused {
			delete(c.live, s.handle)
		}
	}
	return r, nil
}

// errNothingHidden keeps a command with a secret parameter from being sent as it is.
var errNothingHidden = errors.New("a parameter that is secret would not be encrypted")

// marshal appends the command to b, which is empty.
func (cmd *command) marshal(b []byte) ([]byte, error) {
	for i := range cmd.auths {
		a := &cmd.auths[i]
		if !a.decrypt {
			continue
		}
		if a.session == nil || !a.session.encrypts() || !a.cryptParameter(cmd.params, a.session.nonceCaller, a.session.nonceTPM, true) {
			return nil, errNothingHidden
		}
	}
	tag := uint16(tagNoSessions)
	if len(cmd.auths) > 0 {
		tag = tagSessions
	}
	b = put16(b, tag)
	b = put32(b, 0)
	b = put32(b, uint32(cmd.code))
	for _, e := range cmd.in {
		b = put32(b, uint32(e.handle))
	}
	if len(cmd.auths) > 0 {
		sizeAt := len(b)
		b = put32(b, 0)
		b = cmd.putAuths(b)
		binary.BigEndian.PutUint32(b[sizeAt:], uint32(len(b)-sizeAt-4))
	}
	b = append(b, cmd.params...)
	binary.BigEndian.PutUint32(b[2:], uint32(len(b)))
	return b, nil
}

// putAuths appends the authorization area's entries.
func (cmd *command) putAuths(b []byte) []byte {
	var cpHash []byte
	var hashed crypto.Hash
	for i := range cmd.auths {
		a := &cmd.auths[i]
		if a.session == nil {
			b = put32(b, uint32(tpm2.TPMRSPW))
			b = put2B(b, nil)
			b = append(b, attrContinueSession)
			b = put2B(b, nil)
			continue
		}
		if hash := a.session.hash; hash != hashed {
			cpHash, hashed = cmd.cpHash(hash), hash
		}
		b = put32(b, uint32(a.session.handle))
		b = put2B(b, a.session.nonceCaller)
		b = append(b, a.attributes())
		b = put2B(b, a.hmac(cpHash, a.session.nonceCaller, a.session.nonceTPM, cmd.cryptNonces(i), a.attributes()))
	}
	return b
}

// cpHash is the hash over a command's code, Names and parameters (Part 1, section 16.7).
func (cmd *command) cpHash(hash crypto.Hash) []byte {
	h := hash.New()
	h.Write(put32(nil, uint32(cmd.code)))
	for _, e := range cmd.in {
		h.Write(e.name)
	}
	h.Write(cmd.params)
	return h.Sum(nil)
}

// rpHash is the hash over a successful response (Part 1, section 16.8).
func (cmd *command) rpHash(hash crypto.Hash, params []byte) []byte {
	h := hash.New()
	h.Write(put32(put32(nil, 0), uint32(cmd.code)))
	h.Write(params)
	return h.Sum(nil)
}

// cryptNonces are the nonces that tie the sessions that encrypt to the first session's HMAC (Part 1, section 17.6.5),
// so that nobody takes them away.
func (cmd *command) cryptNonces(i int) []byte {
	if i != 0 {
		return nil
	}
	var nonces []byte
	for j := range cmd.auths[1:] {
		if a := &cmd.auths[1+j]; a.decrypt || a.encrypt {
			nonces = append(nonces, a.session.nonceTPM...)
		}
	}
	return nonces
}

// parse takes a response apart, checks every session's HMAC and decrypts the first parameter. The response
// is not nil, although its parameters may not be used, when a handle was read before the error.
func (cmd *command) parse(raw []byte) (*response, error) {
	tag, code, rest, err := header(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", cmd, err)
	}
	if code != 0 {
		return nil, &ResponseError{Command: cmd.String(), Code: code}
	}
	r := &response{reader: rest}
	if cmd.loads {
		r.handle = Handle(r.u32())
	}
	if len(cmd.auths) > 0 {
		if tag != tagSessions {
			return r, fmt.Errorf("%w: %s: the answer has no authorisation", ErrIntegrity, cmd)
		}
		params := r.take(int(r.u32()))
		if err := cmd.checkAuths(params, &r.reader); err != nil {
			return r, fmt.Errorf("%s: %w", cmd, err)
		}
		r.b = params
	}
	if r.err != nil {
		return r, fmt.Errorf("%s: %w", cmd, r.err)
	}
	return r, nil
}

// checkAuths reads the response's authorization area, verifies it, and decrypts the parameters.
func (cmd *command) checkAuths(params []byte, r *reader) error {
	var rpHash []byte
	var hashed crypto.Hash
	nonces := make([][]byte, len(cmd.auths))
	for i := range cmd.auths {
		nonce, attrs, mac := r.sized(), r.u8(), r.sized()
		if r.err != nil {
			return r.err
		}
		a := &cmd.auths[i]
		if a.session == nil {
			continue
		}
		if hash := a.session.hash; hash != hashed {
			rpHash, hashed = cmd.rpHash(hash, params), hash
		}
		if !hmac.Equal(mac, a.hmac(rpHash, nonce, a.session.nonceCaller, nil, attrs)) {
			return fmt.Errorf("%w: session HMAC", ErrIntegrity)
		}
		if a.session.reused && attrs&attrContinueSession == 0 {
			return fmt.Errorf("%w: the session was ended", ErrIntegrity)
		}
		nonces[i] = append([]byte(nil), nonce...)
	}
	if err := r.end(); err != nil {
		return err
	}
	for i := range cmd.auths {
		a := &cmd.auths[i]
		if a.session == nil {
			continue
		}
		if a.encrypt && !a.cryptParameter(params, nonces[i], a.session.nonceCaller, false) {
			return fmt.Errorf("%w: nothing to decrypt", ErrMalformed)
		}
		a.session.nonceTPM, a.session.proven = nonces[i], a.session.encrypts()
	}
	return nil
}
