package keyservice

import (
	"net/http"
	"testing"
	"time"
)

// AWS's own example: "post-vanilla" of its Signature Version 4 test suite.
func TestSignatureKnownAnswer(t *testing.T) {
	t.Parallel()
	date := time.Date(2015, 8, 30, 12, 36, 0, 0, time.UTC)
	r, err := http.NewRequest(http.MethodPost, "http://example.amazonaws.com/", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Amz-Date", date.Format(dateFormat))
	got := sign("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", scope{"20150830", "us-east-1", "service"}, date,
		canonicalRequest(r, []string{"host", "x-amz-date"}, nil))
	if want := "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"; got != want {
		t.Errorf("the signature is %s, want %s", got, want)
	}
}
