package keystore

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tpm2-p11/tpm2-p11/internal/secret"
	"github.com/tpm2-p11/tpm2-p11/internal/stamp"
	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/provider"
	"github.com/tpm2-p11/tpm2-p11/provider/transport"
)

// Another process of these tests is the test binary itself, told so by its environment: it counts in the label of a key.
const (
	envStore   = "TPM2_P11_TEST_STORE"
	envCounter = "TPM2_P11_TEST_COUNTER" // the name of the counter
	envTimes   = "TPM2_P11_TEST_TIMES"
)

const shared = "shared" // ID of the key whose label is counted in

func TestMain(m *testing.M) {
	stamp.Settle = 100 * time.Millisecond // enough for the file systems of those who test
	if dir := os.Getenv(envStore); dir != "" {
		times, err := strconv.Atoi(os.Getenv(envTimes))
		if err == nil {
			err = countInLabel(dir, os.Getenv(envCounter), times)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// countInLabel counts a counter of the shared key's label up, reading and writing it under one lock.
func countInLabel(dir, counter string, times int) error {
	dialer, err := transport.Parse("swtpm:path=/nonexistent/tpm")
	if err != nil {
		return err
	}
	token, err := Open(Options{Dir: dir, TPM: provider.New(dialer)})
	if err != nil {
		return err
	}
	entries, err := token.Keys()
	if err != nil {
		return err
	}
	i := slices.IndexFunc(entries, func(e Entry) bool { return e.ID == shared })
	fmt.Println("counting")
	for range times {
		_, err := token.edit(entries[i], "label", func(w *writer, r *record) error {
			counts := parseCounts(r.side.Label)
			counts[counter]++
			r.side.Label = fmt.Sprintf("a=%d b=%d", counts["a"], counts["b"])
			return w.saveSidecar(r.id, r.side)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func parseCounts(label string) map[string]int {
	counts := make(map[string]int)
	for field := range strings.FieldsSeq(label) {
		name, text, _ := strings.Cut(field, "=")
		counts[name], _ = strconv.Atoi(text)
	}
	return counts
}

// startCounting starts a process that counts, and waits until it does.
func startCounting(t *testing.T, dir, counter string, times int) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), envStore+"="+dir, envCounter+"="+counter, fmt.Sprintf("%s=%d", envTimes, times))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("the other process: %q, %v", line, err)
	}
	return cmd
}

func TestTwoProcessesWriteAndOneReadsAndNothingIsLost(t *testing.T) {
	t.Parallel()
	s := diskStore(t)
	s.softKey(t, shared, "a=0 b=0")
	const bystanders, times = 150, 60
	for i := range bystanders {
		s.softKey(t, fmt.Sprintf("%04d", i), "bystander")
	}
	token := s.open(t)
	writers := []*exec.Cmd{startCounting(t, s.dir, "a", times), startCounting(t, s.dir, "b", times)}
	done := make(chan error)
	go func() {
		done <- errors.Join(writers[0].Wait(), writers[1].Wait())
	}()
	last := map[string]int{}
	for running := true; running; {
		select {
		case err := <-done:
			must(t, err)
			running = false
		default:
		}
		entries, err := token.Keys()
		must(t, err)
		if len(entries) != bystanders+1 {
			t.Fatalf("a reader saw %d keys of %d", len(entries), bystanders+1)
		}
		counts := parseCounts(entries[0].Label)
		if counts["a"] < last["a"] || counts["b"] < last["b"] {
			t.Fatalf("a reader saw %v after %v", counts, last)
		}
		last = counts
	}
	if last["a"] != times || last["b"] != times {
		t.Errorf("each process counted to %d, and the key says %v", times, last)
	}
	if problems, err := token.Problems(); err != nil || len(problems) != 0 {
		t.Errorf("problems: %v, %v", problems, err)
	}
}

// A process of TestManyProcessesMakeAThousandObjects is its test, told so by these variables.
const (
	envRole = "TPM2_P11_TEST_ROLE" // "reader", or the label of a writer's objects
	envDirs = "TPM2_P11_TEST_DIRS" // the stores, a list
)

// Each of two writers makes so many objects in each of some stores: a thousand in all.
const objectsOfAWriter, storesOfAThousand = 125, 4

// Two processes make a thousand objects, keys and data, in one store after another, and others read all the while. Each is there at
// the end, once, and no reader saw one go again or met a file that it could not read.
func TestManyProcessesMakeAThousandObjects(t *testing.T) {
	if role := os.Getenv(envRole); role != "" {
		for _, dir := range filepath.SplitList(os.Getenv(envDirs)) {
			s := &store{dir: dir, address: "swtpm:path=/nonexistent/tpm", log: new(logLines)}
			if role == "reader" {
				readUntilAllAreThere(t, s)
			} else {
				makeObjects(t, s, role)
			}
		}
		return
	}
	t.Parallel()
	s := tpmStore(t)
	var dirs []string
	for range storesOfAThousand {
		s.dir = filepath.Join(t.TempDir(), "store")
		_ = s.initialized(t, "", "").TPM().Close()
		dirs = append(dirs, s.dir)
	}
	s.swtpm.Stop(t) // nobody needs it
	var all []*exec.Cmd
	for _, role := range []string{"reader", "reader", "reader", "a", "b"} {
		cmd := exec.Command(os.Args[0], "-test.run=^TestManyProcessesMakeAThousandObjects$", "-test.count=1")
		cmd.Env = append(os.Environ(), envRole+"="+role, envDirs+"="+strings.Join(dirs, ":"))
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		must(t, cmd.Start())
		t.Cleanup(func() { _ = cmd.Process.Kill() })
		all = append(all, cmd)
	}
	for _, cmd := range all {
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: %v", cmd.Env[len(cmd.Env)-2], err)
		}
	}
	for _, s.dir = range dirs {
		token := s.open(t)
		made := map[string]int{}
		for _, label := range allLabels(t, token) {
			made[label]++
		}
		for _, writer := range []string{"a", "b"} {
			for i := range objectsOfAWriter {
				if n := made[fmt.Sprintf("%s %d", writer, i)]; n != 1 {
					t.Errorf("%s %d is there %d times", writer, i, n)
				}
			}
		}
		if problems, err := token.Problems(); err != nil || len(problems) != 0 {
			t.Errorf("problems: %v, %v", problems, err)
		}
	}
}

// makeObjects puts keys, by the way of all but without a TPM, and data into a store.
func makeObjects(t *testing.T, s *store, label string) {
	token := s.open(t)
	a, err := token.writableStore()
	must(t, err)
	for i := range objectsOfAWriter {
		name := fmt.Sprintf("%s %d", label, i)
		if i%10 != 0 {
			value := secret.From([]byte("for all"))
			info := SecretInfo{Kind: SecretData, Length: value.Len(), Application: "app"}
			_, err = token.CreateSecret(ctx, value, SecretSpec{Label: name, Info: info, Public: true})
		} else {
			public := softPublic(t, policy.Policy{})
			object := provider.Object{Public: public, Private: []byte("wrapped")}
			_, err = token.install(ctx, a, sideOf(t, public, name), object, KeySpec{Wrapped: true})
		}
		must(t, err)
	}
}

func allLabels(t *testing.T, token *Token) (all []string) {
	entries, err := token.Entries()
	must(t, err)
	for _, e := range entries {
		all = append(all, e.Label)
	}
	return all
}

// readUntilAllAreThere reads a store again and again.
func readUntilAllAreThere(t *testing.T, s *store) {
	token := s.open(t)
	pause := time.NewTicker(200 * time.Millisecond)
	defer pause.Stop()
	for seen := map[string]bool{}; len(seen) < 2*objectsOfAWriter; <-pause.C {
		now := map[string]bool{}
		for _, label := range allLabels(t, token) {
			now[label] = true
		}
		for label := range seen {
			if !now[label] {
				t.Fatalf("%q was there and is not any more", label)
			}
		}
		if problems, err := token.Problems(); err != nil || len(problems) != 0 {
			t.Fatalf("problems: %v, %v", problems, err)
		}
		seen = now
	}
}

// Neither a file's date nor the machine's clock tells versions apart where they may lie.
func TestFilesOfAnyDateAreReadAgainWhenTheyChange(t *testing.T) {
	t.Parallel()
	for _, year := range []int{1971, 2100} {
		s := diskStore(t)
		s.softKey(t, "0011", "web")
		sidecar := filepath.Join(s.dir, "0011"+sidecarSuffix)
		date := time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC)
		token := s.open(t)
		for _, label := range []string{"mail", "post", "news"} { // of one length
			must(t, os.Chtimes(sidecar, date, date))
			e := labels(t, token)
			if len(e) != 1 {
				t.Fatalf("%d: keys %v", year, e)
			}
			text := strings.Replace(string(s.read(t, "0011"+sidecarSuffix)), fmt.Sprintf("%q", e[0]), fmt.Sprintf("%q", label), 1)
			must(t, os.WriteFile(sidecar, []byte(text), 0o600))
			must(t, os.Chtimes(sidecar, date, date))
			if got := labels(t, token); !slices.Equal(got, []string{label}) {
				t.Errorf("%d: keys %v, want %s", year, got, label)
			}
		}
	}
}

func TestAWriterThatIsKilledLeavesAWholeStore(t *testing.T) {
	t.Parallel()
	s := diskStore(t)
	s.softKey(t, shared, "a=0 b=0")
	token := s.open(t)
	for range 15 {
		before, err := token.Keys()
		must(t, err)
		writer := startCounting(t, s.dir, "a", 1<<30)
		// It is killed somewhere within a write: after the store was seen to change.
		for {
			now, err := token.Keys()
			must(t, err)
			if now[0].Label != before[0].Label {
				break
			}
		}
		must(t, writer.Process.Kill())
		_ = writer.Wait()
		problems, err := token.Problems()
		if err != nil || len(problems) != 0 {
			t.Fatalf("problems: %v, %v", problems, err)
		}
		must(t, token.Recover(context.Background()))
		names, err := os.ReadDir(s.dir)
		must(t, err)
		for _, name := range names {
			if strings.HasPrefix(name.Name(), tempPrefix) {
				t.Errorf("%s is left over", name.Name())
			}
		}
	}
}

// asStranger calls f without a right to write the folder: as a user of its own, where the tests run as root.
func asStranger(t *testing.T, s *store, f func()) {
	t.Helper()
	for _, dir := range []string{s.dir, filepath.Dir(s.dir), filepath.Dir(filepath.Dir(s.dir))} {
		must(t, os.Chmod(dir, 0o555))
		t.Cleanup(func() { _ = os.Chmod(dir, 0o755) })
	}
	names, err := os.ReadDir(s.dir)
	must(t, err)
	for _, name := range names {
		must(t, os.Chmod(filepath.Join(s.dir, name.Name()), 0o644))
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with its user
		_ = unix.Setfsuid(65534)
		f()
	}()
	<-done
}

func TestAStoreThatCannotBeWrittenIsRead(t *testing.T) {
	t.Parallel()
	s := diskStore(t)
	s.softKey(t, "0011", "web")
	token := s.open(t)
	asStranger(t, s, func() {
		if token.Writable() {
			t.Error("it seems writable")
		}
		e, err := token.Find(Query{Label: "web"})
		if err != nil {
			t.Errorf("reading: %v", err)
		}
		if _, err := token.SetMetadata(e, Metadata{Label: "mail"}); !errors.Is(err, ErrReadOnly) {
			t.Errorf("writing: %v", err)
		}
		if err := token.Recover(context.Background()); err != nil {
			t.Errorf("recovering where nothing is to be done: %v", err)
		}
		if err := token.Init(context.Background(), InitOptions{Label: "x"}); !errors.Is(err, ErrReadOnly) {
			t.Errorf("initialising, before the TPM is asked: %v", err)
		}
	})
}
