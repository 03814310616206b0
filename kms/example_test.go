package kms_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/tpm2-p11/tpm2-p11/attest"
	"github.com/tpm2-p11/tpm2-p11/kms"
	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// A data key of KMS, and a record encrypted with it.
func Example() {
	ctx := context.Background()
	var tpm *provider.TPM  // the instance's TPM
	key := recipientKey()  // in a program: signer.Open(ctx, "recipient")
	keyID := "alias/myapp" // of the KMS key
	stored := []byte("…")  // what DataKey gave earlier

	service, err := kms.NewService(ctx, kms.Options{})
	if err != nil {
		log.Fatal(err)
	}
	document := func(ctx context.Context, r attest.Request) ([]byte, error) { return attest.Document(ctx, tpm, r) }
	client, err := kms.NewClient(service, document, key)
	if err != nil {
		log.Fatal(err)
	}
	unwrapper, err := kms.NewUnwrapper(client, kms.UnwrapperOptions{KeyID: keyID, CacheFor: 5 * time.Minute})
	if err != nil {
		log.Fatal(err)
	}
	defer unwrapper.Close()

	purpose := map[string]string{"purpose": "records"}
	secret, ciphertext, err := unwrapper.DataKey(ctx, purpose)

	secret, err = unwrapper.Unwrap(ctx, stored, purpose)
	if err != nil {
		log.Fatal(err)
	}
	defer secret.Wipe()
	aead, err := secret.AEAD()

	var denied *kms.AccessError
	switch {
	case errors.As(err, &denied):
		fmt.Println("the key policy does not know this image: PCR 4 is", denied.PCRs[4])
	case errors.Is(err, kms.ErrCiphertext):
		fmt.Println("another ciphertext, or another encryption context")
	case errors.Is(err, kms.ErrUnreachable), errors.Is(err, kms.ErrThrottled):
		fmt.Println("try again later")
	}

	_, _ = ciphertext, aead
}

// A machine that boots while KMS is out of reach.
func ExampleOffline() {
	var tpm *provider.TPM  // the instance's TPM
	var client *kms.Client // as above
	keyID := "alias/myapp"
	pcrs, err := policy.ParsePCR("sha384:4,7")
	if err != nil {
		log.Fatal(err)
	}

	var unwrapper *kms.Unwrapper
	unwrapper, err = kms.NewUnwrapper(client, kms.UnwrapperOptions{KeyID: keyID, Offline: &kms.Offline{
		Dir:  "/var/lib/tpm2-p11/offline",
		TPM:  tpm,
		PCRs: pcrs, // policy.ParsePCR("sha384:4,7")
		For:  24 * time.Hour,
	}})
	_, _ = unwrapper, err
}

// A key policy for two images.
func ExampleKeyPolicy() {
	var pcr4, nextPCR4, pcr7, pcr12 = value(4), value(5), value(7), value(0)

	policy, err := kms.KeyPolicy(kms.PolicyPrincipals{
		Machines:       []string{"arn:aws:iam::111122223333:role/web"},
		Encrypters:     []string{"arn:aws:iam::111122223333:role/release"},
		Administrators: []string{"arn:aws:iam::111122223333:role/keys"},
	},
		kms.Image{Name: "November", PCRs: map[int][]byte{4: pcr4, 7: pcr7, 12: pcr12}},
		kms.Image{Name: "December", PCRs: map[int][]byte{4: nextPCR4, 7: pcr7, 12: pcr12}},
	)
	if err != nil {
		log.Fatal(err)
	}
	findings, err := kms.Lint(policy)
	fmt.Println(findings, err)
	// Output: [] <nil>
}
