package kms_test

import (
	"slices"
	"testing"

	"github.com/tpm2-p11/tpm2-p11/config"
	"github.com/tpm2-p11/tpm2-p11/kms"
)

// The helper of a server's forked children asks KMS as the server would: it gets each variable that is read here.
func TestAHelperGetsWhatIsReadFromTheEnvironment(t *testing.T) {
	var read []string
	_, err := kms.NewService(t.Context(), kms.Options{Getenv: func(name string) string {
		read = append(read, name)
		return environment("AWS_EC2_METADATA_DISABLED", "true", "AWS_DEFAULT_REGION", region)(name)
	}})
	if err != nil {
		t.Fatal(err)
	}
	if len(read) < 5 {
		t.Errorf("only %q were read: the test proves nothing", read)
	}
	for _, name := range append(read, "AWS_SESSION_TOKEN", "no_proxy") {
		t.Setenv(name, "https://known.example.com")
		if !slices.Contains(config.Environment(), name+"=https://known.example.com") {
			t.Errorf("%s is not among %q", name, config.Environment())
		}
	}
}
