package p11

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	flags "flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/tpm2-p11/tpm2-p11/internal/stamp"
	"github.com/tpm2-p11/tpm2-p11/keystore"
	"github.com/tpm2-p11/tpm2-p11/keystore/tss2"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// settled is how old a file must be for its time to tell that it is as it was.
const settled = 200 * time.Millisecond

func init() { stamp.Settle = settled / 2 } // enough for the file systems of those who test

// crowd puts files of keys that no TPM has into the store, "key 0" and so on, and lets them settle.
func (w *world) crowd(n int) {
	w.t.Helper()
	for i := range n {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		w.must(err)
		point, err := key.PublicKey.Bytes()
		w.must(err)
		public, err := provider.ParsePublic(tpm2.Marshal(tpm2.TPMTPublic{
			Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256,
			ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, NoDA: true, SignEncrypt: true},
			Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
				Symmetric: tpm2.TPMTSymDefObject{Algorithm: tpm2.TPMAlgNull}, Scheme: tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgNull},
				CurveID: tpm2.TPMECCNistP256, KDF: tpm2.TPMTKDFScheme{Scheme: tpm2.TPMAlgNull},
			}),
			Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
				X: tpm2.TPM2BECCParameter{Buffer: point[1:33]}, Y: tpm2.TPM2BECCParameter{Buffer: point[33:]},
			}),
		}))
		w.must(err)
		text, err := tss2.Encode(tss2.Key{Object: provider.Object{Public: public, Private: []byte("wrapped")}, EmptyAuth: true})
		w.must(err)
		id := sha1.Sum(point)
		side, err := json.Marshal(map[string]any{
			"version": 1, "name": public.Name().String(), "label": fmt.Sprint("key ", i), "cka_id": hex.EncodeToString(id[:]),
			"state": "ready", "auth": "empty", "created": time.Unix(1e9, 0).UTC(),
		})
		w.must(err)
		w.put(fmt.Sprintf("%032x.pem", i), text)
		w.put(fmt.Sprintf("%032x.json", i), side)
	}
	time.Sleep(settled)
}

// put writes a file into the store, as somebody else would.
func (w *world) put(name string, content []byte) {
	w.t.Helper()
	w.must(os.WriteFile(filepath.Join(w.token.Dir(), name), content, 0o600))
}

// heap is what is in use after a garbage collection, in bytes.
func heap() int64 {
	var stats runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}

// atMost waits until there are no more of something than before: what is ending, such as a finalizer, may take a moment.
func (w *world) atMost(what string, before int, now func() int) {
	w.t.Helper()
	for deadline := time.Now().Add(time.Minute); now() > before; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Errorf("%d %s, and before %d", now(), what, before)
			return
		}
	}
}

// In a store of many keys a search by label or CKA_ID reads what it finds, and what the application knows is looked at by itself.
func TestASearchAmongManyKeysReadsWhatItFinds(t *testing.T) {
	t.Parallel()
	w := open(t)
	w.crowd(100)
	for i := range 100 {
		if i != 7 {
			w.put(fmt.Sprintf("%032x.pem", i), []byte("whoever reads this says so in the log"))
		}
	}
	s := w.session(false)
	private := w.one(s, CKO_PRIVATE_KEY, label("key 7"))
	id := w.attribute(s, private, CKA_ID)
	public := w.one(s, CKO_PUBLIC_KEY, Attribute{CKA_ID, id})
	if !bytes.Equal(w.attribute(s, public, CKA_LABEL), []byte("key 7")) {
		t.Error("the public half has another label")
	}
	w.find(s, class(CKO_PROFILE))
	if strings.Contains(w.log.String(), "is not used") {
		t.Errorf("other keys' files were read:\n%s", w.log)
	}
	// Handles are the same in every process: one that another was given is found among all sidecars.
	w.must(w.Finalize())
	w.must(w.Initialize(0, false))
	s = w.session(false)
	if !bytes.Equal(w.attribute(s, public, CKA_ID), id) {
		t.Error("the handle is another object's now")
	}
	if strings.Contains(w.log.String(), "is not used") {
		t.Errorf("other keys' files were read for a handle:\n%s", w.log)
	}
}

// An application that goes through all keys may come back to each, and what others do with them it sees.
func TestHandlesOfManyKeysStay(t *testing.T) {
	t.Parallel()
	w := open(t)
	w.crowd(3 * keptEntries)
	s := w.session(false)
	all := w.find(s, class(CKO_PRIVATE_KEY))
	if len(all) != 3*keptEntries {
		t.Fatalf("%d private keys", len(all))
	}
	labels := map[ObjectHandle]string{}
	for _, o := range all {
		labels[o] = string(w.attribute(s, o, CKA_LABEL))
	}
	for _, o := range all {
		if got := string(w.attribute(s, o, CKA_LABEL)); got != labels[o] {
			t.Fatalf("%q became %q", labels[o], got)
		}
		if found := w.find(s, class(CKO_PRIVATE_KEY), label(labels[o])); len(found) != 1 || found[0] != o {
			t.Fatalf("%q is %v now, and was %v", labels[o], found, o)
		}
	}
	gone := w.one(s, CKO_PRIVATE_KEY, label("key 1"))
	w.must(os.Remove(filepath.Join(w.token.Dir(), fmt.Sprintf("%032x.pem", 1))))
	w.one(s, CKO_PRIVATE_KEY, label("key 2"))
	_, err := w.GetAttributeValue(s, gone, []AttributeQuery{{Type: CKA_LABEL, Capacity: 32}})
	w.refused(err, CKR_OBJECT_HANDLE_INVALID)
}

// The names of issuers are their own, and no sidecar has them.
func TestIssuersAmongManyKeysAreFound(t *testing.T) {
	t.Parallel()
	w := open(t)
	w.crowd(5)
	entries, err := w.token.Keys()
	w.must(err)
	chain := ""
	public, err := entries[3].Object.Public.Key()
	w.must(err)
	issuer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	w.must(err)
	for name, key := range map[string]any{"leaf": public, "an issuer": issuer.Public()} {
		block := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: issue(t, name, key)}))
		if name == "leaf" {
			chain = block + chain
		} else {
			chain += block
		}
	}
	w.put(entries[3].ID+".crt", []byte(chain))
	s := w.session(false)
	w.one(s, CKO_CERTIFICATE, label("an issuer"))
	leaf := w.one(s, CKO_CERTIFICATE, label("key 3"))
	w.one(s, CKO_CERTIFICATE, Attribute{CKA_ID, w.attribute(s, leaf, CKA_ID)})
	if found := w.find(s, class(CKO_CERTIFICATE), label("key 2")); len(found) != 0 {
		t.Errorf("a key without certificates has %d", len(found))
	}
}

// Not parallel: the heap is measured. What remains of each key of a store, in bytes, is bounded, whatever an application does with the keys.
func TestManyKeysTakeLittleMemory(t *testing.T) {
	const n = 1000
	w := open(t)
	w.crowd(n)
	s := w.session(false)
	w.log.text.Reset()
	before := heap()
	for _, use := range []func(){
		func() { w.one(s, CKO_PRIVATE_KEY, label("key 500")) },
		func() {
			all := w.find(s, class(CKO_PRIVATE_KEY))
			if len(all) != n {
				t.Fatalf("%d private keys", len(all))
			}
			for _, o := range all {
				w.attribute(s, o, CKA_EC_POINT)
			}
		},
	} {
		use()
		w.log.mu.Lock()
		w.log.text = bytes.Buffer{}
		w.log.mu.Unlock()
		if perKey := (heap() - before) / n; perKey > 2000 {
			t.Errorf("%d bytes remain of each key", perKey)
		} else {
			t.Logf("%d bytes a key", perKey)
		}
	}
	runtime.KeepAlive(w)
}

// Not parallel: the heap is measured.
func TestTenThousandSessionsLeaveNothing(t *testing.T) {
	w := open(t)
	w.make(keystore.KeySpec{Label: "web", Type: provider.P256, Use: provider.Use{Sign: true}, Wrapped: true})
	time.Sleep(settled)
	use := func() {
		h := w.session(false)
		w.one(h, CKO_PRIVATE_KEY, label("web"))
		w.must(w.FindObjectsInit(h, nil)) // a session may be closed amid a search
		w.must(w.CloseSession(h))
	}
	use()
	before, goroutines := heap(), runtime.NumGoroutine()
	for range 100 {
		use()
	}
	for range 10_000 {
		w.must(w.CloseSession(w.session(true)))
	}
	if open := len(w.lib.sessions) + len(w.lib.slots[0].sessions) + len(w.lib.slots[0].objects); open != 0 {
		t.Errorf("%d sessions and objects are left", open)
	}
	w.atMost("goroutines", goroutines, runtime.NumGoroutine)
	w.log.mu.Lock()
	w.log.text = bytes.Buffer{}
	w.log.mu.Unlock()
	if grown := heap() - before; grown > 200_000 {
		t.Errorf("10,000 sessions leave %d bytes", grown)
	}
	runtime.KeepAlive(w)
}

// Not parallel: allocations are counted. A use of a key that did not change begins with one look at the folder, and with next to nothing besides.
func TestAUseBeginsWithLittleWork(t *testing.T) {
	w := guarded(t)
	w.crowd(1)
	s := w.session(false)
	w.must(w.Login(s, CKU_USER, []byte(userPIN)))
	key := w.one(s, CKO_PRIVATE_KEY, label("key 0"))
	end := func() { w.must(w.SessionCancel(s, CKF_SIGN)) }
	begin := func() { w.must(w.SignInit(s, mechanismOf(CKM_ECDSA), key)) }
	begin()
	end()
	if n := testing.AllocsPerRun(50, func() { begin(); end() }) - testing.AllocsPerRun(50, end); n > 4 {
		t.Errorf("C_SignInit allocates %v times", n)
	}
}

// signatures is how many TestSignaturesLeaveNothing makes; `make soak-signatures` has a week's worth.
var signatures = flags.Int("signatures", 1500, "how many signatures TestSignaturesLeaveNothing makes")

// Not parallel: the heap is measured. The TPM's handles and sessions are counted at the end of each test that has one.
func TestSignaturesLeaveNothing(t *testing.T) {
	w := open(t)
	w.make(keystore.KeySpec{Label: "web", Type: provider.P256, Use: provider.Use{Sign: true}, Wrapped: true})
	time.Sleep(settled)
	s := w.session(false)
	key := w.one(s, CKO_PRIVATE_KEY, label("web"))
	descriptors := func() int {
		open, err := os.ReadDir("/proc/self/fd")
		w.must(err)
		return len(open)
	}
	sign := func(n int) int64 {
		for range n {
			_, err := w.sign(s, mechanismOf(CKM_ECDSA), key, make([]byte, 32))
			w.must(err)
			w.wire.Reset() // what the test records is no leak
		}
		w.Release()
		w.log.mu.Lock()
		w.log.text = bytes.Buffer{}
		w.log.mu.Unlock()
		return heap()
	}
	memory, goroutines, files := sign(100), runtime.NumGoroutine(), descriptors()
	if grown := sign(*signatures) - memory; grown > 200_000 {
		t.Errorf("%d signatures leave %d bytes", *signatures, grown)
	}
	w.atMost("goroutines", goroutines, runtime.NumGoroutine)
	w.atMost("descriptors", files, descriptors)
	runtime.KeepAlive(w)
}
