package keyservice_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"

	"github.com/tpm2-p11/tpm2-p11/internal/nitrosim/keyservice"
	"github.com/tpm2-p11/tpm2-p11/internal/nitrosim/nsm"
	"github.com/tpm2-p11/tpm2-p11/internal/nitrosim/simtest"
	"github.com/tpm2-p11/tpm2-p11/kms/cms"
)

var recipientKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

// machine is an attestable machine without a TPM, and a KMS that trusts its documents.
type machine struct {
	t         *testing.T
	kms       *simtest.KMS
	authority *nsm.Authority
	pcrs      nsm.PCRs
}

func newMachine(t *testing.T, change ...func(*keyservice.Options)) *machine {
	t.Helper()
	authority, err := nsm.New("i-0123456789abcdef0", simtest.Region, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{t: t, authority: authority}
	for i := range m.pcrs {
		m.pcrs[i] = bytes.Repeat([]byte{byte(i)}, 48)
	}
	o := keyservice.Options{Roots: []*x509.Certificate{authority.Root()}}
	for _, c := range change {
		c(&o)
	}
	m.kms = simtest.StartKMS(t, o)
	return m
}

// content is what the machine's documents state.
func (m *machine) content() nsm.Content {
	public, err := x509.MarshalPKIXPublicKey(recipientKey().Public())
	if err != nil {
		m.t.Fatal(err)
	}
	return nsm.Content{PCRs: m.pcrs, PublicKey: public}
}

// recipient is a request's Recipient with a document of the machine.
func (m *machine) recipient() *types.RecipientInfo { return m.document(time.Now(), m.content()) }

func (m *machine) document(now time.Time, c nsm.Content) *types.RecipientInfo {
	m.t.Helper()
	draft, err := m.authority.Draft(now, c)
	if err != nil {
		m.t.Fatal(err)
	}
	document, err := draft.Sign()
	if err != nil {
		m.t.Fatal(err)
	}
	return &types.RecipientInfo{AttestationDocument: document, KeyEncryptionAlgorithm: types.KeyEncryptionMechanismRsaesOaepSha256}
}

// open opens an answer with the recipient key.
func open(t *testing.T, closed []byte) []byte {
	t.Helper()
	plaintext, err := cms.Open(context.Background(), closed, recipientKey())
	if err != nil {
		t.Fatal(err)
	}
	defer plaintext.Wipe()
	return bytes.Clone(plaintext.Bytes())
}

// statements are a key policy: each of these, and the keys role's right to manage.
func statements(s ...map[string]any) string {
	s = append(s, statement("Allow", simtest.KeysRole.ARN, []string{"kms:*KeyPolicy", "kms:DescribeKey"}, nil))
	b, err := json.Marshal(map[string]any{"Version": "2012-10-17", "Statement": s})
	if err != nil {
		panic(err)
	}
	return string(b)
}

func statement(effect, principal string, action any, condition map[string]any) map[string]any {
	s := map[string]any{"Effect": effect, "Principal": map[string]any{"AWS": principal}, "Action": action, "Resource": "*"}
	if condition != nil {
		s["Condition"] = condition
	}
	return s
}

// pcr4 is the condition that a document shows the machine's PCR 4.
func (m *machine) pcr4() map[string]any {
	return map[string]any{"StringEqualsIgnoreCase": map[string]string{"kms:RecipientAttestation:NitroTPMPCR4": fmt.Sprintf("%X", m.pcrs[4])}}
}

// refused fails the test unless the KMS answered with a code.
func refused(t *testing.T, what string, err error, code string) smithy.APIError {
	t.Helper()
	var api smithy.APIError
	if !errors.As(err, &api) || api.ErrorCode() != code {
		t.Errorf("%s: error %v, want %s", what, err, code)
		return &smithy.GenericAPIError{}
	}
	return api
}
