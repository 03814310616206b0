package kms_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/tpm2-p11/tpm2-p11/attest"
	"github.com/tpm2-p11/tpm2-p11/internal/nitrosim/cms"
	"github.com/tpm2-p11/tpm2-p11/internal/nitrosim/nsm"
)

const (
	region = "eu-central-1"
	keyARN = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
)

// question is a request of AWS JSON 1.1 to KMS, with the fields that the tests use.
type question struct {
	KeyId             string
	CiphertextBlob    []byte
	Plaintext         []byte
	PublicKey         []byte
	NumberOfBytes     int
	KeyPairSpec       string
	EncryptionContext map[string]string
	Recipient         *struct {
		AttestationDocument    []byte
		KeyEncryptionAlgorithm string
	}

	operation string
	raw       map[string]json.RawMessage
}

// answer is what goes back.
type answer map[string]any

// refusal is an error in AWS's shape.
type refusal struct {
	code, message string
	status        int // 0: 400
}

func (r *refusal) Error() string { return r.code }

// fakeKMS is one key of KMS behind HTTP. It takes documents of its authority
// with PCR 4 as allowed, and closes its answers for them.
type fakeKMS struct {
	*httptest.Server
	authority *nsm.Authority
	pcr4      []byte
	aead      cipher.AEAD
	agreement *ecdh.PrivateKey

	mu        sync.Mutex
	hits      int
	form      cms.Form
	fault     func(n int, q question, w http.ResponseWriter) bool // true: it answered the nth request
	bend      func(q question, a answer)                          // changes a right answer
	questions []question
}

func newFake(t *testing.T, start func(http.Handler) *httptest.Server, authority *nsm.Authority, pcr4 []byte) *fakeKMS {
	t.Helper()
	key := make([]byte, 32)
	rand.Read(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeKMS{authority: authority, pcr4: pcr4}
	if f.aead, err = cipher.NewGCMWithRandomNonce(block); err != nil {
		t.Fatal(err)
	}
	if f.agreement, err = ecdh.P256().GenerateKey(rand.Reader); err != nil {
		t.Fatal(err)
	}
	f.Server = start(f)
	f.Config.ErrorLog = log.New(io.Discard, "", 0) // broken connections are what some tests are about
	t.Cleanup(f.Close)
	return f
}

// seen are the requests that came so far.
func (f *fakeKMS) seen() []question {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]question(nil), f.questions...)
}

var signature = regexp.MustCompile(`^AWS4-HMAC-SHA256 Credential=[A-Za-z0-9]+/\d{8}/` + region + `/kms/aws4_request, SignedHeaders=[a-z0-9;-]*host[a-z0-9;-]*x-amz-date[a-z0-9;-]*, Signature=[0-9a-f]{64}$`)

func (f *fakeKMS) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hits++
	q, err := read(r)
	if err == nil {
		f.questions = append(f.questions, q)
		if f.fault != nil && f.fault(len(f.questions), q, w) {
			return
		}
		var a answer
		if a, err = f.answer(q); err == nil {
			if f.bend != nil {
				f.bend(q, a)
			}
			writeJSON(w, http.StatusOK, a)
			return
		}
	}
	refuse(w, err)
}

func read(r *http.Request) (q question, err error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return q, err
	}
	target, isKMS := strings.CutPrefix(r.Header.Get("X-Amz-Target"), "TrentService.")
	switch {
	case r.Method != http.MethodPost || r.URL.Path != "/" || r.Header.Get("Content-Type") != "application/x-amz-json-1.1" || !isKMS:
		return q, &refusal{code: "UnknownOperationException"}
	case !signature.MatchString(r.Header.Get("Authorization")) || r.Header.Get("X-Amz-Date") == "":
		return q, &refusal{code: "IncompleteSignature", message: r.Header.Get("Authorization")}
	}
	q.operation = target
	if err := json.Unmarshal(body, &q); err != nil {
		return q, &refusal{code: "SerializationException", message: err.Error()}
	}
	return q, json.Unmarshal(body, &q.raw)
}

func refuse(w http.ResponseWriter, err error) {
	r, ok := err.(*refusal)
	if !ok {
		r = &refusal{code: "KMSInternalException", message: err.Error(), status: 500}
	}
	if r.status == 0 {
		r.status = http.StatusBadRequest
	}
	writeJSON(w, r.status, answer{"__type": r.code, "message": r.message})
}

func writeJSON(w http.ResponseWriter, status int, a answer) {
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(a); err != nil {
		panic(err)
	}
}

// answer does what KMS does.
func (f *fakeKMS) answer(q question) (answer, error) {
	if q.KeyId != "" && q.KeyId != keyARN && q.KeyId != "alias/machines" && q.KeyId != keyARN[len(keyARN)-36:] {
		return nil, &refusal{code: "NotFoundException", message: "Key '" + q.KeyId + "' does not exist"}
	}
	if q.operation == "Encrypt" {
		return answer{"KeyId": keyARN, "CiphertextBlob": f.encrypt(q.Plaintext, q)}, nil
	}
	a, plaintext, err := f.plaintext(q)
	if err != nil {
		return nil, err
	}
	public, err := f.admit(q)
	if err != nil {
		return nil, err
	}
	closed, err := cms.Encrypt(public, plaintext, f.form)
	if err != nil {
		return nil, err
	}
	a["CiphertextForRecipient"] = closed
	if q.operation != "GenerateRandom" {
		a["KeyId"] = keyARN
	}
	return a, nil
}

// admit verifies a request's document and gives its public key.
func (f *fakeKMS) admit(q question) (*rsa.PublicKey, error) {
	if q.Recipient == nil || q.Recipient.KeyEncryptionAlgorithm != "RSAES_OAEP_SHA_256" {
		return nil, &refusal{code: "AccessDeniedException", message: "explicit deny in a resource-based policy"}
	}
	d, err := attest.Verify(q.Recipient.AttestationDocument, attest.Policy{Roots: []*x509.Certificate{f.authority.Root()}, MaxAge: nsm.LeafLifetime})
	if err != nil {
		return nil, &refusal{code: "ValidationException", message: "Attestation document: " + err.Error()}
	}
	if !bytes.Equal(d.PCRs[4], f.pcr4) {
		return nil, &refusal{code: "AccessDeniedException", message: "no resource-based policy allows the kms:" + q.operation + " action"}
	}
	public, err := x509.ParsePKIXPublicKey(d.PublicKey)
	if err != nil {
		return nil, &refusal{code: "ValidationException", message: "public key in the attestation document"}
	}
	return public.(*rsa.PublicKey), nil
}

// plaintext makes an answer's secret, and the rest of the answer.
func (f *fakeKMS) plaintext(q question) (a answer, plaintext []byte, err error) {
	random := make([]byte, q.NumberOfBytes)
	rand.Read(random)
	switch q.operation {
	case "Decrypt":
		plaintext, err := f.aead.Open(nil, nil, q.CiphertextBlob, contextOf(q))
		if err != nil {
			return nil, nil, &refusal{code: "InvalidCiphertextException"}
		}
		return answer{}, plaintext, nil
	case "GenerateDataKey":
		return answer{"CiphertextBlob": f.encrypt(random, q)}, random, nil
	case "GenerateRandom":
		return answer{}, random, nil
	case "GenerateDataKeyPair":
		if q.KeyPairSpec != "ECC_NIST_P256" {
			return nil, nil, &refusal{code: "ValidationException", message: "keyPairSpec"}
		}
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, nil, err
		}
		private, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return nil, nil, err
		}
		public, err := x509.MarshalPKIXPublicKey(key.Public())
		return answer{"PublicKey": public, "PrivateKeyCiphertextBlob": f.encrypt(private, q), "KeyPairSpec": q.KeyPairSpec}, private, err
	case "DeriveSharedSecret":
		peer, err := x509.ParsePKIXPublicKey(q.PublicKey)
		if err != nil {
			return nil, nil, &refusal{code: "ValidationException"}
		}
		public, err := peer.(*ecdsa.PublicKey).ECDH()
		if err != nil {
			return nil, nil, err
		}
		secret, err := f.agreement.ECDH(public)
		return answer{"KeyAgreementAlgorithm": "ECDH"}, secret, err
	}
	return nil, nil, &refusal{code: "UnknownOperationException", message: q.operation}
}

func (f *fakeKMS) encrypt(plaintext []byte, q question) []byte {
	return f.aead.Seal(nil, nil, plaintext, contextOf(q))
}

func contextOf(q question) []byte { return fmt.Append(nil, q.EncryptionContext) } // fmt sorts maps
