package keystore

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tpm2-p11/tpm2-p11/internal/stamp"
	"github.com/tpm2-p11/tpm2-p11/policy"
)

// crowd puts keys into the folder, "key 0" and so on, and lets their files settle.
func (s *store) crowd(t testing.TB, n int) {
	t.Helper()
	for i := range n {
		s.softKey(t, fmt.Sprintf("%032x", i), fmt.Sprint("key ", i))
	}
	time.Sleep(stamp.Settle + 10*time.Millisecond) // stamps younger than that tell nothing
}

// In a store of many keys a search costs what it finds: of all other keys the sidecars are read, once.
func TestASearchReadsTheFilesOfWhatItFinds(t *testing.T) {
	t.Parallel()
	s := diskStore(t)
	s.crowd(t, 50)
	for i := range 50 {
		if i != 7 {
			s.write(t, fmt.Sprintf("%032x.pem", i), []byte("whoever reads this says so in the log"))
		}
	}
	token := s.open(t)
	e, err := token.Find(Query{Label: "key 7"})
	must(t, err)
	if _, err := token.Find(Query{CKAID: e.CKAID}); err != nil {
		t.Error(err)
	}
	if _, err := token.Find(Query{Name: e.Object.Public.Name()}); err != nil {
		t.Error(err)
	}
	if text := s.log.String(); text != "" {
		t.Errorf("other keys' files were read:\n%s", text)
	}
	if got := labels(t, token); !slices.Equal(got, []string{"key 7"}) {
		t.Errorf("keys: %v", got)
	}
	if n := strings.Count(s.log.String(), "is not used"); n != 49 {
		t.Errorf("the log has %d files that are not used:\n%s", n, s.log)
	}
}

// A sidecar that is another key's hides the PEM beside it from a glance, but not from a search.
func TestASearchInVainLooksIntoEachFile(t *testing.T) {
	t.Parallel()
	s := diskStore(t)
	s.crowd(t, 3)
	public := s.softKey(t, "mail", "mail")
	s.write(t, "mail.json", s.read(t, fmt.Sprintf("%032x.json", 1)))
	key, err := public.Key()
	must(t, err)
	id, err := defaultCKAID(key)
	must(t, err)
	for name, q := range map[string]Query{"CKA_ID": {CKAID: id}, "Name": {Name: public.Name()}, "label": {Label: "mail"}} {
		e, err := s.open(t).Find(q)
		if err != nil || e.ID != "mail" {
			t.Errorf("by its %s: %v, %v", name, e, err)
		}
	}
	if e, err := s.open(t).Find(Query{Label: "key 1"}); err != nil || e.ID != fmt.Sprintf("%032x", 1) {
		t.Errorf("the key whose sidecar was copied: %v, %v", e, err)
	}
}

// A glance does not go into policies. A sidecar with a wrong one gives the key no label all the same.
func TestASidecarWithAWrongPolicyIsFoundOutByASearch(t *testing.T) {
	t.Parallel()
	s := diskStore(t)
	s.softKey(t, "0011", "web")
	s.write(t, "0011.json", bytes.Replace(s.read(t, "0011.json"), []byte(`"state"`), []byte(`"policy": {"pcr": "7"}, "state"`), 1))
	token := s.open(t)
	if e, err := token.Find(Query{Label: "web"}); !errors.Is(err, ErrNotFound) {
		t.Errorf("by its sidecar's label: %v, %v", e, err)
	}
	if e, err := token.Find(Query{Label: "0011"}); err != nil || e.ID != "0011" {
		t.Errorf("by its file's name: %v, %v", e, err)
	}
	if n := strings.Count(s.log.String(), "is not used"); n != 1 {
		t.Errorf("the log has %d files that are not used:\n%s", n, s.log)
	}
}

// What a sidecar says of a key whose PEM is broken takes no other key's place.
func TestACopyOfABrokenKeyIsTheKey(t *testing.T) {
	t.Parallel()
	s := diskStore(t)
	public := softPublic(t, policy.Policy{})
	s.writeSidecar(t, "0011", sideOf(t, public, "web"))
	s.write(t, "0011.pem", []byte("torn"))
	s.write(t, "rescued.pem", pemOf(t, public, policy.Policy{}, true))
	e, err := s.open(t).Find(Query{Name: public.Name()})
	if err != nil || e.ID != "rescued" {
		t.Errorf("%v, %v", e, err)
	}
}

func TestWhatOthersDoToAStoreOfManyKeysIsSeen(t *testing.T) {
	t.Parallel()
	s := diskStore(t)
	s.crowd(t, 2*keptRecords)
	token := s.open(t)
	if n := len(labels(t, token)); n != 2*keptRecords {
		t.Fatalf("%d keys", n)
	}
	find := func(q Query) (string, bool) {
		e, err := token.Find(q)
		return e.ID, err == nil
	}
	first := fmt.Sprintf("%032x", 0)
	side, err := parseSidecar(s.read(t, first+sidecarSuffix))
	must(t, err)
	side.Label = "renamed"
	s.writeSidecar(t, first, side)
	if id, found := find(Query{Label: "renamed"}); !found || id != first {
		t.Error("a key that got another label is not found by it")
	}
	if _, found := find(Query{Label: "key 0"}); found {
		t.Error("a key is found by the label that it had")
	}
	s.softKey(t, "0011", "new")
	if _, found := find(Query{Label: "new"}); !found {
		t.Error("a key that came is not found")
	}
	must(t, os.Remove(filepath.Join(s.dir, first+pemSuffix)))
	if _, found := find(Query{Label: "renamed"}); found {
		t.Error("a key that is gone is found")
	}
	// Its sidecar and the list of files remain as they were.
	second := fmt.Sprintf("%032x", 1)
	s.write(t, second+pemSuffix, bytes.Repeat([]byte{'x'}, len(s.read(t, second+pemSuffix))))
	if _, found := find(Query{Label: "key 1"}); found {
		t.Error("a key whose PEM was overwritten is found")
	}
}

// What a process remembers of each key of a store, in bytes, is bounded, whatever it does with the keys. Not parallel: the heap is measured.
func TestAStoreOfManyKeysTakesLittleMemory(t *testing.T) {
	const n = 1000
	s := diskStore(t)
	s.crowd(t, n)
	heap := func() int64 {
		var stats runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&stats)
		return int64(stats.HeapAlloc)
	}
	garbage := func() int64 {
		var stats runtime.MemStats
		runtime.ReadMemStats(&stats)
		return int64(stats.TotalAlloc)
	}
	token := s.open(t)
	before := garbage()
	if _, err := s.open(t).Find(Query{Label: "key 500"}); err != nil {
		t.Error(err)
	}
	if perKey := (garbage() - before) / n; perKey > 1500 { // a collector that runs late leaves it to the host meanwhile
		t.Errorf("a first search allocates %d bytes for each key", perKey)
	}
	for name, use := range map[string]func(){
		"a search": func() {
			_, err := token.Find(Query{Label: "key 500"})
			must(t, err)
		},
		"a list of all": func() {
			if got := len(labels(t, token)); got != n {
				t.Fatalf("%d keys", got)
			}
		},
	} {
		before := heap()
		use()
		if perKey := (heap() - before) / n; perKey > 1000 {
			t.Errorf("%s: %d bytes remain of each key", name, perKey)
		}
	}
	if allocations := testing.AllocsPerRun(3, func() { _, _ = token.Find(Query{Label: "key 500"}) }); allocations > 3*n {
		t.Errorf("a search among %d keys that were seen allocates %v times", n, allocations)
	}
}
