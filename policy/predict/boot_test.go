//go:build boot

package predict

import (
	"bytes"
	"context"
	"crypto"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/tpm2-p11/tpm2-p11/internal/imagetest"
	"github.com/tpm2-p11/tpm2-p11/policy/predict/pe"
)

const firmware = "/usr/share/OVMF/"

// machine is a way to boot, in QEMU.
type machine struct {
	code, store string // of the firmware
	smm         string
}

var plain = machine{"OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd", "off"}

// bootFile is what firmware starts from a disk without boot entries.
const bootFile = "EFI/BOOT/BOOTX64.EFI"

// A machine boots an image, and its TPM has the PCRs that were predicted.
func TestBootPredictedIsBootMeasured(t *testing.T) {
	parts := func(commandLine string) []imagetest.Part {
		parts := imagetest.Parts(t, commandLine)
		for n := range parts {
			if parts[n].Name == ".linux" {
				parts[n].Content = string(kernelImage(t))
			}
		}
		return parts
	}
	file := imagetest.UKI(t, parts("quiet")...)
	t.Run("plain", func(t *testing.T) {
		compare(t, Boot{Image: image(t, file)}, plain.boot(t, disk(t, map[string][]byte{bootFile: file})...))
	})
	t.Run("by a loader", func(t *testing.T) {
		loader := imagetest.Read(t, imagetest.Loader)
		measured := plain.boot(t, disk(t, map[string][]byte{bootFile: loader, "EFI/Linux/test.efi": file})...)
		// systemd-boot 252 hands the image's own command line over to it; both measure that.
		for _, bank := range measured.pcrs {
			delete(bank, PCRConfig)
		}
		compare(t, Boot{Loaders: []*pe.Image{image(t, loader)}, Image: image(t, file)}, measured)
	})
	t.Run("with a command line from outside", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "image")
		if err := os.WriteFile(path, file, 0o600); err != nil {
			t.Fatal(err)
		}
		measured := plain.boot(t, "-kernel", path, "-append", "init=/bin/sh")
		// QEMU's way to start an image is no boot entry: PCR 4 is its own.
		for _, bank := range measured.pcrs {
			delete(bank, PCRBoot)
		}
		compare(t, Boot{Image: image(t, file), CommandLine: "init=/bin/sh"}, measured)
	})
	t.Run("secure", func(t *testing.T) {
		signed := signedBySnakeoil(t, file)
		secure := machine{"OVMF_CODE_4M.secboot.fd", "OVMF_VARS_4M.snakeoil.fd", "on"}
		measured := secure.boot(t, disk(t, map[string][]byte{bootFile: signed})...)
		compare(t, Boot{Image: image(t, signed), SecureBoot: measured.variables(t)}, measured)
	})
}

// measurements are what the kernel said.
type measurements struct {
	pcrs map[string]map[uint]string // by bank
	log  []byte
}

func compare(t *testing.T, b Boot, measured measurements) {
	t.Helper()
	for bank, h := range map[string]crypto.Hash{"sha256": crypto.SHA256, "sha384": crypto.SHA384} {
		values, err := b.PCRs(h)
		if err != nil {
			t.Fatal(err)
		}
		if len(measured.pcrs[bank]) < 15 {
			t.Fatalf("the kernel read %d PCRs of %s", len(measured.pcrs[bank]), bank)
		}
		for i, value := range values {
			if got, asked := measured.pcrs[bank][i]; asked && got != hex.EncodeToString(value) {
				t.Errorf("%s PCR %d is %s, predicted was %x", bank, i, got, value)
			}
		}
	}
}

// variables are those that the firmware measured.
func (m measurements) variables(t *testing.T) Variables {
	t.Helper()
	find := func(name string) []byte {
		// UEFI_VARIABLE_DATA: vendor, the lengths of name and contents, then both.
		header := binary.LittleEndian.AppendUint64(nil, uint64(len(name)))
		for _, vendor := range [][]byte{globalVariable[:], securityDatabase[:]} {
			if _, found, ok := bytes.Cut(m.log, append(bytes.Clone(vendor), header...)); ok && bytes.HasPrefix(found[8:], utf16le(name)) {
				return found[8+2*len(name):][:binary.LittleEndian.Uint64(found)]
			}
		}
		t.Fatalf("%s was not measured", name)
		return nil
	}
	return Variables{PK: find("PK"), KEK: find("KEK"), DB: find("db"), DBX: find("dbx")}
}

// kernelImage compiles testdata/kernel.c, and puts the headers of a PE image before it.
func kernelImage(t *testing.T) []byte {
	t.Helper()
	dir := t.TempDir()
	object, script, elf, flat := filepath.Join(dir, "k.o"), filepath.Join(dir, "k.ld"), filepath.Join(dir, "k.elf"), filepath.Join(dir, "k.bin")
	imagetest.Run(t, "gcc", "-c", "-Os", "-ffreestanding", "-fPIC", "-fvisibility=hidden", "-fno-stack-protector", "-mno-red-zone", "-mno-sse",
		"-fno-asynchronous-unwind-tables", "-fcf-protection=none", "-Wall", "-Wextra", "-Werror", "-o", object, "testdata/kernel.c")
	text := "SECTIONS { . = 0x1000; .text : { *(.entry) *(.text*) *(.rodata*) *(.data*) *(.bss*) } /DISCARD/ : { *(*) } }"
	if err := os.WriteFile(script, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	imagetest.Run(t, "ld", "-T", script, "-e", "entry", "-o", elf, object)
	imagetest.Run(t, "objcopy", "-O", "binary", elf, flat)
	code := imagetest.Read(t, flat)
	const headers, alignment = 0x1000, 0x1000
	padded := append(code, make([]byte, -len(code)&(alignment-1))...)
	b := make([]byte, headers)
	put := func(at, size int, v uint64) {
		for i := range size {
			b[at+i] = byte(v >> (8 * i))
		}
	}
	const pe, optional, section = 64, 64 + 24, 64 + 24 + 240
	copy(b, "MZ")
	put(60, 4, pe)
	copy(b[pe:], "PE\x00\x00")
	put(pe+4, 2, 0x8664)  // x86-64
	put(pe+6, 2, 1)       // sections
	put(pe+20, 2, 240)    // optional header
	put(pe+22, 2, 0x020e) // executable, no line numbers, no symbols, no debug information
	put(optional, 2, 0x20b)
	put(optional+16, 4, headers) // entry
	put(optional+32, 4, alignment)
	put(optional+36, 4, alignment)
	put(optional+44, 2, 1) // image version: a kernel that takes its initrd from the stub
	put(optional+56, 4, uint64(headers+len(padded)))
	put(optional+60, 4, headers)
	put(optional+68, 2, 10) // EFI application
	put(optional+108, 4, 16)
	copy(b[section:], ".text")
	put(section+8, 4, uint64(len(padded)))
	put(section+12, 4, headers)
	put(section+16, 4, uint64(len(padded)))
	put(section+20, 4, headers)
	put(section+36, 4, 0xe0000020)
	return append(b, padded...)
}

// signedBySnakeoil signs with the key that Debian's firmware for tests trusts.
func signedBySnakeoil(t *testing.T, file []byte) []byte {
	t.Helper()
	dir := t.TempDir()
	in, out, key := filepath.Join(dir, "in"), filepath.Join(dir, "out"), filepath.Join(dir, "key")
	if err := os.WriteFile(in, file, 0o600); err != nil {
		t.Fatal(err)
	}
	imagetest.Run(t, "openssl", "rsa", "-in", "/usr/share/ovmf/PkKek-1-snakeoil.key", "-passin", "pass:snakeoil", "-out", key)
	imagetest.Run(t, "sbsign", "--key", key, "--cert", "/usr/share/ovmf/PkKek-1-snakeoil.pem", "--output", out, in)
	return imagetest.Read(t, out)
}

// disk makes a disk with files, and gives QEMU's arguments for it.
func disk(t *testing.T, files map[string][]byte) []string {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "disk")
	if err := os.WriteFile(path, make([]byte, 40<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	imagetest.Run(t, "mformat", "-i", path, "-F", "::")
	imagetest.Run(t, "mmd", "-i", path, "::/EFI", "::/EFI/BOOT", "::/EFI/Linux")
	for name, content := range files {
		file := filepath.Join(dir, filepath.Base(name))
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
		imagetest.Run(t, "mcopy", "-i", path, file, "::/"+name)
	}
	return []string{"-drive", "format=raw,if=virtio,file=" + path}
}

// boot starts a machine with a new TPM, and waits until it switches itself off.
func (m machine) boot(t *testing.T, args ...string) measurements {
	t.Helper()
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	if err := os.WriteFile(path("variables"), imagetest.Read(t, firmware+m.store), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()

	if err := os.Mkdir(path("tpm"), 0o700); err != nil {
		t.Fatal(err)
	}
	imagetest.Run(t, "swtpm", "socket", "--tpm2", "--tpmstate", "dir="+path("tpm"), "--ctrl", "type=unixio,path="+path("s"), "--terminate", "--daemon")
	args = append([]string{"-machine", "q35,smm=" + m.smm, "-m", "256", "-display", "none", "-nodefaults", "-no-reboot", "-net", "none",
		"-serial", "file:" + path("serial"), "-global", "driver=cfi.pflash01,property=secure,value=" + m.smm,
		"-drive", "if=pflash,format=raw,unit=0,readonly=on,file=" + firmware + m.code,
		"-drive", "if=pflash,format=raw,unit=1,file=" + path("variables"),
		"-chardev", "socket,id=c,path=" + path("s"), "-tpmdev", "emulator,id=t,chardev=c", "-device", "tpm-crb,tpmdev=t"}, args...)
	out, err := exec.CommandContext(ctx, "qemu-system-x86_64", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("qemu: %v\n%s", err, out)
	}
	return said(t, strings.ReplaceAll(string(imagetest.Read(t, path("serial"))), "\r", ""))
}

// said reads what the kernel printed.
func said(t *testing.T, serial string) measurements {
	t.Helper()
	if !strings.Contains(serial, "@E\n") {
		t.Fatalf("the kernel did not come to its end:\n%s", serial)
	}
	m := measurements{pcrs: map[string]map[uint]string{"sha256": {}, "sha384": {}}}
	if found := regexp.MustCompile(`@L([0-9a-f]+)\n`).FindStringSubmatch(serial); found != nil {
		log, err := hex.DecodeString(found[1])
		if err != nil {
			t.Fatal(err)
		}
		m.log = log
	}
	for _, found := range regexp.MustCompile(`@P(0b|0c)([0-9a-f]{2})([0-9a-f]+)\n`).FindAllStringSubmatch(serial, -1) {
		var i uint
		if _, err := fmt.Sscanf(found[2], "%x", &i); err != nil {
			t.Fatal(err)
		}
		m.pcrs[map[string]string{"0b": "sha256", "0c": "sha384"}[found[1]]][i] = found[3]
	}
	return m
}
