package p11

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"testing"
)

func (w *world) saved(s SessionHandle) []byte {
	w.t.Helper()
	out := Output{Query: true}
	w.must(w.GetOperationState(s, &out))
	n, _ := out.Result()
	w.refused(w.GetOperationState(s, &Output{Capacity: n - 1}), CKR_BUFFER_TOO_SMALL)
	out = Output{Capacity: n}
	w.must(w.GetOperationState(s, &out))
	_, state := out.Result()
	return bytes.Clone(state)
}

func TestADigestGoesOnInAnotherSession(t *testing.T) {
	t.Parallel()
	w := open(t)
	a, b := w.session(false), w.session(false)
	w.refused(w.GetOperationState(a, &Output{Query: true}), CKR_OPERATION_NOT_INITIALIZED)
	w.must(w.DigestInit(a, mechanismOf(CKM_SHA256)))
	w.must(w.DigestUpdate(a, []byte("the ")))
	state := w.saved(a)

	w.refused(w.SetOperationState(b, state, 1, 0), CKR_KEY_NOT_NEEDED)
	for name, bad := range map[string][]byte{"none": nil, "cut": state[:len(state)-1], "foreign": []byte("foreign"), "longer": append(bytes.Clone(state), 0)} {
		if err := w.SetOperationState(b, bad, 0, 0); !errors.Is(err, CKR_SAVED_STATE_INVALID) {
			t.Errorf("%s: %v", name, err)
		}
	}
	w.must(w.SetOperationState(b, state, 0, 0))
	for _, s := range []SessionHandle{b, a} {
		w.must(w.DigestUpdate(s, []byte("contract")))
		want := sha256.Sum256([]byte("the contract"))
		if got := w.signed(func(out *Output) error { return w.DigestFinal(s, out) }); !bytes.Equal(got, want[:]) {
			t.Errorf("the digest is %x", got)
		}
	}
}

func TestWhatAKeyDoesIsNotSaved(t *testing.T) {
	t.Parallel()
	w := open(t)
	w.make(ecKey("web"))
	s := w.session(false)
	w.must(w.DigestInit(s, mechanismOf(CKM_SHA256)))
	w.must(w.SignInit(s, mechanismOf(CKM_ECDSA_SHA256), w.one(s, CKO_PRIVATE_KEY)))
	w.refused(w.GetOperationState(s, &Output{Query: true}), CKR_STATE_UNSAVEABLE)
}

func TestCancelledOperationsAreOver(t *testing.T) {
	t.Parallel()
	w := open(t)
	w.make(ecKey("web"))
	s := w.session(false)
	key, public := w.one(s, CKO_PRIVATE_KEY), w.one(s, CKO_PUBLIC_KEY)
	none, m := Mechanism{Type: MechanismType(CK_UNAVAILABLE_INFORMATION)}, mechanismOf(CKM_ECDSA_SHA256)

	w.refused(w.SignInit(s, none, key), CKR_ARGUMENTS_BAD)
	w.must(w.SignInit(s, m, key))
	w.must(w.SignInit(s, none, key))
	w.refused(w.SignUpdate(s, nil), CKR_OPERATION_NOT_INITIALIZED)

	w.must(w.SessionCancel(s, 0))
	w.must(w.SessionCancel(s, CKF_SIGN))
	w.must(w.SignInit(s, m, key))
	w.must(w.VerifyInit(s, m, public))
	w.must(w.MessageSignInit(s, m, key))
	w.must(w.FindObjectsInit(s, nil))
	w.must(w.SessionCancel(s, CKF_SIGN|CKF_FIND_OBJECTS|CKF_MESSAGE_SIGN))
	w.refused(w.SignUpdate(s, nil), CKR_OPERATION_NOT_INITIALIZED)
	w.refused(w.FindObjectsFinal(s), CKR_OPERATION_NOT_INITIALIZED)
	w.refused(w.MessageSignFinal(s), CKR_OPERATION_NOT_INITIALIZED)
	w.must(w.VerifyUpdate(s, nil))
}

func TestNothingHappensToASlot(t *testing.T) {
	t.Parallel()
	w := open(t)
	_, err := w.WaitForSlotEvent(CKF_DONT_BLOCK)
	w.refused(err, CKR_NO_EVENT)
	waited := make(chan error)
	go func() {
		_, err := w.WaitForSlotEvent(0)
		waited <- err
	}()
	w.must(w.Finalize())
	w.refused(<-waited, CKR_CRYPTOKI_NOT_INITIALIZED)
	_, err = w.WaitForSlotEvent(CKF_DONT_BLOCK)
	w.refused(err, CKR_CRYPTOKI_NOT_INITIALIZED)
}

func TestUsersHaveNoNames(t *testing.T) {
	t.Parallel()
	w := guarded(t)
	s := w.session(true)
	w.refused(w.LoginUser(s, CKU_USER, []byte(userPIN), []byte("alice")), CKR_ARGUMENTS_BAD)
	w.must(w.LoginUser(s, CKU_USER, []byte(userPIN), nil))
	w.refused(w.LoginUser(s, CKU_USER, []byte(userPIN), []byte{}), CKR_USER_ALREADY_LOGGED_IN)
}

func TestProfilesAreObjects(t *testing.T) {
	t.Parallel()
	w := guarded(t)
	s := w.session(true)
	found := w.find(s, class(CKO_PROFILE))
	if len(found) != len(profiles) {
		t.Fatalf("%d profiles", len(found))
	}
	for i, o := range found {
		if !bytes.Equal(w.attribute(s, o, CKA_PROFILE_ID), ulong(profiles[i])) {
			t.Errorf("profile %d is %x", i, w.attribute(s, o, CKA_PROFILE_ID))
		}
	}
	w.must(w.Login(s, CKU_USER, []byte(userPIN)))
	w.refused(w.DestroyObject(s, found[0]), CKR_ACTION_PROHIBITED)
	w.refused(w.SetAttributeValue(s, found[0], []Attribute{label("mine")}), CKR_ACTION_PROHIBITED)
	_, err := w.CopyObject(s, found[0], nil)
	w.refused(err, CKR_ACTION_PROHIBITED)
}

func TestOnlySessionObjectsAreCopied(t *testing.T) {
	t.Parallel()
	w := open(t)
	key := w.make(ecKey("web"))
	s := w.session(false)
	_, err := w.CopyObject(s, w.one(s, CKO_PRIVATE_KEY), nil)
	w.refused(err, CKR_ACTION_PROHIBITED)
	public, err := key.Object.Public.Key()
	w.must(err)
	original, err := w.CreateObject(s, []Attribute{class(CKO_CERTIFICATE), label("a"), {CKA_CERTIFICATE_TYPE, ulong(CKC_X_509)}, {CKA_VALUE, issue(t, "a", public)}})
	w.must(err)
	copied, err := w.CopyObject(s, original, []Attribute{label("b"), {CKA_COPYABLE, boolean(false)}, {CKA_MODIFIABLE, boolean(false)}})
	w.must(err)
	if copied == original || string(w.attribute(s, copied, CKA_LABEL)) != "b" || string(w.attribute(s, original, CKA_LABEL)) != "a" ||
		!bytes.Equal(w.attribute(s, copied, CKA_VALUE), w.attribute(s, original, CKA_VALUE)) ||
		bytes.Equal(w.attribute(s, copied, CKA_UNIQUE_ID), w.attribute(s, original, CKA_UNIQUE_ID)) {
		t.Error("the copy is not one")
	}
	_, err = w.CopyObject(s, copied, nil)
	w.refused(err, CKR_ACTION_PROHIBITED)
	w.refused(w.SetAttributeValue(s, copied, []Attribute{label("c")}), CKR_ACTION_PROHIBITED)
	_, err = w.CopyObject(s, original, []Attribute{{CKA_TOKEN, boolean(true)}})
	w.refused(err, CKR_TEMPLATE_INCONSISTENT)
	_, err = w.CopyObject(s, original, []Attribute{{CKA_VALUE, nil}})
	w.refused(err, CKR_ATTRIBUTE_READ_ONLY)
	_, err = w.CopyObject(s, 12345, nil)
	w.refused(err, CKR_OBJECT_HANDLE_INVALID)
}
