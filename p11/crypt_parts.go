package p11

import (
	"crypto/aes"
	gocipher "crypto/cipher"

	"github.com/tpm2-p11/tpm2-p11/internal/wire"
)

// maxPartLength is the most data that one call takes, so that its result fits into a message, and the most that a mode gathers which
// gives nothing before its end.
const maxPartLength = wire.MaxMessage - 256

// newStream checks the parameter of a mechanism with secret keys. What it gives begins messages: how is CKF_ENCRYPT or CKF_DECRYPT.
type newStream func(how Flags, p parameter) (func(gocipher.Block) stream, error)

// stream is a message on its way through a cipher. It is never asked again after an error.
type stream interface {
	whole(n int) (int, error) // the most bytes that a message of n bytes becomes, or why there is none
	room(n int) int           // how many bytes update gives for n more
	update(part []byte) ([]byte, error)
	rest() int // the most bytes that final gives
	final() ([]byte, error)
	wipe()
}

// passage is an active encryption or decryption with a secret key. Its key was read when it began, and is gone with it.
type passage struct {
	s     *session
	key   *object
	how   Flags // CKF_ENCRYPT or CKF_DECRYPT
	begin func(gocipher.Block) stream
	block gocipher.Block
	work  stream // after an Update
	last  []byte // what final gave, until it is fetched
	held  int    // bytes that it keeps: its parameter, and what went in and did not come out
}

// passage begins an operation with a secret key.
func (s *session) passage(row *mechanism, how Flags, o *object, m Mechanism) (*passage, error) {
	begin, err := row.stream(how, parameter{rest: m.Parameter})
	if err != nil {
		return nil, err
	}
	block, err := s.block(o, CKF_DECRYPT)
	if err != nil {
		return nil, err
	}
	p := &passage{s: s, key: o, how: how, begin: begin, block: block}
	return p, p.keep(len(m.Parameter))
}

// keep counts n bytes more that the message keeps, or fewer.
func (p *passage) keep(n int) error {
	if n < 0 {
		p.s.lib.release(-n)
	} else if err := p.s.lib.hold(n); err != nil {
		return err
	}
	p.held += n
	return nil
}

// block is AES with an object's key.
func (s *session) block(o *object, purpose Flags) (gocipher.Block, error) {
	key, err := s.reveal(o, purpose)
	if err != nil {
		return nil, keyFault(err)
	}
	defer key.Wipe()
	return aes.NewCipher(key.Bytes())
}

// keyFault is the error of a key that is gone, where it was used as a key.
func keyFault(err error) error {
	if RVOf(err) == CKR_OBJECT_HANDLE_INVALID {
		return refuse(CKR_KEY_HANDLE_INVALID, "%v", err)
	}
	return err
}

// lengthFault is the error of data of a wrong length.
func lengthFault(how Flags) error {
	if how == CKF_ENCRYPT {
		return CKR_DATA_LEN_RANGE
	}
	return CKR_ENCRYPTED_DATA_LEN_RANGE
}

// whole takes a message in one part; over tells that the operation has ended.
func (p *passage) whole(data []byte, out *Output) (over bool, err error) {
	switch {
	case p.work != nil:
		return true, CKR_OPERATION_ACTIVE
	case len(data) > maxPartLength:
		return true, lengthFault(p.how)
	}
	work := p.begin(p.block)
	defer work.wipe()
	most, err := work.whole(len(data))
	if err != nil {
		return true, err
	}
	if out.Query {
		_, err := out.Room(most)
		return false, err
	}
	first, err := work.update(data)
	if err != nil {
		return true, err
	}
	rest, err := work.final()
	if err != nil {
		clear(first)
		return true, err
	}
	result := append(make([]byte, 0, len(first)+len(rest)), first...)
	result = append(result, rest...)
	clear(first)
	clear(rest)
	return give(out, result)
}

// give hands a result out, or wipes one that the caller has no room for and may ask for again.
func give(out *Output, result []byte) (over bool, err error) {
	if err := out.Put(result); err != nil {
		clear(result)
		return false, err
	}
	return true, nil
}

// part takes a part of a message.
func (p *passage) part(data []byte, out *Output) (over bool, err error) {
	switch {
	case len(data) > maxPartLength:
		return true, lengthFault(p.how)
	case p.last != nil: // the message has ended, and waits for its last bytes to be fetched
		return true, CKR_OPERATION_ACTIVE
	}
	work := p.work
	if work == nil {
		work = p.begin(p.block)
	}
	room := work.room(len(data))
	if done, err := out.Room(room); done {
		return false, err
	}
	if err := p.keep(len(data) - room); err != nil {
		return true, err
	}
	p.work = work
	result, err := work.update(data)
	if err != nil {
		return true, err
	}
	return false, out.Put(result)
}

// final ends a message.
func (p *passage) final(out *Output) (over bool, err error) {
	work := p.work
	if work == nil {
		work = p.begin(p.block)
	}
	if out.Query {
		_, err := out.Room(work.rest())
		return false, err
	}
	if p.last == nil {
		if p.last, err = work.final(); err != nil {
			return true, err
		}
	}
	p.work = work
	if err := out.Put(p.last); err != nil {
		return false, err
	}
	p.last = nil // it is out's now
	return true, nil
}

func (p *passage) wipe() {
	if p == nil {
		return
	}
	if p.work != nil {
		p.work.wipe()
	}
	clear(p.last)
	p.s.lib.release(p.held)
	p.held = 0
}

// mayRun is session.mayUse, of nil too.
func (p *passage) mayRun(seesPrivate bool) error {
	switch {
	case p == nil:
		return nil
	case p.key.private && !seesPrivate:
		return CKR_USER_NOT_LOGGED_IN
	}
	return p.s.permitted(p.key, CKF_DECRYPT)
}
