package mux

import "encoding/binary"

// Sizes and offsets of a message (TPM 2.0 Part 1, "Command/Response Structure").
const (
	headerSize = 10
	maxSize    = 4096
)

const (
	tagNoSessions = 0x8001 // TPM_ST_NO_SESSIONS
	tagSessions   = 0x8002 // TPM_ST_SESSIONS
)

// Command codes that the multiplexer itself sends or looks into.
const (
	ccContextLoad   = 0x161
	ccContextSave   = 0x162
	ccFlushContext  = 0x165
	ccGetCapability = 0x17a
)

// Response codes (TPM 2.0 Part 2, "TPM_RC").
const (
	rcSuccess      = 0
	rcFailure      = 0x101
	rcCommandSize  = 0x142
	rcCommandCode  = 0x143
	rcInsufficient = 0x09a
	rcReferenceH0  = 0x910
	rcFlushHandle  = 0x1cb      // TPM_RC_HANDLE of the first parameter
	layerResMgr    = 0x0b << 16 // TSS2_RESMGR_TPM_RC_LAYER
)

// Kinds of handles: the first byte (TPM 2.0 Part 2, "TPM_HT").
const (
	kindHMACSession   = 0x02 // also: the loaded ones
	kindPolicySession = 0x03 // also: the saved ones
	kindTransient     = 0x80
)

func kind(handle uint32) byte { return byte(handle >> 24) }

func isSession(handle uint32) bool {
	return kind(handle) == kindHMACSession || kind(handle) == kindPolicySession
}

// key is what things are found by: sessions of both kinds are in one row, and
// the TPM lists and flushes a saved policy session by the handle of an HMAC
// session, too (TPM 2.0 Part 1, "Session Handles").
func key(handle uint32) uint32 {
	if isSession(handle) {
		return kindHMACSession<<24 | handle&0xffffff
	}
	return handle
}

// command is a command whose header is sound.
type command []byte

func (c command) tag() uint16               { return binary.BigEndian.Uint16(c) }
func (c command) code() uint32              { return binary.BigEndian.Uint32(c[6:]) }
func (c command) handle(i int) uint32       { return binary.BigEndian.Uint32(c[headerSize+4*i:]) }
func (c command) setHandle(i int, h uint32) { binary.BigEndian.PutUint32(c[headerSize+4*i:], h) }

// has says whether the command is long enough for n handles.
func (c command) has(n int) bool { return len(c) >= headerSize+4*n }

// endedSessions are the sessions of the authorisation area whose
// continueSession is clear: they end with the command's success. n is the
// number of handles.
func (c command) endedSessions(n int) []uint32 {
	if c.tag() != tagSessions || !c.has(n+1) {
		return nil
	}
	area := c[headerSize+4*n:]
	size := binary.BigEndian.Uint32(area)
	area = area[4:]
	if uint64(size) > uint64(len(area)) {
		return nil
	}
	area = area[:size]
	var ended []uint32
	for len(area) >= 9 { // handle, nonce, attributes, authorisation
		handle := binary.BigEndian.Uint32(area)
		nonce := int(binary.BigEndian.Uint16(area[4:]))
		if len(area) < 9+nonce {
			break
		}
		const continueSession = 1
		if isSession(handle) && area[6+nonce]&continueSession == 0 {
			ended = append(ended, handle)
		}
		auth := int(binary.BigEndian.Uint16(area[7+nonce:]))
		if len(area) < 9+nonce+auth {
			break
		}
		area = area[9+nonce+auth:]
	}
	return ended
}

// newCommand builds a command without sessions.
func newCommand(code uint32, rest ...byte) command {
	c := binary.BigEndian.AppendUint16(nil, tagNoSessions)
	c = binary.BigEndian.AppendUint32(c, uint32(headerSize+len(rest)))
	c = binary.BigEndian.AppendUint32(c, code)
	return append(c, rest...)
}

func word(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }

// response is a response whose header is sound.
type response []byte

func (r response) code() uint32 { return binary.BigEndian.Uint32(r[6:]) }

// refusal is the response that carries only a code.
func refusal(rc uint32) []byte { return newCommand(rc) }
