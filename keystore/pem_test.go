package keystore

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tpm2-p11/tpm2-p11/policy"
)

func TestAPEMThatSomebodyDroppedInIsAKey(t *testing.T) {
	t.Parallel()
	s := diskStore(t)
	public := softPublic(t, policy.Policy{})
	s.write(t, "my server.pem", pemOf(t, public, policy.Policy{}, true))
	token := s.open(t)
	e, err := token.Find(Query{Label: "my server"})
	must(t, err)
	if e.ID != "my server" || !e.EmptyAuth || e.Object.Handle != 0 || len(e.CKAID) != 20 {
		t.Errorf("%+v", e)
	}
	e, err = token.SetMetadata(e, Metadata{Label: "web"})
	must(t, err)
	if e.Label != "web" || e.ID != "my server" || !e.EmptyAuth {
		t.Errorf("after a change of its label: %+v", e)
	}
}

func TestASidecarOfAnotherKeyIsIgnored(t *testing.T) {
	t.Parallel()
	s := diskStore(t)
	s.softKey(t, "0011", "web")
	s.writeSidecar(t, "0011", sideOf(t, softPublic(t, policy.Policy{}), "another"))
	token := s.open(t)
	if got := labels(t, token); !slices.Equal(got, []string{"0011"}) {
		t.Errorf("keys: %v", got)
	}
	if problems, err := token.Problems(); err != nil || len(problems) != 1 || problems[0].File != "0011.json" {
		t.Errorf("problems: %v, %v", problems, err)
	}
}

func TestACopiedPEMDoesNotHideItsKey(t *testing.T) {
	t.Parallel()
	s := diskStore(t)
	s.softKey(t, "0011", "web")
	token := s.open(t)
	for name, copied := range map[string]string{"a backup": "0000.pem", "a later name": "web.pem"} {
		s.write(t, copied, s.read(t, "0011.pem"))
		e, err := token.Find(Query{Label: "web"})
		if err != nil || e.ID != "0011" || len(labels(t, token)) != 1 {
			t.Errorf("%s: %v, %v, keys %v", name, e, err, labels(t, token))
		}
		problems, err := token.Problems()
		if err != nil || len(problems) != 1 || problems[0].File != copied || !strings.Contains(problems[0].Err.Error(), `a copy of "web" (0011)`) {
			t.Errorf("%s: problems %v, %v", name, problems, err)
		}
		if !strings.Contains(s.log.String(), "file="+copied) {
			t.Errorf("%s: the log does not name it: %s", name, s.log)
		}
		must(t, os.Remove(filepath.Join(s.dir, copied)))
	}
	if problems, err := token.Problems(); err != nil || len(problems) != 0 {
		t.Errorf("after the copies are gone: %v, %v", problems, err)
	}
}

func TestOfPEMsAloneTheOldestCounts(t *testing.T) {
	t.Parallel()
	s := diskStore(t)
	text := pemOf(t, softPublic(t, policy.Policy{}), policy.Policy{}, true)
	now := time.Now()
	for i, name := range []string{"c.pem", "web.pem", "a.pem"} {
		s.write(t, name, text)
		age := now.Add(-time.Duration([]int{1, 3, 2}[i]) * time.Hour)
		must(t, os.Chtimes(filepath.Join(s.dir, name), age, age))
	}
	token := s.open(t)
	if got := labels(t, token); !slices.Equal(got, []string{"web"}) {
		t.Errorf("keys: %v", got)
	}
	problems, err := token.Problems()
	if err != nil || len(problems) != 2 {
		t.Errorf("problems: %v, %v", problems, err)
	}
}

func TestAKeyIsUsedWithoutItsSidecarAndNotChanged(t *testing.T) {
	t.Parallel()
	s := diskStore(t)
	s.softKey(t, "0011", "web")
	s.write(t, "0011.json", []byte("{"))
	token := s.open(t)
	_, err := token.Find(Query{Label: "web"})
	if !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "files there that cannot be used: 1; run `tpm2-p11 doctor`") {
		t.Errorf("by the label that it had: %v", err)
	}
	e, err := token.Find(Query{Label: "0011"})
	must(t, err)
	if _, err := token.Auth(e, nil); err != nil {
		t.Errorf("its use: %v", err)
	}
	before := s.snapshot(t)
	_, err = token.SetMetadata(e, Metadata{Label: "mail"})
	if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "restore 0011.json") {
		t.Errorf("a change: %v", err)
	}
	if after := s.snapshot(t); after != before && !strings.HasPrefix(after, lockFile) {
		t.Errorf("it was changed:\n%s\nwas\n%s", after, before)
	}
	must(t, os.Remove(filepath.Join(s.dir, "0011.json")))
	if _, err := token.SetMetadata(e, Metadata{Label: "mail"}); err != nil {
		t.Errorf("when the file is out of the way: %v", err)
	}
}
