package p11

import (
	"bytes"
	"crypto/rand"
	"runtime"
	"testing"
)

// hidden is how many bytes the session objects hide.
func (w *world) hidden() (n int) {
	for _, o := range w.lib.slots[0].objects {
		n += o.value.Len()
	}
	return n
}

// An application cannot fill the memory with secrets.
func TestSecretsHaveALimit(t *testing.T) {
	t.Parallel()
	w := open(t)
	s := w.session(false)
	for i := 0; ; i++ {
		_, err := w.CreateObject(s, []Attribute{class(CKO_DATA), {CKA_VALUE, make([]byte, 64<<10)}})
		if err != nil {
			w.refused(err, CKR_DEVICE_MEMORY)
			if i != maxHidden/(64<<10) {
				t.Errorf("%d objects fitted", i)
			}
			break
		}
	}
	w.must(w.CloseSession(s))
	if left := w.hidden(); left != 0 {
		t.Errorf("%d secret bytes are left", left)
	}
}

// Nor with what objects are called, when they are made, copied or renamed.
func TestNamesHaveALimit(t *testing.T) {
	t.Parallel()
	w := open(t)
	s := w.session(false)
	long := label(string(bytes.Repeat([]byte("n"), 1_000_000)))
	short := w.create(s, class(CKO_DATA), label("short"))
	first := w.create(s, class(CKO_DATA), long)
	fitted := 1
	for {
		if _, err := w.CopyObject(s, first, nil); err != nil {
			w.refused(err, CKR_DEVICE_MEMORY)
			break
		}
		fitted++
	}
	if fitted != maxShown/1_000_000 {
		t.Errorf("%d labels of a million bytes fitted", fitted)
	}
	w.refused(second(w.CreateObject(s, []Attribute{class(CKO_DATA), long})), CKR_DEVICE_MEMORY)
	w.refused(w.SetAttributeValue(s, short, []Attribute{long}), CKR_DEVICE_MEMORY)
	w.must(w.SetAttributeValue(s, first, []Attribute{long}))
	w.must(w.SetAttributeValue(s, short, []Attribute{label("still")}))
	w.must(w.DestroyObject(s, first))
	w.must(w.SetAttributeValue(s, short, []Attribute{long}))
}

// Nor with messages that it does not end, nor with their parameters.
func TestUnfinishedMessagesHaveALimit(t *testing.T) {
	t.Parallel()
	w := open(t)
	owner := w.session(false)
	key := w.aes(owner, unhex(t, f128))
	const part = 1_000_000
	begins := map[string]func(SessionHandle) error{
		"parts": func(s SessionHandle) error {
			w.must(w.EncryptInit(s, flatGCM(make([]byte, 12), nil, 128), key))
			return w.EncryptUpdate(s, make([]byte, part), &Output{})
		},
		"additional data": func(s SessionHandle) error {
			return w.DecryptInit(s, flatGCM(make([]byte, 12), make([]byte, part), 128), key)
		},
	}
	for name, begin := range begins {
		var sessions []SessionHandle
		for {
			s := w.session(false)
			sessions = append(sessions, s)
			if err := begin(s); err != nil {
				w.refused(err, CKR_DEVICE_MEMORY)
				break
			}
		}
		if n := len(sessions) - 1; n != maxHeld/part {
			t.Errorf("%d messages with a million bytes of %s fitted", n, name)
		}
		// Small ones fit still, and what ended makes room, however it does.
		iv := Mechanism{Type: CKM_AES_CBC_PAD, Parameter: make([]byte, 16)}
		refused := sessions[len(sessions)-1]
		for range 100 {
			if _, err := w.encrypt(refused, iv, key, []byte("the contract")); err != nil {
				t.Fatalf("after the refusal: %v", err)
			}
		}
		w.must(w.SessionCancel(sessions[0], CKF_ENCRYPT|CKF_DECRYPT))
		w.must(begin(sessions[0]))
		w.must(w.CloseSession(sessions[1]))
		w.must(begin(refused))
		for _, s := range append(sessions[2:], sessions[0]) {
			w.must(w.CloseSession(s))
		}
	}

	s := w.session(false)
	gcm := flatGCM(make([]byte, 12), make([]byte, 100), 128)
	for _, size := range []int{1, 15, 16, 1000} {
		plaintext := make([]byte, 3000)
		rand.Read(plaintext)
		for _, m := range []Mechanism{gcm, {Type: CKM_AES_CBC_PAD, Parameter: make([]byte, 16)}, {Type: CKM_AES_CTR, Parameter: append(ulong(128), make([]byte, 16)...)}} {
			w.must(w.EncryptInit(s, m, key))
			w.refused(w.EncryptInit(s, m, key), CKR_OPERATION_ACTIVE)
			ciphertext, err := inParts(func(b []byte, out *Output) error { return w.EncryptUpdate(s, b, out) },
				func(out *Output) error { return w.EncryptFinal(s, out) }, plaintext, size)
			w.must(err)
			w.must(w.DecryptInit(s, m, key))
			w.refused(w.DecryptInit(s, m, key), CKR_OPERATION_ACTIVE)
			got, err := inParts(func(b []byte, out *Output) error { return w.DecryptUpdate(s, b, out) },
				func(out *Output) error { return w.DecryptFinal(s, out) }, ciphertext, size)
			w.must(err)
			if !bytes.Equal(got, plaintext) {
				t.Errorf("mechanism 0x%x in parts of %d bytes", uint64(m.Type), size)
			}
		}
	}
	w.find(s)
	w.must(w.FindObjectsInit(s, nil))
	w.must(w.CloseSession(s))
	if held := w.lib.held.Load(); held != 0 {
		t.Errorf("%d bytes are counted when nothing is active", held)
	}
}

// Not parallel: the heap is measured. A key that was destroyed while it is in use takes its name along.
func TestOperationsDoNotKeepWhatWasDestroyed(t *testing.T) {
	const n, size = 50, 1_000_000
	w := open(t)
	before := heap()
	for range n {
		owner, user := w.session(false), w.session(false)
		key := w.create(owner, secretTemplate(CKK_GENERIC_SECRET, label(string(bytes.Repeat([]byte("n"), size))), Attribute{CKA_VALUE, make([]byte, 32)})...)
		w.must(w.SignInit(user, mechanismOf(CKM_SHA256_HMAC), key))
		w.must(w.MessageSignInit(user, mechanismOf(CKM_SHA256_HMAC), key))
		w.must(w.VerifyInit(user, mechanismOf(CKM_SHA256_HMAC), key))
		w.must(w.CloseSession(owner))
	}
	w.log.mu.Lock()
	w.log.text = bytes.Buffer{}
	w.log.mu.Unlock()
	if grown := heap() - before; grown > n*size/4 {
		t.Errorf("%d operations keep %d bytes of destroyed keys", 3*n, grown)
	}
	runtime.KeepAlive(w)
}
