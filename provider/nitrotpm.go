package provider

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/provider/transport"
)

const (
	// ccNSMRequest is NitroTPM's vendor command: the handle area has an NV index twice, first the one that authorises;
	// there are no parameters. It takes the request from the index and puts the answer there.
	ccNSMRequest tpm2.TPMCC = 0x20000001
	// MaxNSMMessage is the size of that NV index in bytes: the most that a request or an answer has.
	MaxNSMMessage = 8192
	// nsmHash is the index's nameAlg and the session's authHash.
	nsmHash = crypto.SHA512
)

// NSMRequest sends a request to the Nitro Security Module behind a NitroTPM and gives the answer (CBOR both; package
// attest knows them). complete tells whether the bytes read so far begin with a whole answer; it is asked after each
// part that was read, and what follows the answer is stale.
//
// The request travels through an NV index that lives as long as the operation, under a random authValue, in a session
// salted to a transient EK: no persistent handle is used up, and owner authorization is needed. Other TPMs are
// ErrUnsupported. Where a resource manager does not pass the command on, the device behind it is used, which one
// process can open at a time; see WithDirect.
func (t *TPM) NSMRequest(ctx context.Context, request []byte, complete func(answer []byte) bool) ([]byte, error) {
	if len(request) == 0 || len(request) > MaxNSMMessage {
		return nil, fmt.Errorf("%w: a request of %d bytes: it has 1 to %d", ErrUnsupported, len(request), MaxNSMMessage)
	}
	direct := t.directDialer()
	if direct == nil || !t.hidesNSM.Load() {
		answer, err := t.nsmRequest(ctx, request, complete)
		if err == nil || !isCode(err, tpm2.TPMRCCommandCode) {
			return answer, err
		}
		if direct == nil {
			return nil, notNitroTPM(err)
		}
		t.hidesNSM.Store(true)
		t.log.Debug("the resource manager refuses the command", "tpm", t.String(), "next", direct.String(), "error", err)
	}
	d := New(direct, WithLogger(t.log), WithOwnerAuth(t.ownerAuth), WithEndorsementAuth(t.endorsementAuth))
	defer d.Close()
	answer, err := d.nsmRequest(ctx, request, complete)
	if isCode(err, tpm2.TPMRCCommandCode) {
		return nil, notNitroTPM(err)
	}
	if err != nil {
		return nil, fmt.Errorf("past the resource manager at %s: %w", direct, err)
	}
	return answer, nil
}

func notNitroTPM(err error) error {
	return fmt.Errorf("%w: it is not an AWS NitroTPM: %w", ErrUnsupported, err)
}

// WithDirect gives the TPM's address without its resource manager, for commands that this one does not pass on.
// Without it that is /dev/tpmN for device:/dev/tpmrmN.
func WithDirect(d transport.Dialer) Option { return func(t *TPM) { t.direct = d } }

// directDialer is the way past the resource manager, nil where there is none.
func (t *TPM) directDialer() transport.Dialer {
	if t.direct != nil {
		return t.direct
	}
	n, ok := strings.CutPrefix(t.String(), "device:/dev/tpmrm")
	if !ok {
		return nil
	}
	d, err := transport.Parse("device:/dev/tpm" + n)
	if err != nil {
		return nil
	}
	return d
}

// nsmRequest does it through t's own dialer, in one turn and on one connection. An index that a lost connection left
// behind is removed by the next try.
func (t *TPM) nsmRequest(ctx context.Context, request []byte, complete func([]byte) bool) (answer []byte, err error) {
	var left *nvIndex
	err = t.do(ctx, func(ctx context.Context, c *connection) error {
		limits, err := c.nvLimits(ctx)
		if err != nil {
			return err
		}
		if limits.index < MaxNSMMessage {
			return notNitroTPM(fmt.Errorf("its NV indices have at most %d bytes, and the exchange takes %d", limits.index, MaxNSMMessage))
		}
		taken, err := c.handles(ctx, firstNVIndex)
		if err != nil {
			return err
		}
		s, err := c.ekSession(ctx, nsmHash)
		if err != nil {
			return err
		}
		defer c.end(ctx, s)
		m := &nsmMailbox{connection: c, session: s, chunk: limits.chunk}
		if left != nil {
			m.index = *left
			if err := m.removeByName(ctx); err != nil {
				return err
			}
			left = nil
		}
		answer, err = m.exchange(ctx, taken, request, complete)
		if m.dirty {
			left = &m.index
		}
		return err
	})
	if left != nil {
		err = fmt.Errorf("%w; %v may have stayed behind: remove it by `tpm2_nvundefine 0x%08x`", err, *left, uint32(left.area.NVIndex))
	}
	return answer, err
}

// nsmMailbox is the NV index of one request.
type nsmMailbox struct {
	*connection
	session *session
	chunk   int
	index   nvIndex
	auth    []byte // the index's authValue
	dirty   bool   // the index may exist
}

// exchange defines the index, has the request answered and removes the index on every path.
func (m *nsmMailbox) exchange(ctx context.Context, taken []Handle, request []byte, complete func([]byte) bool) (answer []byte, err error) {
	m.auth = make([]byte, nsmHash.Size())
	rand.Read(m.auth)
	m.auth = bytes.TrimRight(m.auth, "\x00") // as the TPM keeps it
	defer clear(m.auth)
	defer func() { err = errors.Join(err, m.remove(ctx)) }()
	if err := m.define(ctx, taken); err != nil {
		return nil, err
	}
	if err := m.write(ctx, request); err != nil {
		return nil, err
	}
	_, err = m.run(ctx, command{
		code:  ccNSMRequest,
		in:    []entity{m.index.entity(), m.index.entity()},
		auths: []authorization{m.own()},
		whole: true,
	})
	if err != nil {
		return nil, err
	}
	return m.read(ctx, complete)
}

// own authorises by the index's authValue.
func (m *nsmMailbox) own() authorization { return authorization{session: m.session, value: m.auth} }

// owner authorises by the owner hierarchy's.
func (m *nsmMailbox) owner() authorization {
	return authorization{session: m.session, value: authValue(m.tpm.ownerAuth)}
}

// define makes the index at the first free handle. Others may take one that was free.
func (m *nsmMailbox) define(ctx context.Context, taken []Handle) error {
	const tries = 16
	h := firstNVIndex
	var err error
	for range tries {
		h = firstFree(taken, h)
		m.index, err = newNVIndex(tpm2.TPMSNVPublic{
			NVIndex:    h,
			NameAlg:    hashAlgs[nsmHash],
			Attributes: tpm2.TPMANV{AuthRead: true, AuthWrite: true},
			DataSize:   MaxNSMMessage,
		})
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		err = m.nvDefine(ctx, m.owner(), m.auth, m.index)
		m.dirty = codeOf(err) == 0 && !errors.Is(err, ErrHierarchyAuth) // without an answer nobody knows
		if !isCode(err, tpm2.TPMRCNVDefined) {
			return err
		}
		h++
	}
	return err
}

// write puts the request into the index, whose Name changes with its first write.
func (m *nsmMailbox) write(ctx context.Context, request []byte) error {
	for offset := 0; offset < len(request); {
		part := request[offset:min(offset+m.chunk, len(request))]
		if err := m.nvWrite(ctx, m.index.entity(), m.own(), m.index, offset, part); err != nil {
			return err
		}
		if offset == 0 {
			m.index = m.index.written()
			there, err := m.nvReadPublic(ctx, m.index.area.NVIndex)
			if err != nil {
				return err
			}
			if !bytes.Equal(there.name, m.index.name) {
				return fmt.Errorf("%w: %v is another one than was defined", ErrIntegrity, m.index)
			}
		}
		offset += len(part)
	}
	return nil
}

// read gives the answer, and whatever followed it in its last part.
func (m *nsmMailbox) read(ctx context.Context, complete func([]byte) bool) ([]byte, error) {
	answer := make([]byte, 0, MaxNSMMessage)
	for len(answer) < MaxNSMMessage {
		b, err := m.nvRead(ctx, m.index.entity(), m.own(), m.index, len(answer), min(m.chunk, MaxNSMMessage-len(answer)))
		if err != nil {
			return nil, err
		}
		answer = append(answer, b...)
		if complete(answer) {
			return answer, nil
		}
	}
	return nil, fmt.Errorf("%w: the answer of %d bytes has no end", ErrMalformed, len(answer))
}

// remove undefines the index, whatever became of the operation, and ends the session with that.
func (m *nsmMailbox) remove(ctx context.Context) error {
	if !m.dirty || m.broken {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), loadTimeout)
	defer cancel()
	m.session.reused = false
	err := m.nvUndefine(ctx, m.owner(), m.index)
	if err != nil {
		// After an answer that was not authentic the session is of no use, and what was the last to happen to the
		// index is not certain.
		err = m.removeByName(ctx)
	}
	m.dirty = err != nil
	return err
}

// removeByName undefines the index if the one that is there is it, written or not.
func (m *nsmMailbox) removeByName(ctx context.Context) error {
	there, err := m.nvReadPublic(ctx, m.index.area.NVIndex)
	switch {
	case errors.Is(err, ErrNoObject):
		return nil
	case err != nil:
		return err
	case !bytes.Equal(there.written().name, m.index.written().name):
		return nil // somebody else's by now
	}
	return m.asHierarchy(ctx, tpm2.TPMRHOwner, m.tpm.ownerAuth, func(auth authorization) error {
		return m.nvUndefine(ctx, auth, there)
	})
}
