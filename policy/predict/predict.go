// Package predict computes from a machine image what the TPM's PCRs will hold
// once the image has booted: PCR 4, 7, 11 and 12 of a unified kernel image
// (UKI), in any hash. It needs no TPM.
//
// PCR 4 holds what firmware starts, PCR 7 the state of secure boot (TCG PC
// Client Platform Firmware Profile, sections 3.3.4.5 and 3.3.4.8), PCR 11 the
// parts of the image and PCR 12 what is given to it from outside (systemd-stub,
// systemd-measure(1)). AWS's attestable images are UKIs that firmware starts
// itself.
//
// What is not known, or would not boot, is an error and not a guess.
package predict

import (
	"crypto"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf16"

	"github.com/tpm2-p11/tpm2-p11/policy/predict/pe"
)

// What can be wrong with a boot, for errors.Is.
var (
	// ErrUnpredictable says that the measurements depend on what cannot be known from the image.
	ErrUnpredictable = errors.New("what this image measures cannot be known beforehand")
	// ErrNotStarted says that an image would not start, mostly because secure boot would not let it.
	ErrNotStarted = errors.New("the machine would not start this image")
	// ErrInput says that what was given beside the images makes no sense.
	ErrInput = errors.New("invalid input to a prediction")
)

// The PCRs that a Boot predicts.
const (
	PCRBoot       = 4
	PCRSecureBoot = 7
	PCRKernel     = 11
	PCRConfig     = 12
)

// Boot is a way to start a machine. Image is required.
type Boot struct {
	// Loaders start before the image, in this order, and start it by way of firmware, as systemd-boot does. PCR 12 is predicted
	// as if they measured nothing and gave nothing to the image; systemd-boot 252 does give it the image's own command line.
	Loaders []*pe.Image
	// Image is the UKI, or any other application: then nothing is measured by it.
	Image *pe.Image
	// SecureBoot are the machine's variables; secure boot is on when they have a PK.
	SecureBoot Variables
	// CommandLine is given to the image by who starts it (a boot entry). An image with a command line of its own ignores it
	// under secure boot.
	CommandLine string
	// Phases are those that userspace has been through when the PCRs are looked at, as systemd-pcrphase measures them into PCR 11:
	// enter-initrd, leave-initrd, sysinit, ready.
	Phases []string
	// StubVersion is the version of the image's systemd-stub, where the image does not tell; else 0.
	StubVersion int
}

// Event is one measurement.
type Event struct {
	PCR    uint
	Type   string // the standard's name, EV_…
	What   string // for people
	Digest []byte // what the PCR is extended by
}

// Events are the measurements into the PCRs that h, one of the TPM's hashes, has; in each PCR in their order.
func (b Boot) Events(h crypto.Hash) ([]Event, error) {
	if b.Image == nil {
		return nil, fmt.Errorf("%w: there is no image", ErrInput)
	}
	if !h.Available() {
		return nil, fmt.Errorf("%w: hash %v is not known", ErrInput, h)
	}
	l := &log{hash: h}
	k, err := kernelOf(b.Image, b.StubVersion)
	if err != nil {
		return nil, err
	}
	b.applications(l, k)
	if err := b.policy(l); err != nil {
		return nil, err
	}
	if err := b.configuration(l, k); err != nil {
		return nil, err
	}
	if k != nil {
		k.measure(l)
	}
	return l.events, b.phases(l, k)
}

// PCRs are the values of PCRs 4, 7, 11 and 12 in a hash.
func (b Boot) PCRs(h crypto.Hash) (map[uint][]byte, error) {
	events, err := b.Events(h)
	if err != nil {
		return nil, err
	}
	values := map[uint][]byte{}
	for _, i := range []uint{PCRBoot, PCRSecureBoot, PCRKernel, PCRConfig} {
		values[i] = make([]byte, h.Size())
	}
	for _, e := range events {
		sum := h.New()
		sum.Write(values[e.PCR])
		sum.Write(e.Digest)
		values[e.PCR] = sum.Sum(nil)
	}
	return values, nil
}

// log collects measurements.
type log struct {
	hash   crypto.Hash
	events []Event
}

func (l *log) add(pcr uint, kind, what string, digest []byte) {
	l.events = append(l.events, Event{PCR: pcr, Type: kind, What: what, Digest: digest})
}

func (l *log) measure(pcr uint, kind, what string, data ...[]byte) {
	sum := l.hash.New()
	for _, d := range data {
		sum.Write(d)
	}
	l.add(pcr, kind, what, sum.Sum(nil))
}

const (
	application = "EV_EFI_BOOT_SERVICES_APPLICATION"
	separator   = "EV_SEPARATOR"
	ipl         = "EV_IPL"
)

func (l *log) separator(pcr uint) {
	l.measure(pcr, separator, "end of the firmware's own", make([]byte, 4))
}

// applications are PCR 4.
func (b Boot) applications(l *log, k *kernel) {
	const action = "Calling EFI Application from Boot Option"
	l.measure(PCRBoot, "EV_EFI_ACTION", action, []byte(action))
	l.separator(PCRBoot)
	for n, image := range b.Loaders {
		l.add(PCRBoot, application, fmt.Sprintf("loader %d", n+1), image.Digest(l.hash))
	}
	l.add(PCRBoot, application, "the image", b.Image.Digest(l.hash))
	if k != nil && k.startedByFirmware(b.SecureBoot.Enabled()) {
		l.add(PCRBoot, application, "the kernel in the image", k.linux.Digest(l.hash))
	}
}

// configuration is PCR 12: what did not come with the image.
func (b Boot) configuration(l *log, k *kernel) error {
	if b.CommandLine == "" {
		return nil
	}
	if k == nil {
		return fmt.Errorf("%w: only a UKI measures the command line that it is given", ErrInput)
	}
	if strings.TrimSpace(b.CommandLine) != b.CommandLine || strings.IndexFunc(b.CommandLine, func(r rune) bool { return r < ' ' }) >= 0 ||
		b.CommandLine[0] == '@' {
		return fmt.Errorf("%w: a command line has no white space around it, no control characters, and no profile (@) before it", ErrInput)
	}
	if b.SecureBoot.Enabled() && k.hasCommandLine {
		return nil
	}
	l.measure(PCRConfig, ipl, "the command line given to the image", utf16le(b.CommandLine+"\x00"))
	return nil
}

// phases are what userspace adds to PCR 11.
func (b Boot) phases(l *log, k *kernel) error {
	if len(b.Phases) > 0 && k == nil {
		return fmt.Errorf("%w: phases are measured after a UKI only", ErrInput)
	}
	for _, phase := range b.Phases {
		if phase == "" || strings.Contains(phase, ":") {
			return fmt.Errorf("%w: %q is no phase, which is a word such as enter-initrd", ErrInput, phase)
		}
		l.measure(PCRKernel, ipl, "phase "+phase, []byte(phase))
	}
	return nil
}

// utf16le is text as UEFI has it.
func utf16le(s string) []byte {
	var b []byte
	for _, c := range utf16.Encode([]rune(s)) {
		b = binary.LittleEndian.AppendUint16(b, c)
	}
	return slices.Clip(b)
}
