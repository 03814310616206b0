package provider

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/google/go-tpm/tpm2"
)

// PretendFork makes a TPM believe that another process opened its connection.
func PretendFork(t *TPM) { t.pid = -1 }

// Age makes what was shown of the persistent objects a TPM knows older.
func Age(t *TPM, by time.Duration) {
	_ = t.queue.enter(context.Background(), nil)
	defer t.queue.leave(nil)
	for h, shown := range t.conn.names {
		t.conn.names[h] = shownName{shown.name, shown.at.Add(-by)}
	}
}

// Rest waits until a TPM has done what it does between operations, and receives what was sent for the next one.
func Rest(t *TPM) {
	_ = t.queue.enter(context.Background(), nil)
	if c := t.conn; c != nil {
		c.receiveStep(context.Background())
		if c.broken {
			t.drop()
		}
	}
	t.queue.leave(nil)
}

// CpHash is the hash that authorises NitroTPM's command for an NV index with a Name.
func CpHash(name Name) []byte {
	cmd := command{code: ccNSMRequest, in: []entity{{name: name}, {name: name}}}
	return cmd.cpHash(nsmHash)
}

// DirectAddress is where a TPM's commands go that its resource manager refuses, "" for nowhere.
func DirectAddress(t *TPM) string {
	if d := t.directDialer(); d != nil {
		return d.String()
	}
	return ""
}

// PolicyDigests are what the TPM makes of a policy's commands, in a trial session and in a real one of hash alg.
func (t *TPM) PolicyDigests(ctx context.Context, alg tpm2.TPMIAlgHash, a Auth) (trial, policy []byte, err error) {
	hash, err := alg.Hash()
	if err != nil {
		return nil, nil, err
	}
	u := &policyUse{nameAlg: alg, hash: hash, auth: a}
	err = t.do(ctx, func(ctx context.Context, c *connection) error {
		for kind, digest := range map[tpm2.TPMSE]*[]byte{tpm2.TPMSETrial: &trial, tpm2.TPMSEPolicy: &policy} {
			if err := c.makePlan(ctx, u, make(pcrValues)); err != nil {
				return err
			}
			s, err := c.startSession(ctx, kind, hash, nil)
			if err != nil {
				return err
			}
			defer c.end(ctx, s)
			for _, step := range u.plan.steps {
				if err := c.policyStep(ctx, s, step); err != nil {
					return fmt.Errorf("%T in a session of kind %d: %w", step, kind, err)
				}
			}
			r, err := c.run(ctx, command{code: tpm2.TPMCCPolicyGetDigest, in: []entity{permanent(s.handle)}})
			if err != nil {
				return err
			}
			*digest = bytes.Clone(r.sized())
		}
		return nil
	})
	return trial, policy, err
}
