package p11

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"testing"

	"github.com/tpm2-p11/tpm2-p11/internal/secret"
	"github.com/tpm2-p11/tpm2-p11/keystore"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// signed takes a function's signature.
func (w *world) signed(call func(*Output) error) []byte {
	w.t.Helper()
	out := Output{Capacity: 1 << 10}
	w.must(call(&out))
	_, signature := out.Result()
	return signature
}

func TestManyMessagesAreSignedAfterOneInit(t *testing.T) {
	t.Parallel()
	w := open(t)
	w.make(ecKey("web"))
	s := w.session(false)
	private, public := w.one(s, CKO_PRIVATE_KEY), w.one(s, CKO_PUBLIC_KEY)
	m := mechanismOf(CKM_ECDSA_SHA256)

	w.refused(w.SignMessage(s, nil, []byte("a"), &Output{Capacity: 64}), CKR_OPERATION_NOT_INITIALIZED)
	w.refused(w.SignMessageBegin(s, nil), CKR_OPERATION_NOT_INITIALIZED)
	w.refused(w.SignMessageNext(s, nil, nil, nil), CKR_OPERATION_NOT_INITIALIZED)
	w.refused(w.MessageSignFinal(s), CKR_OPERATION_NOT_INITIALIZED)
	w.must(w.MessageSignInit(s, m, private))
	w.refused(w.MessageSignInit(s, m, private), CKR_OPERATION_ACTIVE)

	first := w.signed(func(out *Output) error { return w.SignMessage(s, nil, []byte("first"), out) })
	w.refused(w.SignMessageNext(s, nil, []byte("x"), nil), CKR_OPERATION_NOT_INITIALIZED)
	w.must(w.SignMessageBegin(s, nil))
	w.refused(w.SignMessageBegin(s, nil), CKR_OPERATION_ACTIVE)
	w.refused(w.SignMessage(s, nil, []byte("x"), &Output{Capacity: 64}), CKR_OPERATION_ACTIVE)
	w.refused(w.MessageSignFinal(s), CKR_OPERATION_ACTIVE)
	w.must(w.SignMessageNext(s, nil, []byte("sec"), nil))
	asked := w.commands(func() {
		w.must(w.SignMessageNext(s, nil, []byte("ond"), &Output{Query: true}))
		w.refused(w.SignMessageNext(s, nil, []byte("ond"), &Output{Capacity: 63}), CKR_BUFFER_TOO_SMALL)
	})
	if asked != 0 {
		t.Errorf("%d TPM commands for lengths", asked)
	}
	second := w.signed(func(out *Output) error { return w.SignMessageNext(s, nil, []byte("ond"), out) })
	w.must(w.MessageSignFinal(s))

	w.must(w.MessageVerifyInit(s, m, public))
	w.must(w.VerifyMessage(s, nil, []byte("first"), first))
	w.refused(w.VerifyMessage(s, nil, []byte("first"), second), CKR_SIGNATURE_INVALID)
	w.refused(w.VerifyMessage(s, nil, []byte("first"), first[1:]), CKR_SIGNATURE_LEN_RANGE)
	w.must(w.VerifyMessageBegin(s, nil))
	w.must(w.VerifyMessageNext(s, nil, []byte("sec"), nil))
	w.refused(w.MessageVerifyFinal(s), CKR_OPERATION_ACTIVE)
	w.must(w.VerifyMessageNext(s, nil, []byte("ond"), second))
	w.must(w.MessageVerifyFinal(s))
	w.refused(w.MessageVerifyFinal(s), CKR_OPERATION_NOT_INITIALIZED)
}

func TestAFailedPartEndsTheMessageAndNotTheProcess(t *testing.T) {
	t.Parallel()
	w := open(t)
	w.make(ecKey("web"))
	s := w.session(false)
	w.must(w.MessageSignInit(s, mechanismOf(CKM_ECDSA_SHA256), w.one(s, CKO_PRIVATE_KEY)))
	w.refused(w.SignMessageBegin(s, []byte("a parameter that no signature has")), CKR_MECHANISM_PARAM_INVALID)
	w.must(w.SignMessageBegin(s, nil))
	w.refused(w.SignMessageNext(s, []byte("again"), []byte("part"), nil), CKR_MECHANISM_PARAM_INVALID)
	w.refused(w.SignMessageNext(s, nil, []byte("part"), nil), CKR_OPERATION_NOT_INITIALIZED)
	w.signed(func(out *Output) error { return w.SignMessage(s, nil, []byte("another"), out) })
}

// A key that asks for its own PIN asks for each message anew.
func TestEachMessageNeedsTheKeysOwnPIN(t *testing.T) {
	t.Parallel()
	w := open(t)
	own := secret.From([]byte("own-pin-1"))
	defer own.Wipe()
	w.make(keystore.KeySpec{Label: "own", Type: provider.P256, Use: provider.Use{Sign: true}, Wrapped: true, OwnPIN: own})
	s := w.session(false)
	w.must(w.MessageSignInit(s, mechanismOf(CKM_ECDSA_SHA256), w.one(s, CKO_PRIVATE_KEY)))
	for range 2 {
		w.refused(w.SignMessage(s, nil, []byte("m"), &Output{Capacity: 64}), CKR_USER_NOT_LOGGED_IN)
		w.must(w.Login(s, CKU_CONTEXT_SPECIFIC, []byte("own-pin-1")))
		w.signed(func(out *Output) error { return w.SignMessage(s, nil, []byte("m"), out) })
	}
}

func TestSignatureGivenBeforeItsData(t *testing.T) {
	t.Parallel()
	w := open(t)
	key := w.make(ecKey("web"))
	s := w.session(false)
	private, public := w.one(s, CKO_PRIVATE_KEY), w.one(s, CKO_PUBLIC_KEY)
	m := mechanismOf(CKM_ECDSA_SHA256)
	signature, err := w.sign(s, m, private, []byte("the contract"))
	w.must(err)

	w.refused(w.VerifySignatureInit(s, m, public, signature[1:]), CKR_SIGNATURE_LEN_RANGE)
	w.refused(w.VerifySignature(s, nil), CKR_OPERATION_NOT_INITIALIZED)
	w.must(w.VerifySignatureInit(s, m, public, signature))
	w.refused(w.VerifyInit(s, m, public), CKR_OPERATION_ACTIVE)
	w.refused(w.VerifyFinal(s, signature), CKR_OPERATION_NOT_INITIALIZED)
	w.must(w.VerifySignature(s, []byte("the contract")))
	w.refused(w.VerifySignature(s, []byte("the contract")), CKR_OPERATION_NOT_INITIALIZED)

	w.must(w.VerifySignatureInit(s, m, public, signature))
	w.must(w.VerifySignatureUpdate(s, []byte("the ")))
	w.must(w.VerifySignatureUpdate(s, []byte("contract")))
	w.must(w.VerifySignatureFinal(s))
	w.must(w.VerifySignatureInit(s, m, public, signature))
	w.refused(w.VerifySignature(s, []byte("another")), CKR_SIGNATURE_INVALID)

	pub, err := key.Object.Public.Key()
	w.must(err)
	digest := sha256.Sum256([]byte("the contract"))
	if err := (ecdsaScheme{key: pub.(*ecdsa.PublicKey), h: crypto.SHA256}).verify(digest[:], signature); err != nil {
		t.Error(err)
	}
}
