package predict

import (
	"bytes"
	"crypto"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tpm2-p11/tpm2-p11/internal/imagetest"
	"github.com/tpm2-p11/tpm2-p11/policy/predict/pe"
)

func image(t *testing.T, file []byte) *pe.Image {
	t.Helper()
	i, err := pe.Parse(file)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func uki(t *testing.T, commandLine string) []byte {
	t.Helper()
	return imagetest.UKI(t, imagetest.Parts(t, commandLine)...)
}

func pcrs(t *testing.T, b Boot) map[uint][]byte {
	t.Helper()
	values, err := b.PCRs(crypto.SHA384)
	if err != nil {
		t.Fatal(err)
	}
	return values
}

// applicationsOf are the digests of the images that firmware starts.
func applicationsOf(t *testing.T, b Boot) [][]byte {
	t.Helper()
	events, err := b.Events(crypto.SHA384)
	if err != nil {
		t.Fatal(err)
	}
	var digests [][]byte
	for _, e := range events {
		if e.Type == application {
			digests = append(digests, e.Digest)
		}
	}
	return digests
}

// The value of machines of AWS that boot without secure boot, seen in their attestation documents.
func TestPCR7WithoutSecureBoot(t *testing.T) {
	t.Parallel()
	const known = "98441c7f7625d10058c47683aec486ce311c633235eb555593a7ee791121e3578ae72d04ecef661f272d59058b77af35"
	values := pcrs(t, Boot{Image: image(t, imagetest.Read(t, imagetest.Loader))})
	if got := hex.EncodeToString(values[PCRSecureBoot]); got != known {
		t.Errorf("PCR 7 is %s, want %s", got, known)
	}
	for _, i := range []uint{PCRKernel, PCRConfig} {
		if !bytes.Equal(values[i], make([]byte, 48)) {
			t.Errorf("PCR %d is %x, but the image is no UKI", i, values[i])
		}
	}
}

// systemd-measure predicts PCR 11 from the files that an image is made of, for each phase of the boot.
func TestPCR11IsThatOfSystemdMeasure(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var args []string
	var parts []imagetest.Part
	for _, p := range append(imagetest.Parts(t, "root=/dev/vda2 quiet"), imagetest.Part{Name: ".dtb", Content: "a device tree"},
		imagetest.Part{Name: ".splash", Content: "a picture"}, imagetest.Part{Name: ".pcrpkey", Content: "a key"}) {
		if p.Name == ".uname" {
			continue // of later versions
		}
		path := filepath.Join(dir, p.Name)
		if err := os.WriteFile(path, []byte(p.Content), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--"+strings.TrimPrefix(p.Name, ".")+"="+path)
		parts = append(parts, p)
	}
	parts = append(parts, imagetest.Part{Name: ".pcrsig", Content: "a signature of what is measured"}, imagetest.Part{Name: ".uname", Content: "6.1"})
	i := image(t, imagetest.UKI(t, parts...))
	for _, phases := range []string{"enter-initrd", "enter-initrd:leave-initrd", "enter-initrd:leave-initrd:sysinit:ready", "my-own"} {
		out := imagetest.Run(t, "/usr/lib/systemd/systemd-measure",
			append([]string{"calculate", "--json=short", "--bank=sha256", "--bank=sha384", "--phase=" + phases}, args...)...)
		var want map[string][]struct{ Hash string }
		if err := json.Unmarshal([]byte(out), &want); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		for bank, h := range map[string]crypto.Hash{"sha256": crypto.SHA256, "sha384": crypto.SHA384} {
			values, err := Boot{Image: i, Phases: strings.Split(phases, ":")}.PCRs(h)
			if err != nil {
				t.Fatal(err)
			}
			if got := hex.EncodeToString(values[PCRKernel]); len(want[bank]) != 1 || got != want[bank][0].Hash {
				t.Errorf("%s after %s: %s, systemd-measure says %s", bank, phases, got, out)
			}
		}
	}
}

// Firmware loads the kernel in the image, unless the stub does it itself.
func TestTheKernelIsMeasuredByFirmwareOrNot(t *testing.T) {
	t.Parallel()
	owner := imagetest.NewAuthority(t, "owner", nil)
	secure := variables(t, owner, nil)
	file := uki(t, "quiet")
	kernel := image(t, imagetest.Read(t, imagetest.Loader)).Digest(crypto.SHA384)
	for _, c := range []struct {
		stub     string
		on       Variables
		measured bool
	}{
		{"252", Variables{}, true}, {"257", Variables{}, true}, {"258", Variables{}, false}, {"260", Variables{}, false},
		{"252", secure, false}, {"258", secure, false},
	} {
		i := image(t, owner.Sign(t, imagetest.WithStub(t, file, c.stub)))
		want := [][]byte{i.Digest(crypto.SHA384)}
		if c.measured {
			want = append(want, kernel)
		}
		if got := applicationsOf(t, Boot{Image: i, SecureBoot: c.on}); !slices.EqualFunc(got, want, bytes.Equal) {
			t.Errorf("systemd-stub %s, secure boot %v: %x, want %x", c.stub, c.on.Enabled(), got, want)
		}
	}
}

// What a boot entry gives to the image is in PCR 12, and nowhere else.
func TestCommandLinesFromOutside(t *testing.T) {
	t.Parallel()
	owner := imagetest.NewAuthority(t, "owner", nil)
	secure := variables(t, owner, nil)
	with := image(t, owner.Sign(t, uki(t, "quiet")))
	without := image(t, owner.Sign(t, imagetest.UKI(t, imagetest.Parts(t, "")[2:]...)))
	zero := make([]byte, 48)
	given := pcrs(t, Boot{Image: with, CommandLine: "init=/bin/sh"})[PCRConfig]
	for name, c := range map[string]struct {
		boot Boot
		want []byte
	}{
		"none":                           {Boot{Image: with}, zero},
		"given":                          {Boot{Image: without, CommandLine: "init=/bin/sh"}, given},
		"given to one with its own":      {Boot{Image: with, CommandLine: "init=/bin/sh"}, given},
		"the same under secure boot":     {Boot{Image: with, CommandLine: "init=/bin/sh", SecureBoot: secure}, zero},
		"to one without, in secure boot": {Boot{Image: without, CommandLine: "init=/bin/sh", SecureBoot: secure}, given},
	} {
		if got := pcrs(t, c.boot)[PCRConfig]; !bytes.Equal(got, c.want) {
			t.Errorf("%s: PCR 12 is %x, want %x", name, got, c.want)
		}
	}
	if bytes.Equal(given, zero) || bytes.Equal(given, pcrs(t, Boot{Image: with, CommandLine: "init=/bin/ash"})[PCRConfig]) {
		t.Error("command lines are not told apart")
	}
}

// Of an image with profiles the first is what boots unless another is asked for.
func TestTheFirstProfileIsTheDefault(t *testing.T) {
	t.Parallel()
	kernel := string(imagetest.Read(t, imagetest.Loader))
	part := func(name, content string) imagetest.Part { return imagetest.Part{Name: name, Content: content} }
	file := imagetest.UKI(t, part(".linux", kernel), part(".cmdline", "base"),
		part(".profile", "ID=main"), part(".cmdline", "main"), part(".profile", "ID=rescue"), part(".cmdline", "rescue"), part(".initrd", "rescue's"))
	measured := func(version string) (names, contents []string) {
		k, err := kernelOf(image(t, imagetest.WithStub(t, file, version)), 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range k.parts[1:] {
			names, contents = append(names, p.name), append(contents, string(p.content))
		}
		return names, contents
	}
	names, contents := measured("257")
	if got := strings.Join(append(names, contents...), " "); !strings.HasPrefix(got, ".cmdline .sbat .profile main ") || !strings.HasSuffix(got, "ID=main") {
		t.Errorf("measured: %q", got)
	}
	// Before there were profiles, the first of each name was taken.
	names, contents = measured("252")
	if got := strings.Join(append(names, contents...), " "); got != ".cmdline .initrd base rescue's" {
		t.Errorf("measured by 252: %q", got)
	}
}

func TestImagesOfAmazonLinuxWithoutTheirStubsName(t *testing.T) {
	t.Parallel()
	nameless := func(osrel string) *pe.Image {
		parts := []imagetest.Part{{Name: ".osrel", Content: osrel}, {Name: ".linux", Content: string(imagetest.Read(t, imagetest.Loader))}}
		file := imagetest.UKI(t, parts...)
		return image(t, bytes.Replace(file, []byte(".sdmagic"), []byte(".nomagic"), 1))
	}
	amazon := nameless("NAME=\"Amazon Linux\"\nVERSION=\"2023\"\n")
	if n := len(applicationsOf(t, Boot{Image: amazon})); n != 2 {
		t.Errorf("%d applications", n)
	}
	other := nameless("NAME=\"Amazon Linux\"\nVERSION=\"2026\"\n")
	if _, err := (Boot{Image: other}).PCRs(crypto.SHA384); !errors.Is(err, ErrUnpredictable) {
		t.Errorf("an unknown stub: %v", err)
	}
	if n := len(applicationsOf(t, Boot{Image: other, StubVersion: 258})); n != 1 {
		t.Errorf("%d applications with version 258 given", n)
	}
}

func TestWhatCannotBePredicted(t *testing.T) {
	t.Parallel()
	good := uki(t, "quiet")
	kernel := imagetest.Part{Name: ".linux", Content: string(imagetest.Read(t, imagetest.Loader))}
	hardware := imagetest.UKI(t, kernel, imagetest.Part{Name: ".dtbauto", Content: "tree"})
	for name, c := range map[string]struct {
		boot Boot
		want error
	}{
		"no image":                    {Boot{}, ErrInput},
		"an old stub":                 {Boot{Image: image(t, imagetest.WithStub(t, good, "251"))}, ErrUnpredictable},
		"another stub":                {Boot{Image: image(t, bytes.Replace(good, []byte("systemd-stub"), []byte("zystemd-stub"), 1))}, ErrUnpredictable},
		"a version against the image": {Boot{Image: image(t, good), StubVersion: 258}, ErrInput},
		"a version without a stub":    {Boot{Image: image(t, []byte(kernel.Content)), StubVersion: 258}, ErrInput},
		"a choice by hardware":        {Boot{Image: image(t, imagetest.WithStub(t, hardware, "257"))}, ErrUnpredictable},
		"a kernel that is none":       {Boot{Image: image(t, imagetest.UKI(t, imagetest.Part{Name: ".linux", Content: "no kernel"}))}, pe.ErrMalformed},
		"no kernel by default": {Boot{Image: image(t, imagetest.WithStub(t, imagetest.UKI(t, imagetest.Part{Name: ".profile", Content: "ID=a"},
			imagetest.Part{Name: ".profile", Content: "ID=b"}, kernel), "257"))}, ErrNotStarted},
		"a command line for no UKI": {Boot{Image: image(t, []byte(kernel.Content)), CommandLine: "quiet"}, ErrInput},
		"white space around":        {Boot{Image: image(t, good), CommandLine: " quiet"}, ErrInput},
		"a control character":       {Boot{Image: image(t, good), CommandLine: "a\nb"}, ErrInput},
		"a profile":                 {Boot{Image: image(t, good), CommandLine: "@1 quiet"}, ErrInput},
		"phases of no UKI":          {Boot{Image: image(t, []byte(kernel.Content)), Phases: []string{"ready"}}, ErrInput},
		"phases in one":             {Boot{Image: image(t, good), Phases: []string{"sysinit:ready"}}, ErrInput},
		"an empty phase":            {Boot{Image: image(t, good), Phases: []string{""}}, ErrInput},
	} {
		if _, err := c.boot.PCRs(crypto.SHA256); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if _, err := (Boot{Image: image(t, good)}).PCRs(crypto.Hash(99)); !errors.Is(err, ErrInput) {
		t.Errorf("an unknown hash: %v", err)
	}
	if _, err := (Boot{Image: image(t, hardware)}).PCRs(crypto.SHA256); err != nil {
		t.Errorf("a stub that knows no choice by hardware: %v", err)
	}
}
