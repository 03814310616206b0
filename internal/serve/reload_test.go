package serve

import (
	"context"
	"testing"

	"github.com/tpm2-p11/tpm2-p11/config"
)

// Who was there before the configuration changed, and works on, keeps the TPM from nobody who comes later: without a resource manager it
// has one connection at a time.
func TestClientsOfTwoConfigurationsShareTheTPM(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*config.Config){
		"who may use what": func(c *config.Config) {
			c.Access = []config.Access{{Users: []string{"0"}, Purposes: []string{"sign"}}}
		},
		"what is verified": func(c *config.Config) { c.Verify = "all" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t, "", webKey)
			before := h.open("web")
			over, end := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() {
				var err error
				for over.Err() == nil && err == nil {
					err = works(before)
				}
				ended <- err
			}()
			c := h.config
			change(&c)
			h.server.Reload(c)
			after := h.open("web")
			for range 5 {
				if err := works(after); err != nil {
					t.Error(err)
				}
			}
			end()
			if err := <-ended; err != nil {
				t.Errorf("who was there before: %v", err)
			}
		})
	}
}
