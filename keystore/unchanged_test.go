package keystore

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tpm2-p11/tpm2-p11/internal/stamp"
)

func TestAKeyInAStoreThatChangesIsReadAgain(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(t *testing.T, s *store, e Entry){
		"its label changes": func(t *testing.T, s *store, e Entry) {
			_, err := s.open(t).SetMetadata(e, Metadata{Label: "bew"})
			must(t, err)
		},
		"another key comes": func(t *testing.T, s *store, _ Entry) { s.softKey(t, "0022", "mail") },
		"it is deleted":     func(t *testing.T, s *store, e Entry) { must(t, os.Remove(filepath.Join(s.dir, e.ID+".pem"))) },
		"its file is touched, and a second passes": func(t *testing.T, s *store, e Entry) {
			must(t, os.Chtimes(filepath.Join(s.dir, e.ID+".json"), time.Time{}, time.Now()))
			e.seen.watch.looked = time.Now().Add(-looksLast)
		},
		"its file is opened, and a second passes": func(t *testing.T, s *store, e Entry) {
			must(t, os.Chmod(filepath.Join(s.dir, e.ID+".pem"), 0o660))
			e.seen.watch.looked = time.Now().Add(-looksLast)
		},
		"the folder is opened": func(t *testing.T, s *store, _ Entry) { must(t, os.Chmod(s.dir, 0o777)) },
		"the store goes":       func(t *testing.T, s *store, _ Entry) { must(t, os.RemoveAll(s.dir)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := diskStore(t)
			s.softKey(t, "0011", "web")
			token := s.open(t)
			time.Sleep(stamp.Settle + 10*time.Millisecond) // stamps younger than that tell nothing
			e, err := token.Find(Query{Label: "web"})
			must(t, err)
			if !token.Now().Unchanged(e) {
				t.Fatal("nothing happened, and the key counts as changed")
			}
			change(t, s, e)
			if token.Now().Unchanged(e) {
				t.Error("the key counts as unchanged")
			}
		})
	}
	s := diskStore(t)
	token := s.open(t)
	for again := true; again; {
		began := time.Now()
		s.softKey(t, "0011", "web")
		e, err := token.Find(Query{Label: "web"})
		must(t, err)
		unchanged := token.Now().Unchanged(e)
		again = time.Since(began) >= stamp.Settle // on a busy machine that was no moment
		if !again && unchanged {
			t.Error("a key that was written a moment ago counts as unchanged")
		}
	}
}
