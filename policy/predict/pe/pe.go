// Package pe reads PE images as UEFI firmware does: it hashes them for the
// TPM and for signatures (Authenticode), finds their sections, and verifies
// their signatures.
package pe

import (
	"bytes"
	"cmp"
	"crypto"
	_ "crypto/sha256" // for Image.Digest
	_ "crypto/sha512" // for Image.Digest
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"slices"
)

// ErrMalformed is wrapped by every error about an image that firmware would not load or that has more than one reading.
var ErrMalformed = errors.New("not a PE image for UEFI")

const (
	maxSections = 96      // the loader of Windows has the same limit
	maxPadding  = 1 << 20 // of a section's contents beyond what the file holds
)

// Image is a PE image. It keeps the slice that it was parsed from, and is safe for concurrent use.
type Image struct {
	Sections []Section

	file           []byte
	checksum       int // offset of the field that no hash covers
	directoryEntry int // offset of the certificate table's entry, 0 if the image has none
	headers        int // length of the headers
	certificates   []byte
}

// Section is a section of an image as its header has it. Sizes and offsets are in bytes.
type Section struct {
	Name                        string
	VirtualAddress, VirtualSize uint32 // in memory
	RawOffset, RawSize          uint32 // in the file
}

// Parse reads the headers of an image (Microsoft, PE Format). Errors wrap ErrMalformed.
func Parse(file []byte) (*Image, error) {
	i := &Image{file: file}
	if err := i.parse(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return i, nil
}

var errShort = errors.New("it is cut short")

func (i *Image) parse() error {
	if len(i.file) < 64 || string(i.file[:2]) != "MZ" {
		return errors.New("it does not begin with MZ")
	}
	at := int(binary.LittleEndian.Uint32(i.file[60:]))
	coff, err := i.slice(at, 24)
	if err != nil {
		return err
	}
	if string(coff[:4]) != "PE\x00\x00" {
		return errors.New("it has no PE signature")
	}
	sections, optionalSize := int(binary.LittleEndian.Uint16(coff[6:])), int(binary.LittleEndian.Uint16(coff[20:]))
	optional, err := i.slice(at+24, optionalSize)
	if err != nil {
		return err
	}
	if err := i.parseOptional(optional, at+24); err != nil {
		return err
	}
	return i.parseSections(at+24+optionalSize, sections)
}

// parseOptional reads the optional header, which lies at an offset in the file.
func (i *Image) parseOptional(header []byte, at int) error {
	if len(header) < 2 {
		return errShort
	}
	directories := 0 // offset of the number of data directories, which end the header
	switch magic := binary.LittleEndian.Uint16(header); magic {
	case 0x10b:
		directories = 92
	case 0x20b:
		directories = 108
	default:
		return fmt.Errorf("unknown optional header 0x%03x", magic)
	}
	if len(header) < directories+4 {
		return errShort
	}
	i.checksum = at + 64
	headers := binary.LittleEndian.Uint32(header[60:])
	count := binary.LittleEndian.Uint32(header[directories:])
	const certificateTable = 4
	if end := directories + 4 + 8*(certificateTable+1); count > certificateTable {
		if len(header) < end {
			return errShort
		}
		i.directoryEntry = at + end - 8
		offset, size := binary.LittleEndian.Uint32(header[end-8:]), binary.LittleEndian.Uint32(header[end-4:])
		if size > 0 && uint64(offset)+uint64(size) != uint64(len(i.file)) {
			return errors.New("its certificate table is not at its end")
		}
		i.certificates = i.file[len(i.file)-int(size):]
	}
	if uint64(headers) > uint64(len(i.file)-len(i.certificates)) || int(headers) < at+len(header) {
		return errors.New("the size of its headers is wrong")
	}
	i.headers = int(headers)
	return nil
}

func (i *Image) parseSections(at, count int) error {
	const size = 40
	if count > maxSections {
		return fmt.Errorf("it has %d sections", count)
	}
	table, err := i.slice(at, count*size)
	if err != nil {
		return err
	}
	if at+len(table) > i.headers {
		return errors.New("its section table is beyond its headers")
	}
	hashed := uint64(i.headers)
	for h := range slices.Chunk(table, size) {
		name, _, _ := bytes.Cut(h[:8], []byte{0})
		s := Section{
			Name:           string(name),
			VirtualSize:    binary.LittleEndian.Uint32(h[8:]),
			VirtualAddress: binary.LittleEndian.Uint32(h[12:]),
			RawSize:        binary.LittleEndian.Uint32(h[16:]),
			RawOffset:      binary.LittleEndian.Uint32(h[20:]),
		}
		if _, err := i.slice(int(s.RawOffset), int(s.RawSize)); err != nil && s.RawSize > 0 {
			return fmt.Errorf("section %q: %w", s.Name, err)
		}
		hashed += uint64(s.RawSize)
		i.Sections = append(i.Sections, s)
	}
	if hashed > uint64(len(i.file)) {
		return errors.New("its sections overlap")
	}
	return nil
}

func (i *Image) slice(offset, size int) ([]byte, error) {
	if offset < 0 || size < 0 || offset > len(i.file) || size > len(i.file)-offset {
		return nil, errShort
	}
	return i.file[offset : offset+size], nil
}

// Section is the first section of a name.
func (i *Image) Section(name string) (Section, bool) {
	at := slices.IndexFunc(i.Sections, func(s Section) bool { return s.Name == name })
	if at < 0 {
		return Section{}, false
	}
	return i.Sections[at], true
}

// Contents is a section of the image as it lies in memory: cut to its virtual size, or filled with zeros to it. It is an error
// if more than a mebibyte of it is not in the file.
func (i *Image) Contents(s Section) ([]byte, error) {
	held, err := i.slice(int(s.RawOffset), int(min(s.VirtualSize, s.RawSize)))
	if s.RawSize == 0 {
		held, err = nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%w: section %q: %w", ErrMalformed, s.Name, err)
	}
	if s.VirtualSize-uint32(len(held)) > maxPadding {
		return nil, fmt.Errorf("%w: section %q has %d bytes of which the file holds %d", ErrMalformed, s.Name, s.VirtualSize, s.RawSize)
	}
	if len(held) == int(s.VirtualSize) {
		return slices.Clip(held), nil
	}
	b := make([]byte, s.VirtualSize)
	copy(b, held)
	return b, nil
}

// Digest is the hash over an image that signatures sign and that firmware extends PCR 4 with: it covers neither checksum nor
// signatures (Microsoft, Windows Authenticode Portable Executable Signature Format; the bytes after the last section
// as EDK II counts them).
func (i *Image) Digest(h crypto.Hash) []byte {
	sum := h.New()
	i.write(sum)
	return sum.Sum(nil)
}

func (i *Image) write(sum hash.Hash) {
	sum.Write(i.file[:i.checksum])
	if i.directoryEntry == 0 {
		sum.Write(i.file[i.checksum+4 : i.headers])
	} else {
		sum.Write(i.file[i.checksum+4 : i.directoryEntry])
		sum.Write(i.file[i.directoryEntry+8 : i.headers])
	}
	hashed := i.headers
	byOffset := slices.Clone(i.Sections)
	slices.SortStableFunc(byOffset, func(a, b Section) int { return cmp.Compare(a.RawOffset, b.RawOffset) })
	for _, s := range byOffset {
		if s.RawSize > 0 {
			sum.Write(i.file[s.RawOffset:][:s.RawSize])
			hashed += int(s.RawSize)
		}
	}
	if rest := len(i.file) - len(i.certificates); rest > hashed {
		sum.Write(i.file[hashed:rest])
	}
}
