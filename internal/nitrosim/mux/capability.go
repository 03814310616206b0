package mux

import (
	"encoding/binary"
	"errors"
	"slices"
)

// answerItself answers TPM2_GetCapability(TPM_CAP_HANDLES) where the TPM's
// answer would be about its own handles or about other clients: for transient
// objects and for saved sessions. Loaded sessions are the client's own when its
// turn has come.
func (s *Space) answerItself(c command) (answer []byte, done bool) {
	if c.code() != ccGetCapability || c.tag() != tagNoSessions || len(c) != headerSize+12 || c.handle(0) != capHandles {
		return nil, false
	}
	first, count := c.handle(1), c.handle(2)
	var handles []uint32
	switch kind(first) {
	case kindTransient:
		for h := range s.objects {
			handles = append(handles, h)
		}
	case kindPolicySession:
		for h := range s.mux.kept {
			handles = append(handles, h)
		}
	default:
		return nil, false
	}
	index := func(h uint32) uint32 { return h & 0xffffff }
	handles = slices.DeleteFunc(handles, func(h uint32) bool { return index(h) < index(first) })
	slices.SortFunc(handles, func(a, b uint32) int { return int(index(a)) - int(index(b)) })
	more := uint64(len(handles)) > uint64(count)
	if more {
		handles = handles[:count]
	}
	return capability{kind: capHandles, more: more, values: handles}.response(), true
}

// contextGap is TPM_PT_CONTEXT_GAP_MAX: how far the sequence numbers of saved
// sessions' contexts may be apart.
func contextGap(tpm TPM) (uint64, error) {
	const capProperties, ptContextGapMax = 6, 0x114
	request := newCommand(ccGetCapability, append(append(word(capProperties), word(ptContextGapMax)...), word(1)...)...)
	r, err := tpm.Transmit(request)
	if err != nil {
		return 0, err
	}
	const whole = headerSize + 1 + 4 + 4 + 8 // one TPMS_TAGGED_PROPERTY
	if len(r) != whole || response(r).code() != rcSuccess || binary.BigEndian.Uint32(r[whole-8:]) != ptContextGapMax {
		return 0, errors.New("the TPM does not tell it")
	}
	return uint64(binary.BigEndian.Uint32(r[whole-4:])), nil
}
