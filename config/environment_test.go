package config

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// What is kept holds whatever the environment says later, and another process finds the same file from its own folder.
func TestKeptEnvironment(t *testing.T) {
	t.Cleanup(func() { kept.Store(nil) })
	t.Setenv("TPM2_P11_CONF", "mine.conf")
	t.Setenv("HOME", "/home/alice")
	t.Setenv("XDG_CONFIG_HOME", "")
	t.Setenv("XDG_DATA_HOME", "/data")
	for _, name := range variables[4:] {
		t.Setenv(name, "")
	}
	t.Setenv("AWS_REGION", "eu-central-1")
	KeepEnvironment()
	t.Setenv("TPM2_P11_CONF", "another.conf")
	t.Setenv("XDG_DATA_HOME", "/elsewhere")
	folder, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"TPM2_P11_CONF=" + filepath.Join(folder, "mine.conf"), "XDG_DATA_HOME=/data", "HOME=/home/alice", "AWS_REGION=eu-central-1"}
	if got := Environment(); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if got := Getenv("XDG_DATA_HOME"); got != "/data" {
		t.Errorf("it is %q now", got)
	}
}
