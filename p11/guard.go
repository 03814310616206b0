package p11

import (
	"bytes"
	"slices"

	"github.com/tpm2-p11/tpm2-p11/internal/tokens"
	"github.com/tpm2-p11/tpm2-p11/keystore"
)

// Guard tells whether an application may use a key for a purpose: "sign", "decrypt" (which deriving is, too) or "unwrap"; or, with an
// empty key, "manage" what is in a token. It is asked often, by several goroutines at once.
type Guard func(token, key, purpose string) bool

// NewServed is New for an application of another user's. It sees only keys that it may use for something, and uses them for that; it
// makes, changes and deletes them only in tokens that it may manage, and logs in only to those that it may use something of. Session
// objects are its own, and it has at most some sessions open. user has it with its other connections; nil holds up no wrong PINs.
func NewServed(load func() (*tokens.Set, error), guard Guard, sessions int, user *User) *Module {
	return &Module{load: load, guard: guard, sessions: sessions, user: user}
}

// sees tells whether the application may use what has a label for any of some ways, which are among those that a guard tells apart.
func (g Guard) sees(token, key string, ways Flags) bool {
	return g == nil || g(token, "", "manage") ||
		slices.ContainsFunc([]Flags{CKF_SIGN, CKF_DECRYPT, CKF_UNWRAP}, func(way Flags) bool { return ways&way != 0 && g.permits(token, key, way) })
}

// permits tells whether the application may use a key in one of Cryptoki's ways; what needs only its public half is free.
func (g Guard) permits(token, key string, how Flags) bool {
	if g == nil {
		return true
	}
	return (how&(CKF_SIGN|CKF_SIGN_RECOVER) == 0 || g(token, key, "sign")) && (how&(CKF_DECRYPT|CKF_DERIVE) == 0 || g(token, key, "decrypt")) &&
		(how&CKF_UNWRAP == 0 || g(token, key, "unwrap"))
}

// mayName refuses another label for a key, secret or sealed data by which the application would get to use it in a way in which it may
// not now: who may do what goes by labels.
func (s *session) mayName(o *object, label string) error {
	if label == "" || o.tpm == nil && !o.hides(CKA_VALUE) {
		return nil
	}
	guard, token := s.lib.guard, s.slot.token.Label()
	for _, way := range []Flags{CKF_SIGN, CKF_DECRYPT, CKF_UNWRAP} {
		if guard.permits(token, label, way) && !guard.permits(token, o.entry.Label, way) {
			return refuse(CKR_ACTION_PROHIBITED, "%q is not for this client to use in a way that it could be used in as %q", o.entry.Label, label)
		}
	}
	return nil
}

// permitted refuses what the application may not do with something of the token's. It is asked when an operation begins and when it goes
// on: the service's configuration may have been read anew meanwhile.
func (s *session) permitted(o *object, ways Flags) error {
	if o.owner != 0 || s.lib.guard == nil {
		return nil
	}
	return s.permittedIn(s.slot.token.Now(), o, ways)
}

func (s *session) permittedIn(token keystore.Moment, o *object, ways Flags) error {
	if o.owner != 0 || s.lib.guard.permits(token.Label(), o.entry.Label, ways) {
		return nil
	}
	return refuse(CKR_KEY_FUNCTION_NOT_PERMITTED, "%q is not for this client to use so: an [[access]] table would say it", o.entry.Label)
}

// mayUse is permitted, and refuses what awaits a login when nobody is logged in any more.
func (s *session) mayUse(o *object, ways Flags) error {
	if !o.private && s.lib.guard == nil {
		return nil // which takes no look at the token
	}
	token := s.slot.token.Now()
	if o.awaitsLogin() && !s.userOrOpenIn(token) {
		return CKR_USER_NOT_LOGGED_IN
	}
	return s.permittedIn(token, o, ways)
}

// anyWay are all ways that a guard tells apart.
const anyWay = CKF_SIGN | CKF_DECRYPT | CKF_UNWRAP

// ways are those in which a private half or a secret can be used; any, of what is public anyway.
func (o *object) ways() Flags {
	switch {
	case o.class == CKO_DATA && o.hides(CKA_VALUE):
		return CKF_DECRYPT
	case o.class != CKO_PRIVATE_KEY && o.class != CKO_SECRET_KEY:
		return anyWay
	}
	var can Flags
	if o.class == CKO_SECRET_KEY {
		can = CKF_DECRYPT // which it is digested and wrapped by
	}
	for attribute, way := range map[AttributeType]Flags{
		CKA_SIGN: CKF_SIGN, CKA_SIGN_RECOVER: CKF_SIGN, CKA_VERIFY: CKF_SIGN, CKA_DECRYPT: CKF_DECRYPT, CKA_DERIVE: CKF_DECRYPT,
		CKA_UNWRAP: CKF_UNWRAP, CKA_WRAP: CKF_UNWRAP,
	} {
		if bytes.Equal(o.attributes[attribute], boolean(true)) {
			can |= way
		}
	}
	return can
}
