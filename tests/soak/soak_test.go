package main

import (
	"os"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		if worker, ok := workers[os.Args[1]]; ok {
			exit(worker())
		}
	}
	os.Exit(m.Run())
}

// A few seconds of what make soak does for as long as one likes.
func TestAFewSecondsOfTrouble(t *testing.T) {
	if err := run(t.Context(), "../../build", 5*time.Second, 0.03, 7); err != nil {
		t.Error(err)
	}
}
