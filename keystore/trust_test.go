package keystore

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

func TestAFolderThatOthersCanChangeIsRefused(t *testing.T) {
	t.Parallel()
	s := diskStore(t)
	s.softKey(t, "0011", "web")
	for _, mode := range []os.FileMode{0o720, 0o702, 0o777} {
		must(t, os.Chmod(s.dir, mode))
		unusable(t, s, ErrUnsafe, "chmod go-w "+s.dir)
	}
	must(t, os.Chmod(s.dir, 0o755))
	if _, err := s.open(t).Find(Query{Label: "web"}); err != nil {
		t.Errorf("mode 755: %v", err)
	}
	must(t, os.Chown(s.dir, 12345, -1))
	unusable(t, s, ErrUnsafe, "belongs to user 12345")
}

func unusable(t *testing.T, s *store, want error, text string) {
	t.Helper()
	s.log = new(logLines)
	token := s.open(t)
	if token.Initialized() || token.HasPIN() || token.HasUserPIN() || token.Writable() || token.Label() != "" || token.Serial() != "" {
		t.Error("it seems usable")
	}
	ctx := t.Context()
	_, create := token.CreateKey(ctx, KeySpec{Label: "new", Type: provider.P256, Use: provider.Use{Sign: true}})
	_, ensure := token.Compare(ctx, Declared{Label: "new"})
	for what, err := range map[string]error{
		"Check": token.Check(), "Init": token.Init(ctx, InitOptions{Label: "x"}), "Init by force": token.Init(ctx, InitOptions{Label: "x", Force: true}),
		"Login": token.Login(ctx, User, pin("1234")), "CreateKey": create, "Compare": ensure,
	} {
		if !errors.Is(err, want) || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v, want %v with %s", what, err, want, text)
		}
	}
	if n := strings.Count(s.log.String(), "level=WARN msg=\"the store cannot be used\""); n != 1 {
		t.Errorf("the log says it %d times: %s", n, s.log)
	}
}

func TestAStoreOfAnotherUserIsPassedOverQuietly(t *testing.T) {
	t.Parallel()
	s := diskStore(t)
	s.softKey(t, "0011", "web")
	asStranger(t, s, func() {
		_ = unix.Setfsuid(0)
		must(t, os.Chmod(s.dir, 0))
		_ = unix.Setfsuid(65534)
		token := s.open(t)
		if token.Initialized() || token.Writable() {
			t.Error("it seems usable")
		}
		_, err := token.Keys()
		for what, err := range map[string]error{"Check": token.Check(), "Keys": err} {
			if !errors.Is(err, fs.ErrPermission) {
				t.Errorf("%s: %v", what, err)
			}
		}
	})
	if text := s.log.String(); text != "" {
		t.Errorf("the log says %s", text)
	}
}

func TestAFileThatOthersCanChangeIsNotTrusted(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(string) error{
		"mode 620": func(path string) error { return os.Chmod(path, 0o620) },
		"mode 602": func(path string) error { return os.Chmod(path, 0o602) },
		"an owner": func(path string) error { return os.Chown(path, 12345, -1) },
	} {
		s := diskStore(t)
		s.softKey(t, "0011", "web")
		s.softKey(t, "0022", "mail")
		must(t, spoil(filepath.Join(s.dir, "0011.pem")))
		must(t, spoil(filepath.Join(s.dir, "0022.json")))
		token := s.open(t)
		if got := labels(t, token); !slices.Equal(got, []string{"0022"}) {
			t.Errorf("%s: keys %v", name, got)
		}
		problems, err := token.Problems()
		if err != nil || len(problems) != 2 || !errors.Is(problems[0].Err, ErrUnsafe) || !errors.Is(problems[1].Err, ErrUnsafe) {
			t.Errorf("%s: problems %v, %v", name, problems, err)
		}
		s.write(t, anchorFile, []byte("{}"))
		must(t, spoil(filepath.Join(s.dir, anchorFile)))
		if err := s.open(t).Check(); !errors.Is(err, ErrUnsafe) {
			t.Errorf("%s: token.json: %v", name, err)
		}
	}
}

func TestAKeyOfAnotherStorageRootKeyIsAProblem(t *testing.T) {
	t.Parallel()
	s := tpmStore(t)
	token := s.initialized(t, "", "")
	e := create(t, token, KeySpec{Label: "web", Type: provider.P256, Use: provider.Use{Sign: true}, Wrapped: true})
	if problems, err := token.Problems(); err != nil || len(problems) != 0 {
		t.Errorf("problems: %v, %v", problems, err)
	}
	side, err := parseSidecar(s.read(t, e.ID+sidecarSuffix))
	must(t, err)
	side.SRK = hexText("another SRK's Name")
	s.writeSidecar(t, e.ID, side)
	problems, err := token.Problems()
	if err != nil || len(problems) != 1 || problems[0].File != e.ID+pemSuffix || !errors.Is(problems[0].Err, provider.ErrWrongTPM) {
		t.Errorf("problems: %v, %v", problems, err)
	}
}

func anchorOf(p provider.Public) string {
	return fmt.Sprintf(`{"version": 1, "label": "x", "serial": "0123456789abcdef", "created": "2026-01-01T00:00:00Z",
		"srk": {"handle": "0x81000001", "name": %q, "public": %q}}`, p.Name(), base64.StdEncoding.EncodeToString(p.Marshal()))
}

func TestATokenFileThatCannotBeUnderstoodIsRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		text string
		want error
	}{
		"empty":      {"", ErrCorrupt},
		"torn":       {`{"version": 1, "label": "x`, ErrCorrupt},
		"newer":      {`{"version": 2, "something": "else"}`, ErrNewer},
		"bare":       {`{"version": 1}`, ErrCorrupt},
		"null":       {`null`, ErrCorrupt},
		"not an SRK": {anchorOf(softPublic(t, policy.Policy{})), ErrCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			s := diskStore(t)
			s.write(t, anchorFile, []byte(c.text))
			unusable(t, s, c.want, anchorFile)
			if got := string(s.read(t, anchorFile)); got != c.text {
				t.Errorf("it was overwritten with %s", got)
			}
		})
	}
}
