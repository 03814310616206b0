package p11

import "github.com/tpm2-p11/tpm2-p11/internal/tokens"

// Guard tells whether an application may use a key for a purpose: "sign", "decrypt" (which deriving is, too) or "unwrap"; or, with an
// empty key, "manage" what is in a token. It is asked often, by several goroutines at once.
type Guard func(token, key, purpose string) bool

// NewServed is New for an application of another user's. It sees only keys that it may use for something, and uses them for that; it
// makes, changes and deletes them only in tokens that it may manage. Session objects are its own, and it has at most some sessions open.
func NewServed(load func() (*tokens.Set, error), guard Guard, sessions int) *Module {
	return &Module{load: load, guard: guard, sessions: sessions}
}

// sees tells whether the application may use a key for anything.
func (g Guard) sees(token, key string) bool {
	return g == nil || g(token, "", "manage") || g(token, key, "sign") || g(token, key, "decrypt") || g(token, key, "unwrap")
}

// permits tells whether the application may use a key in one of Cryptoki's ways; what needs only its public half is free.
func (g Guard) permits(token, key string, how Flags) bool {
	if g == nil {
		return true
	}
	return (how&(CKF_SIGN|CKF_SIGN_RECOVER) == 0 || g(token, key, "sign")) && (how&(CKF_DECRYPT|CKF_DERIVE) == 0 || g(token, key, "decrypt")) &&
		(how&CKF_UNWRAP == 0 || g(token, key, "unwrap"))
}
