package nitrosim

import (
	"bytes"
	"encoding/binary"
)

// CCAttest is the code of NitroTPM's attestation command: two handles, of which
// the first is authorised and both are the NV index, and no parameters.
const CCAttest = 0x20000001

// attestAttributes is its TPMA_CC (TPM 2.0 Part 2, section 8.9): a vendor's, two
// handles, writes to NV.
const attestAttributes = CCAttest | 2<<25 | 1<<22

// listAttest adds the attestation command, whose code is the highest, to an
// answer to TPM2_GetCapability(TPM_CAP_COMMANDS). Under a session, whose HMAC
// covers the answer, the answer stays as it is.
func listAttest(command, response []byte) []byte {
	const (
		noSessions  = 0x8001
		commandSize = headerSize + 4 + 4 + 4
		fixed       = headerSize + 1 + 4 + 4 // moreData, capability, count
		capCommands = 2
	)
	if len(command) != commandSize || binary.BigEndian.Uint16(command) != noSessions ||
		binary.BigEndian.Uint32(command[headerSize:]) != capCommands ||
		len(response) < fixed || binary.BigEndian.Uint32(response[6:]) != 0 {
		return response
	}
	first, wanted := binary.BigEndian.Uint32(command[14:]), binary.BigEndian.Uint32(command[18:])
	count := binary.BigEndian.Uint32(response[15:])
	if more := response[headerSize] != 0; more || first > CCAttest {
		return response
	}
	response = bytes.Clone(response)
	if count >= wanted {
		response[headerSize] = 1
		return response
	}
	response = binary.BigEndian.AppendUint32(response, attestAttributes)
	binary.BigEndian.PutUint32(response[15:], count+1)
	binary.BigEndian.PutUint32(response[2:], uint32(len(response)))
	return response
}
