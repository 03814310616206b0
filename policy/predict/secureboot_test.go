package predict

import (
	"bytes"
	"crypto"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tpm2-p11/tpm2-p11/internal/imagetest"
	"github.com/tpm2-p11/tpm2-p11/policy/predict/esl"
	"github.com/tpm2-p11/tpm2-p11/policy/predict/pe"
)

// variables are those of a machine that starts what owner signed, but for what is in dbx.
func variables(t *testing.T, owner *imagetest.Authority, dbx []byte) Variables {
	t.Helper()
	list := imagetest.Read(t, imagetest.Database(t, owner))
	return Variables{PK: list, KEK: list, DB: list, DBX: dbx}
}

func hashList(t *testing.T, file []byte) []byte {
	t.Helper()
	dir := t.TempDir()
	path, list := filepath.Join(dir, "image"), filepath.Join(dir, "list")
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	imagetest.Run(t, "hash-to-efi-sig-list", path, list)
	return imagetest.Read(t, list)
}

// authoritiesOf are the digests of what let the images start.
func authoritiesOf(t *testing.T, b Boot) []string {
	t.Helper()
	events, err := b.Events(crypto.SHA384)
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, e := range events {
		if e.Type == "EV_EFI_VARIABLE_AUTHORITY" {
			found = append(found, e.What)
		}
	}
	return found
}

// The release key stays, images come and go: PCR 7 stays as well, PCR 4 does not.
func TestUpdatesUnderSecureBoot(t *testing.T) {
	t.Parallel()
	owner := imagetest.NewAuthority(t, "owner", nil)
	on := variables(t, owner, nil)
	november := pcrs(t, Boot{Image: image(t, owner.Sign(t, uki(t, "month=11"))), SecureBoot: on})
	december := pcrs(t, Boot{Image: image(t, owner.Sign(t, uki(t, "month=12"))), SecureBoot: on})
	if !bytes.Equal(november[PCRSecureBoot], december[PCRSecureBoot]) || bytes.Equal(november[PCRBoot], december[PCRBoot]) {
		t.Errorf("PCR 7 %x and %x, PCR 4 %x and %x", november[7], december[7], november[4], december[4])
	}
	off := pcrs(t, Boot{Image: image(t, owner.Sign(t, uki(t, "month=12")))})
	if bytes.Equal(off[PCRSecureBoot], december[PCRSecureBoot]) {
		t.Error("PCR 7 does not tell whether secure boot is on")
	}
}

// Each entry of db that let an image start is measured once, in the order of the images.
func TestLoadersAndTheirAuthorities(t *testing.T) {
	t.Parallel()
	vendor, owner := imagetest.NewAuthority(t, "vendor", nil), imagetest.NewAuthority(t, "owner", nil)
	signer := imagetest.NewAuthority(t, "signer", vendor)
	on := variables(t, owner, nil)
	on.DB = append(bytes.Clone(on.DB), imagetest.Read(t, imagetest.Database(t, vendor))...)
	loader := image(t, signer.Sign(t, imagetest.Read(t, imagetest.Loader)))
	kernel := image(t, owner.Sign(t, uki(t, "quiet")))

	got := strings.Join(authoritiesOf(t, Boot{Loaders: []*pe.Image{loader}, Image: kernel, SecureBoot: on}), "; ")
	if !strings.Contains(got, "CN=vendor; ") || !strings.HasSuffix(got, "CN=owner") {
		t.Errorf("authorities: %s", got)
	}
	own := image(t, owner.Sign(t, imagetest.Read(t, imagetest.Loader)))
	if got := authoritiesOf(t, Boot{Loaders: []*pe.Image{own}, Image: kernel, SecureBoot: on}); len(got) != 1 {
		t.Errorf("one authority for both: %q", got)
	}
}

// Firmware takes serial numbers that are negative, as Windows' makecert draws every other one.
func TestSerialNumbersThatAreNegative(t *testing.T) {
	t.Parallel()
	vendor, owner := imagetest.NewAuthority(t, "vendor", nil), imagetest.NewAuthority(t, "owner", nil)
	on := variables(t, owner, nil)
	serial := vendor.Certificate.SerialNumber.Bytes()
	negative := append([]byte{serial[0] | 0x80}, serial[1:]...)
	on.DB = append(bytes.ReplaceAll(imagetest.Read(t, imagetest.Database(t, vendor)), serial, negative), on.DB...)
	got := authoritiesOf(t, Boot{Image: image(t, owner.Sign(t, uki(t, "quiet"))), SecureBoot: on})
	if len(got) != 1 || !strings.HasSuffix(got[0], "CN=owner") {
		t.Errorf("authorities: %q", got)
	}
}

func TestImagesAllowedByTheirHash(t *testing.T) {
	t.Parallel()
	owner := imagetest.NewAuthority(t, "owner", nil)
	file := uki(t, "quiet")
	file = append(file, make([]byte, -len(file)&7)...) // as efitools and signing fill it up
	on := variables(t, owner, nil)
	on.DB = append(bytes.Clone(on.DB), hashList(t, file)...)
	if got := authoritiesOf(t, Boot{Image: image(t, file), SecureBoot: on}); len(got) != 1 || !strings.HasSuffix(got[0], "a hash") {
		t.Errorf("authorities of an unsigned image: %q", got)
	}
}

func TestImagesThatSecureBootWouldNotStart(t *testing.T) {
	t.Parallel()
	owner, stranger := imagetest.NewAuthority(t, "owner", nil), imagetest.NewAuthority(t, "stranger", nil)
	below := imagetest.NewAuthority(t, "below", owner)
	file := uki(t, "quiet")
	signed := owner.Sign(t, file)
	bent := bytes.Clone(signed)
	bent[len(bent)/2] ^= 1
	for name, c := range map[string]struct {
		file []byte
		dbx  []byte
	}{
		"unsigned":                    {file, nil},
		"signed by a stranger":        {stranger.Sign(t, file), nil},
		"changed after signing":       {bent, nil},
		"hash in dbx":                 {signed, hashList(t, signed)},
		"signer in dbx":               {signed, imagetest.Read(t, imagetest.Database(t, owner))},
		"certificate's issuer in dbx": {below.Sign(t, file), imagetest.Read(t, imagetest.Database(t, owner))},
		"certificate's hash in dbx":   {signed, revoked(owner)},
	} {
		_, err := Boot{Image: image(t, c.file), SecureBoot: variables(t, owner, c.dbx)}.PCRs(crypto.SHA384)
		if !errors.Is(err, ErrNotStarted) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A loader is held to the same.
	_, err := Boot{Loaders: []*pe.Image{image(t, file)}, Image: image(t, signed), SecureBoot: variables(t, owner, nil)}.PCRs(crypto.SHA384)
	if !errors.Is(err, ErrNotStarted) || !strings.Contains(err.Error(), "loader 1") {
		t.Errorf("an unsigned loader: %v", err)
	}
	for name, v := range map[string]Variables{
		"db":  {PK: []byte("x"), DB: []byte("x")},
		"dbx": {PK: []byte("x"), DBX: []byte("x")},
	} {
		if _, err := (Boot{Image: image(t, signed), SecureBoot: v}).PCRs(crypto.SHA384); !errors.Is(err, esl.ErrMalformed) {
			t.Errorf("a malformed %s: %v", name, err)
		}
	}
}

// revoked is a dbx of one certificate's hash, for all times.
func revoked(a *imagetest.Authority) []byte {
	sum := crypto.SHA256.New()
	sum.Write(a.Certificate.RawTBSCertificate)
	size := byte(16 + 32 + 16)
	list := append(bytes.Clone(esl.X509SHA256[:]), 28+size, 0, 0, 0, 0, 0, 0, 0, size, 0, 0, 0)
	list = append(list, make([]byte, 16)...)
	return append(sum.Sum(list), make([]byte, 16)...)
}
