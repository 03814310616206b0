// Package esl reads UEFI's signature databases: the contents of the variables
// PK, KEK, db and dbx (UEFI Specification, section 32.4, "Firmware/OS Key Exchange").
package esl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// ErrMalformed is wrapped by every error of this package.
var ErrMalformed = errors.New("not a UEFI signature database")

// MaxSize bounds a database in bytes; real ones have some ten thousand.
const MaxSize = 1 << 20

// GUID is a GUID as it lies in memory.
type GUID [16]byte

// Types of signatures.
var (
	X509       = GUID{0xa1, 0x59, 0xc0, 0xa5, 0xe4, 0x94, 0xa7, 0x4a, 0x87, 0xb5, 0xab, 0x15, 0x5c, 0x2b, 0xf0, 0x72}
	SHA256     = GUID{0x26, 0x16, 0xc4, 0xc1, 0x4c, 0x50, 0x92, 0x40, 0xac, 0xa9, 0x41, 0xf9, 0x36, 0x93, 0x43, 0x28}
	SHA384     = GUID{0x07, 0x53, 0x3e, 0xff, 0xd0, 0x9f, 0xc9, 0x48, 0x85, 0xf1, 0x8a, 0xd5, 0x6c, 0x70, 0x1e, 0x01}
	SHA512     = GUID{0xae, 0x0f, 0x3e, 0x09, 0xc4, 0xa6, 0x50, 0x4f, 0x9f, 0x1b, 0xd4, 0x1e, 0x2b, 0x89, 0xc1, 0x9a}
	X509SHA256 = GUID{0x92, 0xa4, 0xd2, 0x3b, 0xc0, 0x96, 0x79, 0x40, 0xb4, 0x20, 0xfc, 0xf9, 0x8e, 0xf1, 0x03, 0xed}
	X509SHA384 = GUID{0x6e, 0x87, 0x76, 0x70, 0xc2, 0x80, 0xe6, 0x4e, 0xaa, 0xd2, 0x28, 0xb3, 0x49, 0xa6, 0x86, 0x5b}
	X509SHA512 = GUID{0x63, 0xbf, 0x6d, 0x44, 0x02, 0x25, 0xda, 0x4c, 0xbc, 0xfa, 0x24, 0x65, 0xd2, 0xb0, 0xfe, 0x9d}
)

// pkcs7 is EFI_CERT_TYPE_PKCS7_GUID.
var pkcs7 = GUID{0x9d, 0xd2, 0xaf, 0x4a, 0xdf, 0x68, 0xee, 0x49, 0x8a, 0xa9, 0x34, 0x7d, 0x37, 0x56, 0x65, 0xa7}

// String is the usual text form, lower case.
func (g GUID) String() string {
	return fmt.Sprintf("%08x-%04x-%04x-%04x-%012x", binary.LittleEndian.Uint32(g[:]), binary.LittleEndian.Uint16(g[4:]),
		binary.LittleEndian.Uint16(g[6:]), g[8:10], g[10:])
}

// Entry is one signature of a database.
type Entry struct {
	Type  GUID
	Owner GUID
	Data  []byte // a certificate in DER, a hash, …, by the type
}

// Bytes is the entry as it lies in the database and as firmware measures it (EFI_SIGNATURE_DATA).
func (e Entry) Bytes() []byte { return slices.Concat(e.Owner[:], e.Data) }

// Parse reads the contents of a variable: EFI_SIGNATURE_LISTs one after another, none for an empty variable.
// Errors wrap ErrMalformed.
func Parse(variable []byte) ([]Entry, error) {
	const header = 28
	if len(variable) > MaxSize {
		return nil, fmt.Errorf("%w: it has %d bytes", ErrMalformed, len(variable))
	}
	var all []Entry
	for n, rest := 1, variable; len(rest) > 0; n++ {
		if len(rest) < header {
			return nil, fmt.Errorf("%w: list %d is cut short", ErrMalformed, n)
		}
		kind := GUID(rest[:16])
		list, own, size := binary.LittleEndian.Uint32(rest[16:]), binary.LittleEndian.Uint32(rest[20:]), binary.LittleEndian.Uint32(rest[24:])
		if uint64(list) > uint64(len(rest)) || uint64(own)+header > uint64(list) || size <= 16 || (list-header-own)%size != 0 {
			return nil, fmt.Errorf("%w: the sizes of list %d do not fit together", ErrMalformed, n)
		}
		for signature := range slices.Chunk(rest[header+own:list], int(size)) {
			all = append(all, Entry{Type: kind, Owner: GUID(signature[:16]), Data: signature[16:]})
		}
		rest = rest[list:]
	}
	return all, nil
}

// Variable gives the contents of a variable from a file that holds them: an ESL as it is; an .auth file, which is one signed
// for an update of the variable (EFI_VARIABLE_AUTHENTICATION_2); or a file of efivarfs, with the variable's attributes before it.
// The contents are parsed. Errors wrap ErrMalformed.
func Variable(file []byte) ([]byte, error) {
	_, err := Parse(file)
	if err == nil {
		return file, nil
	}
	for _, skip := range []int{signedHeader(file), attributes(file)} {
		if skip > 0 {
			if _, e := Parse(file[skip:]); e == nil {
				return file[skip:], nil
			}
		}
	}
	return nil, err
}

// attributes is the length of the attributes that efivarfs puts before a variable's contents, 0 if they are none that a signature
// database has.
func attributes(file []byte) int {
	const size, runtimeAccess, known = 4, 0x6, 0x7f
	if len(file) < size {
		return 0
	}
	if a := binary.LittleEndian.Uint32(file); a&runtimeAccess != runtimeAccess || a > known {
		return 0
	}
	return size
}

// signedHeader is the length of what stands before the contents in an .auth file: a time and a WIN_CERTIFICATE_UEFI_GUID; 0 if
// there is none.
func signedHeader(file []byte) int {
	const time, fixed = 16, 24
	if len(file) < time+fixed {
		return 0
	}
	c := file[time:]
	length := binary.LittleEndian.Uint32(c)
	if binary.LittleEndian.Uint16(c[4:]) != 0x0200 || binary.LittleEndian.Uint16(c[6:]) != 0x0ef1 || GUID(c[8:24]) != pkcs7 ||
		length < fixed || uint64(length) > uint64(len(c)) {
		return 0
	}
	return time + int(length)
}
