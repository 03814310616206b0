package eventlog

import (
	"encoding/binary"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// Type is the type of an event. Nothing proves it.
type Type uint32

var typeNames = map[Type]string{
	0x00000000: "EV_PREBOOT_CERT",
	0x00000001: "EV_POST_CODE",
	noAction:   "EV_NO_ACTION",
	0x00000004: "EV_SEPARATOR",
	0x00000005: "EV_ACTION",
	0x00000006: "EV_EVENT_TAG",
	0x00000007: "EV_S_CRTM_CONTENTS",
	0x00000008: "EV_S_CRTM_VERSION",
	0x00000009: "EV_CPU_MICROCODE",
	0x0000000a: "EV_PLATFORM_CONFIG_FLAGS",
	0x0000000b: "EV_TABLE_OF_DEVICES",
	0x0000000c: "EV_COMPACT_HASH",
	0x0000000d: "EV_IPL",
	0x0000000e: "EV_IPL_PARTITION_DATA",
	0x0000000f: "EV_NONHOST_CODE",
	0x00000010: "EV_NONHOST_CONFIG",
	0x00000011: "EV_NONHOST_INFO",
	0x00000012: "EV_OMIT_BOOT_DEVICE_EVENTS",
	0x00000013: "EV_POST_CODE2",
	0x80000001: variableConfig,
	0x80000002: variableBoot,
	0x80000003: "EV_EFI_BOOT_SERVICES_APPLICATION",
	0x80000004: "EV_EFI_BOOT_SERVICES_DRIVER",
	0x80000005: "EV_EFI_RUNTIME_SERVICES_DRIVER",
	0x80000006: "EV_EFI_GPT_EVENT",
	0x80000007: "EV_EFI_ACTION",
	0x80000008: "EV_EFI_PLATFORM_FIRMWARE_BLOB",
	0x80000009: "EV_EFI_HANDOFF_TABLES",
	0x8000000a: firmwareBlob2,
	0x8000000b: "EV_EFI_HANDOFF_TABLES2",
	0x8000000c: variableBoot2,
	0x80000010: "EV_EFI_HCRTM_EVENT",
	0x800000e0: variableAuthority,
	0x800000e1: "EV_EFI_SPDM_FIRMWARE_BLOB",
	0x800000e2: "EV_EFI_SPDM_FIRMWARE_CONFIG",
}

const (
	variableConfig    = "EV_EFI_VARIABLE_DRIVER_CONFIG"
	variableBoot      = "EV_EFI_VARIABLE_BOOT"
	variableBoot2     = "EV_EFI_VARIABLE_BOOT2"
	variableAuthority = "EV_EFI_VARIABLE_AUTHORITY"
	firmwareBlob2     = "EV_EFI_PLATFORM_FIRMWARE_BLOB2"
)

// String is the standard's name ("EV_IPL"), or the number of a type without one.
func (t Type) String() string {
	if name, ok := typeNames[t]; ok {
		return name
	}
	return fmt.Sprintf("0x%08x", uint32(t))
}

// maxText is where descriptions are cut, in characters.
const maxText = 200

// Describe says in one line of printable text what an event is about, as far as its data tell; "" if they tell nothing.
func (e Event) Describe() string {
	var text string
	switch e.Type.String() {
	case variableConfig, variableBoot, variableBoot2, variableAuthority:
		text, _, _ = e.variable()
	case "EV_EFI_BOOT_SERVICES_APPLICATION", "EV_EFI_BOOT_SERVICES_DRIVER", "EV_EFI_RUNTIME_SERVICES_DRIVER":
		text = imagePath(e.Data)
	case firmwareBlob2:
		if len(e.Data) > 0 && len(e.Data) > int(e.Data[0]) {
			text = string(e.Data[1:][:e.Data[0]])
		}
	case "EV_EFI_GPT_EVENT":
		text = "the partition table"
	case "EV_SEPARATOR":
		text = "end of the firmware's own"
		if len(e.Data) == 4 && binary.LittleEndian.Uint32(e.Data) == 1 {
			text = "the firmware failed"
		}
	case "EV_EVENT_TAG":
		if len(e.Data) >= 8 {
			text = asText(e.Data[8:])
		}
	default:
		text = asText(e.Data)
	}
	return printable(text)
}

// variable reads UEFI_VARIABLE_DATA.
func (e Event) variable() (name string, contents []byte, ok bool) {
	const header = 32 // GUID and the two lengths
	if len(e.Data) < header {
		return "", nil, false
	}
	rest := e.Data[header:]
	units, size := binary.LittleEndian.Uint64(e.Data[16:]), binary.LittleEndian.Uint64(e.Data[24:])
	if units > uint64(len(rest))/2 || size != uint64(len(rest))-2*units {
		return "", nil, false
	}
	return fromUTF16(rest[:2*units]), rest[2*units:], true
}

// imagePath reads the file's path in UEFI_IMAGE_LOAD_EVENT.
func imagePath(b []byte) string {
	const header = 32 // address, length, link-time address, length of the path
	if len(b) < header {
		return ""
	}
	var parts []string
	for path := b[header:]; len(path) >= 4; {
		const mediaFile = 0x0404
		n := binary.LittleEndian.Uint16(path[2:])
		if n < 4 || int(n) > len(path) {
			break
		}
		if binary.BigEndian.Uint16(path) == mediaFile {
			parts = append(parts, fromUTF16(path[4:n]))
		}
		path = path[n:]
	}
	return strings.Join(parts, "")
}

// asText is data as UTF-8 or UTF-16 text, "" if they are neither.
func asText(b []byte) string {
	for len(b) > 0 && b[len(b)-1] == 0 && len(b)%2 == 1 {
		b = b[:len(b)-1]
	}
	if len(b) >= 4 && len(b)%2 == 0 && b[1] == 0 {
		return fromUTF16(b)
	}
	text := strings.TrimRight(string(b), "\x00")
	if !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
		return ""
	}
	return text
}

// fromUTF16 is text up to a NUL.
func fromUTF16(b []byte) string {
	var units []uint16
	for ; len(b) >= 2; b = b[2:] {
		u := binary.LittleEndian.Uint16(b)
		if u == 0 {
			break
		}
		units = append(units, u)
	}
	return string(utf16.Decode(units))
}

// printable makes text fit for a terminal.
func printable(s string) string {
	var b strings.Builder
	for n, r := range []rune(s) {
		if n == maxText {
			b.WriteRune('…')
			break
		}
		if !unicode.IsPrint(r) {
			r = '?'
		}
		b.WriteRune(r)
	}
	return b.String()
}
