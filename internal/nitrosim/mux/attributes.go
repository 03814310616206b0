package mux

import (
	"encoding/binary"
	"fmt"
)

// attributes are what TPMA_CC tells of a command (TPM 2.0 Part 2, section 8.9).
type attributes struct {
	handles        int  // in the command's handle area
	responseHandle bool // the response has one
	flushed        bool // the last handle's object is gone afterwards
}

const (
	capHandles  = 1
	capCommands = 2
)

// commandMask is the part of a TPMA_CC that is the command's code: the index
// and the vendor's bit.
const commandMask = 1<<29 | 0xffff

// readAttributes asks a TPM for the commands that it has.
func readAttributes(tpm TPM) (map[uint32]attributes, error) {
	all := map[uint32]attributes{}
	for next, more := uint32(0), true; more; {
		answer, err := getCapability(tpm, capCommands, next)
		if err != nil {
			return nil, err
		}
		more = answer.more && len(answer.values) > 0
		for _, a := range answer.values {
			code := a & commandMask
			all[code] = attributes{
				handles:        int(a >> 25 & 7),
				responseHandle: a>>28&1 == 1,
				flushed:        a>>24&1 == 1,
			}
			next = code + 1
		}
	}
	return all, nil
}

// capability is an answer of TPM2_GetCapability that is a list of 32-bit words.
type capability struct {
	kind   uint32
	more   bool
	values []uint32
}

const maxWords = 254 // as many as fit into a TPM's answer

func getCapability(tpm TPM, kind, first uint32) (capability, error) {
	request := newCommand(ccGetCapability, append(append(word(kind), word(first)...), word(maxWords)...)...)
	r, err := tpm.Transmit(request)
	if err != nil {
		return capability{}, err
	}
	if rc := response(r).code(); rc != rcSuccess {
		return capability{}, fmt.Errorf("TPM2_GetCapability(%d): response code 0x%03x", kind, rc)
	}
	return parseCapability(r)
}

func parseCapability(r response) (capability, error) {
	const fixed = headerSize + 1 + 4 + 4
	if len(r) < fixed || (len(r)-fixed)%4 != 0 {
		return capability{}, fmt.Errorf("TPM2_GetCapability: an answer of %d bytes", len(r))
	}
	answer := capability{more: r[headerSize] != 0, kind: binary.BigEndian.Uint32(r[headerSize+1:])}
	if n := binary.BigEndian.Uint32(r[headerSize+5:]); uint64(n)*4 != uint64(len(r)-fixed) {
		return capability{}, fmt.Errorf("TPM2_GetCapability: %d values in %d bytes", n, len(r)-fixed)
	}
	for b := r[fixed:]; len(b) > 0; b = b[4:] {
		answer.values = append(answer.values, binary.BigEndian.Uint32(b))
	}
	return answer, nil
}

func (c capability) response() []byte {
	body := []byte{0}
	if c.more {
		body[0] = 1
	}
	body = append(append(body, word(c.kind)...), word(uint32(len(c.values)))...)
	for _, v := range c.values {
		body = append(body, word(v)...)
	}
	return newCommand(rcSuccess, body...)
}
