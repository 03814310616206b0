package keystore

import (
	"errors"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// What people are asked for is what Auth uses.
func TestAPINIsAskedForWhereItIsUsed(t *testing.T) {
	t.Parallel()
	pcr := policy.PCR{Bank: 0x000B, Values: map[uint][]byte{7: make([]byte, 32)}}
	bound := policy.Policy{Root: pcr}
	both := bound.And(policy.PIN{})
	for name, c := range map[string]struct {
		policy       policy.Policy
		userWithAuth bool
		auth         authKind
		unknown      bool
		own          bool
	}{
		"a password":                             {policy.Policy{}, true, authOwn, false, true},
		"no password":                            {policy.Policy{}, true, authEmpty, false, false},
		"a policy without a PIN, and a password": {bound, false, authOwn, false, false},
		"a policy with a PIN":                    {both, false, authOwn, false, true},
		"a policy that is decoration":            {bound, true, authOwn, false, true},
		"a policy that nobody knows":             {bound, false, authOwn, true, false},
	} {
		s := diskStore(t)
		public := softPublic(t, c.policy)
		if c.userWithAuth {
			area := public.Area()
			area.ObjectAttributes.UserWithAuth = true
			var err error
			public, err = provider.ParsePublic(tpm2.Marshal(area))
			must(t, err)
		}
		side := sideOf(t, public, "web")
		side.Auth = c.auth
		if !c.unknown {
			side.Policy = c.policy
		}
		s.write(t, "0011.pem", pemOf(t, public, policy.Policy{}, c.auth == authEmpty))
		s.writeSidecar(t, "0011", side)
		token := s.open(t)
		e, err := token.Find(Query{Label: "web"})
		must(t, err)
		if e.AsksOwnPIN() != c.own || e.AsksPIN() != c.own {
			t.Errorf("%s: it asks for a PIN: %v, for its own: %v", name, e.AsksPIN(), e.AsksOwnPIN())
		}
		_, err = token.Auth(e, nil)
		if errors.Is(err, ErrKeyPINNeeded) != c.own || !c.own && errors.Is(err, ErrPolicyUnknown) != c.unknown {
			t.Errorf("%s: used without a PIN: %v", name, err)
		}
	}
}
