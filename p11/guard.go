package p11

import "github.com/tpm2-p11/tpm2-p11/internal/tokens"

// Guard tells whether an application may use a key for a purpose: "sign", "decrypt" or "unwrap". It is asked often, by several
// goroutines at once.
type Guard func(token, key, purpose string) bool

// NewServed is New for an application of another user's. It sees only keys that it may use for something, uses them for that, and makes,
// changes and deletes none. Session objects are its own.
func NewServed(load func() (*tokens.Set, error), guard Guard) *Module {
	return &Module{load: load, guard: guard}
}

// sees tells whether the application may use a key for anything.
func (g Guard) sees(token, key string) bool {
	return g == nil || g(token, key, "sign") || g(token, key, "decrypt") || g(token, key, "unwrap")
}

// permits tells whether the application may use a key in one of Cryptoki's ways; what needs only its public half is free.
func (g Guard) permits(token, key string, how Flags) bool {
	if g == nil {
		return true
	}
	return (how&CKF_SIGN == 0 || g(token, key, "sign")) && (how&CKF_DECRYPT == 0 || g(token, key, "decrypt")) &&
		(how&CKF_UNWRAP == 0 || g(token, key, "unwrap"))
}
