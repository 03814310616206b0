package p11

import (
	"context"
	"crypto"
	"crypto/rsa"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/tpm2-p11/tpm2-p11/internal/secret"
	"github.com/tpm2-p11/tpm2-p11/internal/tokens"
	"github.com/tpm2-p11/tpm2-p11/keystore"
	"github.com/tpm2-p11/tpm2-p11/provider"
	"github.com/tpm2-p11/tpm2-p11/signer"
)

// tries are the wrong PINs that the TPM counts, and how many it takes.
func (w *world) tries() (counted, most uint32) {
	w.t.Helper()
	p, err := w.token.TPM().Properties(w.t.Context())
	w.must(err)
	return p.LockoutCounter, p.MaxAuthFail
}

// client is a connection of a user to a service that has the token.
func (w *world) client(u *User, guard Guard) *world {
	return w.elsewhere(func(load func() (*tokens.Set, error)) *Module { return NewServed(load, guard, 0, u) })
}

// However many connections guess PINs at once, one user locks no other one out. Once the TPM has forgiven, that user may try again.
func TestOneUsersWrongPINsLockNobodyOut(t *testing.T) {
	t.Parallel()
	w := guarded(t)
	all := func(_, _, purpose string) bool { return purpose != "manage" }
	users := NewUsers()
	mallory := users.New()
	var guesses sync.WaitGroup
	for range 6 {
		c := w.client(mallory, all)
		s := c.session(false)
		guesses.Go(func() {
			if rv := RVOf(c.Login(s, CKU_USER, []byte("wrong-pin"))); rv != CKR_PIN_INCORRECT && rv != CKR_PIN_LOCKED {
				t.Errorf("a guess is answered with %v", rv)
			}
		})
	}
	guesses.Wait()
	counted, most := w.tries()
	if counted != max(most/2, 1) {
		t.Errorf("one user had %d of %d tries", counted, most)
	}
	c := w.client(mallory, all)
	s := c.session(false)
	w.refused(c.Login(s, CKU_USER, []byte(userPIN)), CKR_PIN_LOCKED)
	if !strings.Contains(w.log.String(), "half are of this user") {
		t.Errorf("the log does not tell why:\n%s", w.log)
	}

	alice := w.client(users.New(), all)
	theirs := alice.session(false)
	w.must(alice.Login(theirs, CKU_USER, []byte(userPIN)))
	w.must(alice.Logout(theirs))

	w.must(w.token.TPM().ResetLockout(t.Context(), nil))
	w.must(c.Login(s, CKU_USER, []byte(userPIN)))
}

// Many users who guess at once, before and after the service was restarted, bring the TPM near its lockout and never to it: the operator's
// command takes the right PIN, and after it has forgiven them the users' are taken too.
func TestUsersOfAServiceDoNotLockTheTPM(t *testing.T) {
	t.Parallel()
	for name, most := range map[string]uint32{"of two tries": 2, "of three tries": 3, "of many tries": 8} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := fresh(t)
			w.machine.SetMaxTries(t, most)
			w.givePINs()
			var last *world
			for range 3 {
				users := NewUsers()
				var guesses sync.WaitGroup
				begin := make(chan struct{})
				for range 6 {
					last = w.client(users.New(), nil)
					c, s := last, last.session(true)
					guesses.Go(func() {
						<-begin
						for _, guess := range []func() error{
							func() error { return c.Login(s, CKU_USER, []byte("wrong-pin")) },
							func() error { return c.Login(s, CKU_SO, []byte("wrong-pin")) },
							func() error { return c.SetPIN(s, []byte("wrong-pin"), []byte("another")) },
						} {
							if rv := RVOf(guess()); rv != CKR_PIN_INCORRECT && rv != CKR_PIN_LOCKED {
								t.Errorf("a guess is answered with %v", rv)
							}
						}
					})
				}
				close(begin)
				guesses.Wait()
			}
			if counted, _ := w.tries(); counted != most-1 {
				t.Errorf("users had %d of %d tries", counted, most)
			}
			info, err := last.GetTokenInfo(0)
			w.must(err)
			if info.Flags&(CKF_USER_PIN_LOCKED|CKF_SO_PIN_LOCKED) != CKF_USER_PIN_LOCKED|CKF_SO_PIN_LOCKED {
				t.Errorf("a user is not told that no PIN is taken: flags 0x%x", info.Flags)
			}
			alice := w.client(NewUsers().New(), nil)
			theirs := alice.session(false)
			w.refused(alice.Login(theirs, CKU_USER, []byte(userPIN)), CKR_PIN_LOCKED)
			if !strings.Contains(w.log.String(), "users of a service do not get the last one") {
				t.Errorf("the log does not tell why:\n%s", w.log)
			}

			s := w.session(false)
			w.must(w.Login(s, CKU_USER, []byte(userPIN)))
			w.must(w.Logout(s))
			w.must(w.token.TPM().ResetLockout(t.Context(), nil))
			w.must(alice.Login(theirs, CKU_USER, []byte(userPIN)))
		})
	}
}

// Who hangs up before a guess is answered has made it all the same.
func TestGuessesOfWhoLeavesCount(t *testing.T) {
	t.Parallel()
	w := fresh(t)
	w.machine.SetMaxTries(t, 4)
	w.givePINs()
	mallory := NewUsers().New()
	for range 2 {
		c := w.client(mallory, nil)
		l := c.lib
		err := l.tryPIN(w.token.TPM(), func() error {
			if err := w.token.Login(t.Context(), keystore.User, secret.From([]byte("wrong-pin"))); !errors.Is(err, provider.ErrAuth) {
				t.Errorf("a guess: %v", err)
			}
			w.must(c.Finalize())
			return l.ctx.Err()
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("who left is answered: %v", err)
		}
	}
	c := w.client(mallory, nil)
	w.refused(c.Login(c.session(false), CKU_USER, []byte(userPIN)), CKR_PIN_LOCKED)
	if !strings.Contains(w.log.String(), "half are of this user") {
		t.Errorf("the log does not tell why:\n%s", w.log)
	}
}

// A TPM that the first wrong PIN locks takes none from a service's users, right or wrong.
func TestUsersOfAServiceGiveNoPINToATPMOfOneTry(t *testing.T) {
	t.Parallel()
	w := fresh(t)
	w.machine.SetMaxTries(t, 1)
	w.givePINs()
	c := w.client(NewUsers().New(), nil)
	s := c.session(false)
	for _, pin := range []string{"wrong-pin", userPIN} {
		w.refused(c.Login(s, CKU_USER, []byte(pin)), CKR_PIN_LOCKED)
	}
	if counted, _ := w.tries(); counted != 0 || !strings.Contains(w.log.String(), "the first wrong PIN locks this TPM") {
		t.Errorf("%d tries were counted, and the log is\n%s", counted, w.log)
	}
	own := w.session(false)
	w.must(w.Login(own, CKU_USER, []byte(userPIN)))
}

// A user's right PIN costs one command more than the PIN of who has the TPM: it reads the TPM's count.
func TestPINsOfUsersCostOneCommandMore(t *testing.T) {
	t.Parallel()
	w := guarded(t)
	login := func(u *User) (commands int) {
		c := w.client(u, nil)
		s := c.session(false)
		commands = w.commands(func() { w.must(c.Login(s, CKU_USER, []byte(userPIN))) })
		w.must(c.Logout(s))
		return commands
	}
	user := NewUsers().New()
	login(user) // what only the first login of a process sends is sent
	if alone, served := login(nil), login(user); served != alone+1 {
		t.Errorf("a login takes %d commands, a user's %d", alone, served)
	}
}

// Who may use nothing of a token gives it no PIN, and who may not manage it is no security officer: it would do them no good, and a wrong
// PIN is a loss to all.
func TestPINsAreTakenOnlyFromWhoMayUseSomething(t *testing.T) {
	t.Parallel()
	w := guarded(t)
	s := w.session(true)
	w.must(w.Login(s, CKU_USER, []byte(userPIN)))
	w.make(ecKey("web"))
	w.must(w.Logout(s))
	for name, c := range map[string]struct {
		guard    Guard
		user, so RV
	}{
		"nothing":            {func(string, string, string) bool { return false }, CKR_FUNCTION_REJECTED, CKR_TOKEN_WRITE_PROTECTED},
		"of another token":   {func(token, _, _ string) bool { return token == "other" }, CKR_FUNCTION_REJECTED, CKR_TOKEN_WRITE_PROTECTED},
		"a key of no token":  {func(_, key, _ string) bool { return key == "mail" }, CKR_FUNCTION_REJECTED, CKR_TOKEN_WRITE_PROTECTED},
		"a key of the token": {func(_, key, purpose string) bool { return key == "web" && purpose == "sign" }, CKR_OK, CKR_TOKEN_WRITE_PROTECTED},
		"the token":          {func(_, _, purpose string) bool { return purpose == "manage" }, CKR_OK, CKR_OK},
	} {
		client := w.client(nil, c.guard)
		session := client.session(true)
		for user, want := range map[UserType]RV{CKU_USER: c.user, CKU_SO: c.so} {
			pin := map[UserType]string{CKU_USER: userPIN, CKU_SO: soPIN}[user]
			if want != CKR_OK {
				pin = "wrong-pin"
			}
			if got := RVOf(client.Login(session, user, []byte(pin))); got != want {
				t.Errorf("who may use %s logs in as %d: %v, want %v", name, user, got, want)
			}
			_ = client.Logout(session)
		}
	}
	child := w.elsewhere(func(load func() (*tokens.Set, error)) *Module { return NewForked(load, nil) })
	session := child.session(true)
	w.refused(child.Login(session, CKU_SO, []byte("wrong-pin")), CKR_TOKEN_WRITE_PROTECTED)
	w.must(child.Login(session, CKU_USER, []byte(userPIN)))
	if counted, _ := w.tries(); counted != 0 {
		t.Errorf("%d PINs reached the TPM and were wrong", counted)
	}
}

// Of a user whose calls wait by the dozen a few go before each turn of another one, not all: these are in the queue all the time.
func TestUsersOfAServiceTakeTurns(t *testing.T) {
	t.Parallel()
	const calls, turns = 30, 20 // each 32 bytes are a turn
	w := open(t)
	users := NewUsers()
	greedy, modest := w.client(users.New(), nil), w.client(users.New(), nil)
	s, other := greedy.session(false), modest.session(false)
	var begun, all sync.WaitGroup
	begun.Add(calls)
	for range calls {
		all.Go(func() {
			_, err := greedy.GenerateRandom(s, 32)
			begun.Done()
			for err == nil {
				_, err = greedy.GenerateRandom(s, 32)
			}
			if rv := RVOf(err); rv != CKR_FUNCTION_CANCELED && rv != CKR_CRYPTOKI_NOT_INITIALIZED && rv != CKR_SESSION_HANDLE_INVALID {
				t.Errorf("a call ended with %v", err)
			}
		})
	}
	begun.Wait()
	others := w.commands(func() { w.must(second(modest.GenerateRandom(other, turns*32))) }) - turns
	w.must(greedy.Finalize())
	all.Wait()
	if others < turns/2 || others > turns*calls/3 {
		t.Errorf("%d commands of another user went before %d turns", others, turns)
	}
}

// linked is a key that another tool made, under dictionary-attack protection, with a password or without. The store says that it has none.
func (w *world) linked(name string, tmpl provider.Template, password string) keystore.Entry {
	w.t.Helper()
	e, _ := w.linkedObject(name, tmpl, password)
	return e
}

// linkedObject is linked that gives what that tool has of the key, too.
func (w *world) linkedObject(name string, tmpl provider.Template, password string) (keystore.Entry, provider.Object) {
	w.t.Helper()
	tpm, ctx := w.token.TPM(), w.t.Context()
	tmpl.DictionaryAttack = true
	object, err := tpm.CreateKey(ctx, tmpl, secret.From([]byte(password)))
	w.must(err)
	h, err := tpm.FreeHandle(ctx, keystore.FirstHandle)
	w.must(err)
	w.must(tpm.Persist(ctx, object, h))
	e, err := w.token.Link(ctx, h, keystore.KeySpec{Label: name})
	w.must(err)
	return e, object
}

// A key that has a password of which the store does not know is a wrong PIN at each use. By using it a service's users come no nearer to the
// TPM's lockout than by guessing.
func TestUsesOfAKeyWhosePasswordNobodyKnowsDoNotLockTheTPM(t *testing.T) {
	t.Parallel()
	for name, tmpl := range map[string]provider.Template{
		"signs":              {Type: provider.P256, Use: provider.Use{Sign: true}},
		"derives":            {Type: provider.P256, Use: provider.Use{Derive: true}},
		"receives KMS's key": {Type: provider.RSA2048, Use: provider.Use{Decrypt: true}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := open(t)
			e := w.linked("locked", tmpl, "a password")
			c := w.client(NewUsers().New(), nil)
			s := c.session(false)
			locked := c.one(s, CKO_PRIVATE_KEY)
			use := map[string]func() error{
				"signs": func() error { return second(c.sign(s, Mechanism{Type: CKM_ECDSA}, locked, make([]byte, 32))) },
				"derives": func() error {
					point := c.attribute(s, c.one(s, CKO_PUBLIC_KEY), CKA_EC_POINT)
					return second(c.DeriveKey(s, agreementOf(CKD_NULL, nil, point), locked, nil))
				},
				"receives KMS's key": func() error {
					key, err := signer.ForEntry(w.token, e, nil)
					w.must(err)
					return second(recipient{key, c.lib, w.token.TPM(), e}.Decrypt(nil, make([]byte, 256), &rsa.OAEPOptions{Hash: crypto.SHA256}))
				},
			}[name]
			_, most := w.tries()
			for range most {
				if rv := RVOf(use()); rv != CKR_PIN_INCORRECT && rv != CKR_PIN_LOCKED {
					t.Errorf("a use is answered with %v", rv)
				}
			}
			if counted, _ := w.tries(); counted != max(most/2, 1) {
				t.Errorf("uses of a key made the TPM count %d wrong PINs of %d", counted, most)
			}
			if err := use(); !strings.Contains(err.Error(), `"locked" count, and no use has shown yet that it takes none`) {
				t.Errorf("the refusal does not tell why: %v", err)
			}
		})
	}
}

// A key of another tool's without a password, once it was used, costs a service's users no command more than it costs others, also after
// some have guessed until no more PINs are taken.
func TestKeysWithoutAPasswordAreUsedOn(t *testing.T) {
	t.Parallel()
	w := guarded(t)
	w.linked("free", provider.Template{Type: provider.P256, Use: provider.Use{Sign: true}}, "")
	users := NewUsers()
	uses := func() (commands int) {
		c := w.client(users.New(), nil)
		s := c.session(false)
		free := c.one(s, CKO_PRIVATE_KEY)
		return w.commands(func() { w.must(second(c.sign(s, Mechanism{Type: CKM_ECDSA}, free, make([]byte, 32)))) })
	}
	uses()
	for range 3 {
		c := w.client(users.New(), nil)
		s := c.session(false)
		if rv := RVOf(c.Login(s, CKU_USER, []byte("wrong-pin"))); rv != CKR_PIN_INCORRECT && rv != CKR_PIN_LOCKED {
			t.Errorf("a guess is answered with %v", rv)
		}
	}
	if n := uses(); n != 1 {
		t.Errorf("a use takes %d commands", n)
	}
}

// A key that was used without a password, and to which the other tool gives one, does not lock the TPM either: its Name is still the same.
func TestAKeyThatIsGivenAPasswordLaterDoesNotLockTheTPM(t *testing.T) {
	t.Parallel()
	w := open(t)
	e, object := w.linkedObject("changing", provider.Template{Type: provider.P256, Use: provider.Use{Sign: true}}, "")
	users := NewUsers()
	use := func(u *User) error {
		c := w.client(u, nil)
		s := c.session(false)
		return second(c.sign(s, Mechanism{Type: CKM_ECDSA}, c.one(s, CKO_PRIVATE_KEY), make([]byte, 32)))
	}
	w.must(use(users.New()))

	tpm, ctx := w.token.TPM(), t.Context()
	leaving := w.client(users.New(), nil)
	l := leaving.lib
	err := l.use(tpm, e, func() error { // nobody knows what the TPM answers to who is gone
		w.must(leaving.Finalize())
		return l.ctx.Err()
	})
	if !errors.Is(err, context.Canceled) || users.saw(e) {
		t.Errorf("who left is answered: %v, and the key is still one that takes no PIN", err)
	}
	w.must(use(users.New()))

	changed, err := tpm.ChangeAuth(ctx, object, provider.Auth{}, secret.From([]byte("a password")))
	w.must(err)
	w.must(tpm.Evict(ctx, e.Object.Handle, object.Public.Name()))
	w.must(tpm.Persist(ctx, changed, e.Object.Handle))
	_, most := w.tries()
	for range most + 1 {
		if rv := RVOf(use(users.New())); rv != CKR_PIN_INCORRECT && rv != CKR_PIN_LOCKED {
			t.Errorf("a use is answered with %v", rv)
		}
	}
	if counted, _ := w.tries(); counted == 0 || counted >= most {
		t.Errorf("uses of a key made the TPM count %d wrong PINs of %d", counted, most)
	}
}
