package policyfile_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"log"

	"github.com/google/go-tpm/tpm2"

	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/policy/policyfile"
)

// A build machine approves what an image will measure. Its key is any crypto.Signer: of a cloud's key service, of a PKCS #11
// library, of this module's package signer.
func ExampleEncodeApproved() {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		log.Fatal(err)
	}
	image, err := policyfile.Parse("image.toml", []byte(`pcr = { bank = "sha256", "7" = "65caf8dd1e0ea7a6347b635d2b379c93b9a1351edc2afc3ecda700e534eb3068" }`))
	if err != nil {
		log.Fatal(err)
	}
	digest, err := image.Policy.Digest(tpm2.TPMAlgSHA256)
	if err != nil {
		log.Fatal(err)
	}
	const ref = "tls/v1" // as in the policy of the keys that it is for
	signature, err := policy.Sign(key, digest, []byte(ref))
	if err != nil {
		log.Fatal(err)
	}
	file, err := policyfile.EncodeApproved([]policy.Approved{{Name: "ami-2026-11-20", Policy: image.Policy, Signature: signature}})
	if err != nil {
		log.Fatal(err)
	}

	// A machine with a key whose policy is authorize, with this signer and ref, takes it.
	signer, err := policy.NewSigner(key.Public())
	if err != nil {
		log.Fatal(err)
	}
	web := policy.Policy{Root: policy.Authorize{Signer: signer, Ref: ref}}
	approved, err := policyfile.ParseApproved("ami-2026-11-20.json", file)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(approved[0].Name, web.Takes(approved))
	// Output: ami-2026-11-20 true
}
