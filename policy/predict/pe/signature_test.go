package pe

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/tpm2-p11/tpm2-p11/internal/imagetest"
)

// A vendor's root signs an intermediate, which signs the release key, which signs the image.
func TestSignaturesAreVerifiedUpToWhatOneTrusts(t *testing.T) {
	t.Parallel()
	root := imagetest.NewAuthority(t, "root", nil)
	middle := imagetest.NewAuthority(t, "middle", root)
	release := imagetest.NewAuthority(t, "release", middle)
	stranger := imagetest.NewAuthority(t, "root", nil) // of the same name
	image := parse(t, release.Sign(t, imagetest.Read(t, imagetest.Loader), middle))
	signatures, err := image.Signatures()
	if err != nil || len(signatures) != 1 || !signatures[0].Signer.Equal(release.Certificate) {
		t.Fatalf("%v, %v", signatures, err)
	}
	for _, trusted := range []*imagetest.Authority{root, middle, release} {
		if !signatures[0].VerifiedBy(trusted.Certificate) {
			t.Errorf("not verified by %s", trusted.Certificate.Subject)
		}
	}
	if signatures[0].VerifiedBy(stranger.Certificate) {
		t.Error("verified by a stranger")
	}

	incomplete, err := parse(t, release.Sign(t, imagetest.Read(t, imagetest.Loader))).Signatures()
	if err != nil {
		t.Fatal(err)
	}
	if incomplete[0].VerifiedBy(root.Certificate) || !incomplete[0].VerifiedBy(middle.Certificate) {
		t.Error("a chain with a gap")
	}
}

// osslsigncode signs with other hashes and kinds of keys than sbsign.
func TestSignaturesOfOsslsigncode(t *testing.T) {
	t.Parallel()
	for name, signer := range map[string]*imagetest.Authority{
		"RSA": imagetest.NewAuthority(t, "rsa", nil), "ECDSA": imagetest.NewECAuthority(t, "ec"),
	} {
		key, certificate := signer.Files(t)
		for _, hash := range []string{"sha256", "sha384", "sha512"} {
			out := filepath.Join(t.TempDir(), "signed")
			imagetest.Run(t, "osslsigncode", "sign", "-h", hash, "-certs", certificate, "-key", key, "-in", imagetest.Loader, "-out", out)
			signatures, err := parse(t, imagetest.Read(t, out)).Signatures()
			if err != nil || len(signatures) != 1 || !signatures[0].VerifiedBy(signer.Certificate) {
				t.Errorf("%s, %s: %v", name, hash, err)
			}
		}
	}
	key, certificate := imagetest.NewAuthority(t, "rsa", nil).Files(t)
	old := filepath.Join(t.TempDir(), "sha1")
	imagetest.Run(t, "osslsigncode", "sign", "-h", "sha1", "-certs", certificate, "-key", key, "-in", imagetest.Loader, "-out", old)
	if _, err := parse(t, imagetest.Read(t, old)).Signatures(); !errors.Is(err, ErrSignature) {
		t.Errorf("SHA-1: %v", err)
	}
}

func TestChangedImagesAndSignatures(t *testing.T) {
	t.Parallel()
	owner := imagetest.NewAuthority(t, "owner", nil)
	unsigned := imagetest.Read(t, imagetest.Loader)
	if signatures, err := parse(t, unsigned).Signatures(); err != nil || signatures != nil {
		t.Errorf("an unsigned image: %v, %v", signatures, err)
	}
	signed := owner.Sign(t, unsigned)
	if twice, err := parse(t, owner.Sign(t, signed)).Signatures(); err != nil || len(twice) != 2 {
		t.Errorf("signed twice: %v, %v", twice, err)
	}
	first := len(signed) - len(parse(t, signed).certificates)
	for name, at := range map[string]int{
		"code": first / 2, "length of the entry": first + 2, "revision": first + 4, "kind": first + 6,
		"type of the content": first + 8 + 10, "the signature": len(signed) - 20,
	} {
		bent := bytes.Clone(signed)
		bent[at] ^= 1
		if _, err := parse(t, bent).Signatures(); !errors.Is(err, ErrSignature) {
			t.Errorf("%s changed: %v", name, err)
		}
	}

	// The signature of one image under another.
	other := parse(t, owner.Sign(t, imagetest.Read(t, imagetest.Stub)))
	other.certificates = parse(t, signed).certificates
	if _, err := other.Signatures(); !errors.Is(err, ErrSignature) {
		t.Errorf("the signature of another image: %v", err)
	}
}

// FuzzSignatures: whatever follows an image, its signatures hold or it is an error.
func FuzzSignatures(f *testing.F) {
	image := headerOf(f)
	for _, seed := range []string{"rsa", "ec"} {
		b, err := os.ReadFile(filepath.Join("testdata", "certificates-"+seed)) // osslsigncode made them for this image
		if err != nil {
			f.Fatal(err)
		}
		i, err := Parse(image)
		if err != nil {
			f.Fatal(err)
		}
		i.certificates = b
		if signatures, err := i.Signatures(); err != nil || len(signatures) != 1 {
			f.Fatalf("%s: %v, %v", seed, signatures, err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, certificates []byte) {
		i, err := Parse(image)
		if err != nil {
			t.Fatal(err)
		}
		i.certificates = certificates
		signatures, err := i.Signatures()
		if err != nil && !errors.Is(err, ErrSignature) {
			t.Errorf("an untyped refusal: %v", err)
		}
		for _, s := range signatures {
			s.VerifiedBy(s.Signer)
		}
	})
}

// FuzzParse: any file is an image or an error, and an image has a hash and readable sections.
func FuzzParse(f *testing.F) {
	f.Add(headerOf(f))
	f.Fuzz(func(t *testing.T, file []byte) {
		i, err := Parse(file)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Errorf("an untyped refusal: %v", err)
			}
			return
		}
		i.Digest(5) // SHA-256
		for _, s := range i.Sections {
			if contents, err := i.Contents(s); err == nil && len(contents) != int(s.VirtualSize) || err != nil && !errors.Is(err, ErrMalformed) {
				t.Errorf("%d bytes of %+v, %v", len(contents), s, err)
			}
		}
	})
}
