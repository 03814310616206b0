package tests

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/miekg/pkcs11"
	"github.com/tpm2-p11/tpm2-p11/internal/faulttpm"
	"github.com/tpm2-p11/tpm2-p11/internal/promises"
)

// newPromising is a machine with a token and the keys that rows of the table use. Its doors reach the TPM through a wire with faults.
func newPromising(t *testing.T, batch promises.Batch) *machine {
	t.Helper()
	m := newMachine(t, "")
	m.breakable()
	m.write("in.txt", "the contract")
	m.write("pin", promises.PIN)
	m.write("so", promises.SOPIN)
	m.write("wrong", promises.WrongPIN)
	if batch.Token == promises.Open {
		m.tpm2p11("init", "--no-pin")
	} else {
		m.maxTries(20)
		m.tpm2p11("init", "--pin-file", "pin", "--so-pin-file", "so")
	}
	for _, k := range promises.KeysOf(batch.Rows) {
		args := []string{"key", "create", k.Label, "--type", k.Type}
		if k.Wrapped {
			args = append(args, "--wrapped")
		}
		if k.Decrypt {
			args = append(args, "--use", "decrypt")
		}
		if k.PCR {
			args = append(args, "--pcr", fmt.Sprintf("sha256:%d", promises.BoundPCR))
		}
		if batch.Token == promises.Guarded {
			args = append(args, "--pin-file", "pin")
		}
		m.tpm2p11(args...)
		m.tpm2p11("key", "public", k.Label, "--out", k.Label+".pub")
	}
	return m
}

// breakable leads the way to the TPM over a wire with faults.
func (m *machine) breakable() {
	m.t.Helper()
	m.broken = promises.NewMachine(m.t, m.tpm)
	m.write("tpm2-p11.conf", strings.Replace(string(m.read("tpm2-p11.conf")), m.tpm.Address(), m.broken.Wire.Address(), 1))
}

// settled waits until the door has let go of the TPM, and gives what there is in it.
func (m *machine) settled() string {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := m.broken.Wire.AwaitIdle(ctx); err != nil {
		m.t.Errorf("the TPM is not let go: %v", err)
	}
	return fmt.Sprintf("%+v", m.tpm.Count(m.t))
}

// overPromises runs a test of a door for each batch of rows: those that share a TPM one after another, and, except over another way to
// the module, those apart. Several run at once, as they mostly wait.
func overPromises(t *testing.T, by transport, run func(t *testing.T, batch promises.Batch)) {
	t.Helper()
	var all sync.WaitGroup
	defer all.Wait()
	for _, batch := range promises.Batches(testing.Short()) {
		if by.prepare != nil && len(batch.Rows) == 1 {
			continue
		}
		all.Go(func() {
			promising <- struct{}{}
			defer func() { <-promising }()
			t.Run(by.name+"/"+batch.Name, func(t *testing.T) { run(t, batch) })
		})
	}
}

// promising bounds how many batches run at once.
var promising = make(chan struct{}, 12)

// The command answers each fault as the table says.
func TestPromisesOfTheCommand(t *testing.T) {
	t.Parallel()
	overPromises(t, transport{name: "command"}, func(t *testing.T, batch promises.Batch) {
		token, m := batch.Token, newPromising(t, batch)
		for _, row := range batch.Rows {
			before := m.settled()
			m.broken.Begin(row)
			r := m.use(token, row.Use)
			if strconv.Itoa(r.code) != row.Command.Exit {
				t.Errorf("%s: exit code %d, want %s\n%s", row.Name, r.code, row.Command.Exit, r.all())
			}
			for _, word := range row.Command.Words {
				if !strings.Contains(r.all(), word) {
					t.Errorf("%s: it does not say %q:\n%s", row.Name, word, r.all())
				}
			}
			m.broken.End(row)
			if row.Lost {
				m.settled()
				continue
			}
			if r := m.use(token, row.Use.Right()); r.code != 0 {
				t.Errorf("%s, afterwards: exit code %d\n%s", row.Name, r.code, r.all())
			}
			if after := m.settled(); after != before {
				t.Errorf("%s: the TPM holds %s, before %s", row.Name, after, before)
			}
		}
	})
}

// use is a use of a key by the command. A key that was made is deleted again.
func (m *machine) use(token promises.Token, u promises.Use) result {
	m.t.Helper()
	var pin []string
	if token == promises.Guarded {
		pin = []string{"--pin-file", "pin"}
		if u.PIN != "" {
			m.write("this", u.PIN)
			pin = []string{"--pin-file", "this"}
		}
	}
	switch u.Verb {
	case promises.Decrypt:
		if u.Ciphertext == "" {
			m.write("ciphertext", string(encryptTo(m.t, m.path("mail.pub"))))
		} else {
			m.write("ciphertext", u.Ciphertext)
		}
		return m.start(command, append([]string{"decrypt", u.Key, "--in", "ciphertext"}, pin...)...)
	case promises.Create:
		r := m.start(command, append([]string{"key", "create", "new", "--type", "p256"}, pin...)...)
		if r.code == 0 {
			m.tpm2p11("key", "delete", "new", "--yes")
		}
		return r
	}
	return m.start(command, append([]string{"sign", u.Key, "--in", "in.txt", "--out", "signature"}, pin...)...)
}

// encryptTo encrypts a message with OAEP and SHA-256.
func encryptTo(t *testing.T, file string) []byte {
	t.Helper()
	a := &application{t: t, dir: filepath.Dir(file)}
	ciphertext, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, a.publicKey(filepath.Base(file)).(*rsa.PublicKey), []byte("a message"), nil)
	if err != nil {
		t.Fatal(err)
	}
	return ciphertext
}

// The module answers each fault as the table says, within one process that never finalises it.
func TestPromisesOfTheModule(t *testing.T) {
	t.Parallel()
	name := t.Name()
	if os.Getenv(storyFolder) != "" {
		story{app: promisesApplication}.tell(t)
		return
	}
	// Children of forks and clients of a service get the same answers, as the rows that share a TPM show.
	ways := transports
	if testing.Short() {
		ways = ways[:1]
	}
	var all sync.WaitGroup
	defer all.Wait()
	for _, by := range ways {
		all.Go(func() {
			overPromises(t, by, func(t *testing.T, batch promises.Batch) {
				m := newPromising(t, batch)
				m.write("tpm2-p11.conf", string(m.read("tpm2-p11.conf"))+by.config)
				m.env = append(m.env, storyBatch+"="+batch.Name)
				events := map[string]func(*machine) string{"settle": (*machine).settled}
				for _, row := range batch.Rows {
					events["begin "+row.Name] = func(m *machine) string { m.broken.Begin(row); return "" }
					events["end "+row.Name] = func(m *machine) string { m.broken.End(row); return "" }
				}
				story{events: events}.run(m, name, by)
			})
		})
	}
}

// storyBatch is the variable that tells a promisesApplication which rows it runs.
const storyBatch = "TPM2_P11_STORY_BATCH"

func promisesApplication(a *application) {
	all := promises.Batches(false)
	i := slices.IndexFunc(all, func(b promises.Batch) bool { return b.Name == os.Getenv(storyBatch) })
	token, rows := all[i].Token, all[i].Rows
	if token == promises.Guarded {
		a.ok("C_Login", a.p11().Login(a.session, pkcs11.CKU_USER, promises.PIN))
	}
	p := &promised{application: a, token: token, keys: map[string]pkcs11.ObjectHandle{}}
	for _, k := range promises.KeysOf(rows) {
		p.keys[k.Label] = a.private(k.Label)
	}
	a.ok("the first use", p.use(rows[0].Use.Right()))
	for _, row := range rows {
		held, files, threads := a.happen("settle"), a.descriptors(), a.threads()
		a.happen("begin " + row.Name)
		if row.Long {
			a.patience.Store(int64(2 * time.Minute))
		}
		err := p.use(row.Use)
		if got := nameOfRV(err); got != row.Module {
			a.t.Errorf("%s: %s, want %s", row.Name, got, row.Module)
		}
		a.happen("end " + row.Name)
		if row.Lost {
			a.happen("settle")
			continue
		}
		if err := p.use(row.Use.Right()); err != nil {
			a.t.Errorf("%s, afterwards: %v", row.Name, err)
		}
		if now := a.happen("settle"); now != held {
			a.t.Errorf("%s: the TPM holds %s, before %s", row.Name, now, held)
		}
		if now := a.descriptors(); now > files {
			a.t.Errorf("%s: %d descriptors, before %d", row.Name, now, files)
		}
		if now := a.threads(); now > threads+spareThreads {
			a.t.Errorf("%s: %d threads, before %d", row.Name, now, threads)
		}
	}
}

// A TPM that does not answer keeps nobody waiting who needs no TPM; when the connection ends, the one who waited has his signature.
func TestOtherThreadsGoOnWhileTheTPMIsSilent(t *testing.T) {
	silent := make(chan struct{}) // once a command got no answer
	story{
		boot: func(t *testing.T, config string) *machine {
			m := newMachine(t, config)
			m.breakable()
			return m
		},
		ways:   transports[:1],
		before: oneKey,
		events: map[string]func(m *machine) string{
			"fall silent": func(m *machine) string {
				m.broken.Wire.Inject(faulttpm.Once(tpm2.TPMCCSign).Do(func(ctx context.Context, _ []byte, _ func() ([]byte, error)) ([]byte, error) {
					silent <- struct{}{}
					<-silent
					return nil, faulttpm.ErrInjected
				}))
				return ""
			},
			"is silent":       func(m *machine) string { <-silent; return "" },
			"end the silence": func(m *machine) string { silent <- struct{}{}; return "" },
		},
		app: func(a *application) {
			key, public := a.private("web"), a.public("web")
			signature, err := a.sign(a.session, ecdsaSHA256(), key, message)
			a.ok("C_Sign", err)
			a.happen("fall silent")
			waits, goesOn := a.open(0), a.open(0)
			signed := make(chan error)
			go func() {
				_, err := a.sign(waits, ecdsaSHA256(), key, message)
				signed <- err
			}()
			a.happen("is silent")
			a.ok("C_Verify", a.verify(goesOn, ecdsaSHA256(), public, message, signature))
			a.find(goesOn)
			_, err = a.p11().GetSessionInfo(waits)
			a.ok("C_GetSessionInfo", err)
			_, err = a.p11().GetTokenInfo(0)
			a.ok("C_GetTokenInfo", err)
			a.ok("C_DigestInit", a.p11().DigestInit(goesOn, []*pkcs11.Mechanism{mechanism(pkcs11.CKM_SHA256)}))
			_, err = a.p11().Digest(goesOn, message)
			a.ok("C_Digest", err)
			a.ok("C_CloseSession", a.p11().CloseSession(goesOn))
			a.happen("end the silence")
			a.ok("C_Sign of the one who waited", <-signed)
			a.works("web")
		},
	}.tell(t)
}

// The service is killed while the TPM works for a client of it. The next one answers the same call.
func TestAServiceThatIsKilledInTheMidstOfACall(t *testing.T) {
	var s *service
	atWork := make(chan struct{})
	story{
		boot: func(t *testing.T, config string) *machine {
			m := newMachine(t, config)
			m.breakable()
			return m
		},
		ways: []transport{{name: "socket", prepare: func(m *machine) ([]string, func() string) {
			return serveBy(m, &s, "sign")
		}}},
		before: oneKey,
		events: map[string]func(m *machine) string{
			"stall": func(m *machine) string {
				m.broken.Wire.Inject(faulttpm.Once(tpm2.TPMCCSign).Do(func(ctx context.Context, command []byte, send func() ([]byte, error)) ([]byte, error) {
					close(atWork)
					return faulttpm.Stall(ctx, command, send)
				}))
				return ""
			},
			"kill": func(m *machine) string {
				<-atWork
				s.kill()
				s.begin()
				return ""
			},
		},
		app: func(a *application) {
			a.works("web")
			key, waits := a.private("web"), a.open(0)
			a.happen("stall")
			signed := make(chan error)
			go func() {
				_, err := a.sign(waits, ecdsaSHA256(), key, message)
				signed <- err
			}()
			a.happen("kill")
			a.ok("C_Sign of a service that was killed", <-signed)
			a.works("web")
		},
	}.tell(t)
}

// TPM2_Clear took all keys. The new owner makes a new token in the old one's place.
func TestANewOwnerBeginsAnew(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	oneKey(m)
	m.write("in.txt", "the contract")
	m.tpm2p11("key", "create", "wrapped", "--type", "p256", "--wrapped")
	m.run("tpm2_clear", "-c", "l")
	for _, label := range []string{"web", "wrapped"} {
		m.refused([]string{"storage root key", "init --force"}, command, "sign", label, "--in", "in.txt", "--out", "signature")
	}
	m.tpm2p11("init", "--no-pin", "--force")
	m.tpm2p11("key", "create", "anew", "--type", "p256")
	m.signs("anew")
	if held := m.tpm.Count(t); held.Persistent != 2 || held.Sessions != 0 || held.Transient != 0 {
		t.Errorf("the TPM holds %+v, and there are a storage root key and a key", held)
	}
}

// spareThreads is how many the two Go runtimes, the test's and the module's, may come to need for what runs at once.
const spareThreads = 8

func (a *application) descriptors() int { return a.entries("/proc/self/fd") }
func (a *application) threads() int     { return a.entries("/proc/self/task") }

func (a *application) entries(folder string) int {
	a.t.Helper()
	all, err := os.ReadDir(folder)
	a.ok(folder, err)
	return len(all)
}

func nameOfRV(err error) string {
	if err == nil {
		return "CKR_OK"
	}
	text := err.Error() // pkcs11: 0x30: CKR_DEVICE_ERROR
	return text[strings.LastIndex(text, " ")+1:]
}

// promised is an application on a token of the table.
type promised struct {
	*application
	token promises.Token
	keys  map[string]pkcs11.ObjectHandle
	out   bool // it may be logged out
}

// use is a use of a key by the module.
func (p *promised) use(u promises.Use) error {
	p.t.Helper()
	if u.PIN != "" {
		p.ok("C_Logout", p.p11().Logout(p.session))
		p.out = true
		return p.p11().Login(p.session, pkcs11.CKU_USER, u.PIN)
	}
	if p.out {
		p.out = false
		p.ok("C_Login", p.p11().Login(p.session, pkcs11.CKU_USER, promises.PIN))
	}
	switch u.Verb {
	case promises.Decrypt:
		ciphertext := []byte(u.Ciphertext)
		if u.Ciphertext == "" {
			ciphertext = encryptTo(p.t, filepath.Join(p.dir, "mail.pub"))
		}
		plaintext, err := p.decrypt(oaep(pkcs11.CKM_SHA256, pkcs11.CKG_MGF1_SHA256, ""), p.keys[u.Key], ciphertext)
		if err == nil && !bytes.Equal(plaintext, []byte("a message")) {
			p.t.Errorf("decrypted %q", plaintext)
		}
		return err
	case promises.Create:
		public, private := pair("new", pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, curveP256))
		_, key, err := p.p11().GenerateKeyPair(p.session, []*pkcs11.Mechanism{mechanism(pkcs11.CKM_EC_KEY_PAIR_GEN)}, public, private)
		if err == nil {
			p.ok("C_DestroyObject", p.p11().DestroyObject(p.session, key))
		}
		return err
	}
	if u.Key == "rsa" {
		_, err := p.sign(p.session, mechanism(pkcs11.CKM_SHA256_RSA_PKCS), p.keys[u.Key], message)
		return err
	}
	signature, err := p.sign(p.session, ecdsaSHA256(), p.keys[u.Key], message)
	if err != nil {
		return err
	}
	return p.verify(p.session, ecdsaSHA256(), p.public(u.Key), message, signature)
}

// Somebody gives two keys the private parts of each other. The TPM does not load what does not belong together, and nothing is signed.
func TestSwappedPartsOfTwoKeys(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	oneKey(m)
	m.write("in.txt", "the contract")
	m.tpm2p11("key", "create", "one", "--type", "p256", "--wrapped")
	m.tpm2p11("key", "create", "two", "--type", "p256", "--wrapped")
	var pems []string
	for _, label := range []string{"one", "two"} {
		var shown struct{ Key struct{ File string } }
		if err := json.Unmarshal([]byte(m.tpm2p11("key", "show", label, "--json").stdout), &shown); err != nil {
			t.Fatal(err)
		}
		pems = append(pems, filepath.Join("store", shown.Key.File+".pem"))
	}
	one, two, err := promises.SwapPrivateParts(m.read(pems[0]), m.read(pems[1]))
	if err != nil {
		t.Fatal(err)
	}
	m.write(pems[0], string(one))
	m.write(pems[1], string(two))
	for _, label := range []string{"one", "two"} {
		r := m.refused([]string{"another TPM or under another parent"}, command, "sign", label, "--in", "in.txt", "--out", "signature")
		if r.code != failed {
			t.Errorf("%s: exit code %d", label, r.code)
		}
		m.refused([]string{"CKR_DEVICE_ERROR"}, "pkcs11-tool", "--module", module, "--sign", "--mechanism", "ECDSA-SHA256", "--label", label, "-i", "in.txt", "-o", "signature")
	}
	m.signs("web")
}
