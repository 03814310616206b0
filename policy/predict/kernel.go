package predict

import (
	"fmt"
	"regexp"
	"strconv"

	"github.com/tpm2-p11/tpm2-p11/policy/predict/pe"
)

// section is a part of a UKI that systemd-stub measures since a version of it.
type section struct {
	name  string
	since int
}

// sections are in the order of measurement, which never changed (systemd-stub(7), src/fundamental/uki.h of systemd). .pcrsig is
// not among them: it signs their result.
var sections = []section{
	{".linux", 252}, {".osrel", 252}, {".cmdline", 252}, {".initrd", 252}, {".ucode", 256}, {".splash", 252}, {".dtb", 252},
	{".uname", 253}, {".sbat", 254}, {".pcrpkey", 252}, {".profile", 257}, {".hwids", 257},
}

// chosen are sections of which the stub takes one that fits the hardware, if any.
var chosen = []section{{".dtbauto", 257}, {".efifw", 258}}

// Versions of systemd-stub in which things changed.
const (
	oldestStub  = 252 // it measures sections, and has firmware load the kernel
	profileStub = 257 // it knows profiles
	directStub  = 258 // it loads the kernel itself
)

// kernel is what a UKI holds.
type kernel struct {
	image          *pe.Image
	linux          *pe.Image
	version        int // of systemd-stub
	hasCommandLine bool
	parts          []part // in the order of measurement
}

// part is a section as it lies in memory.
type part struct {
	name    string
	content []byte
}

// kernelOf reads a UKI; nil for another application.
func kernelOf(image *pe.Image, version int) (*kernel, error) {
	if _, ok := image.Section(".linux"); !ok {
		if version != 0 {
			return nil, fmt.Errorf("%w: a version of systemd-stub for an image that is no UKI", ErrInput)
		}
		return nil, nil
	}
	k := &kernel{image: image}
	var err error
	if k.version, err = stubVersion(image, version); err != nil {
		return nil, err
	}
	for _, c := range chosen {
		if _, has := image.Section(c.name); has && k.version >= c.since {
			return nil, fmt.Errorf("%w: it chooses one of its %s sections by the hardware", ErrUnpredictable, c.name)
		}
	}
	for _, s := range sections {
		found, has := k.find(s.name)
		if !has || k.version < s.since || found.VirtualSize == 0 {
			continue
		}
		content, err := image.Contents(found)
		if err != nil {
			return nil, err
		}
		k.parts = append(k.parts, part{s.name, content})
		k.hasCommandLine = k.hasCommandLine || s.name == ".cmdline"
	}
	if len(k.parts) == 0 || k.parts[0].name != ".linux" {
		return nil, fmt.Errorf("%w: its default profile has no kernel", ErrNotStarted)
	}
	if k.linux, err = pe.Parse(k.parts[0].content); err != nil {
		return nil, fmt.Errorf("section .linux: %w", err)
	}
	return k, nil
}

// find is the section that the stub takes: sections before the first .profile are the base, and those of the first profile,
// which is the default, stand in their place.
func (k *kernel) find(name string) (found pe.Section, ok bool) {
	profiles := 0
	for _, s := range k.image.Sections {
		if s.Name == ".profile" && k.version >= profileStub {
			profiles++
		}
		if profiles > 1 {
			break
		}
		if s.Name == name && (!ok || profiles == 1) {
			found, ok = s, true
			if profiles == 1 {
				break
			}
		}
	}
	return found, ok
}

// measure is PCR 11.
func (k *kernel) measure(l *log) {
	for _, p := range k.parts {
		l.measure(PCRKernel, ipl, "the name "+p.name, []byte(p.name+"\x00"))
		l.measure(PCRKernel, ipl, "section "+p.name, p.content)
	}
}

// startedByFirmware tells whether firmware loads the kernel, and so measures it. Under secure boot the stub, which was verified
// with the kernel in it, bypasses firmware's verification and with it the measurement.
func (k *kernel) startedByFirmware(secureBoot bool) bool {
	return k.version < directStub && !secureBoot
}

var (
	stubMagic   = regexp.MustCompile(`^#### LoaderInfo: systemd-stub ([0-9]{1,4})[^0-9]`)
	amazonLinux = regexp.MustCompile(`(?m)^NAME="Amazon Linux"$`)
	release2023 = regexp.MustCompile(`(?m)^VERSION="2023"$`)
)

// stubVersion is the version of systemd-stub in an image: as the image says or, where it does not, as given.
func stubVersion(image *pe.Image, given int) (int, error) {
	version := given
	if magic, ok := image.Section(".sdmagic"); ok {
		text, err := image.Contents(magic)
		if err != nil {
			return 0, err
		}
		m := stubMagic.FindSubmatch(text)
		if m == nil {
			return 0, fmt.Errorf("%w: its stub is not systemd's", ErrUnpredictable)
		}
		version, _ = strconv.Atoi(string(m[1])) // at most four digits
		if given != 0 && given != version {
			return 0, fmt.Errorf("%w: the image's systemd-stub is %d, not %d", ErrInput, version, given)
		}
	} else if osrel, ok := image.Section(".osrel"); ok && version == 0 {
		// Its images for arm64 came without .sdmagic.
		text, err := image.Contents(osrel)
		if err != nil {
			return 0, err
		}
		if amazonLinux.Match(text) && release2023.Match(text) {
			version = oldestStub
		}
	}
	switch {
	case version == 0:
		return 0, fmt.Errorf("%w: it does not tell the version of its systemd-stub, which has to be given", ErrUnpredictable)
	case version < oldestStub:
		return 0, fmt.Errorf("%w: systemd-stub %d is older than %d, the first that measures itself whole", ErrUnpredictable, version, oldestStub)
	}
	return version, nil
}
