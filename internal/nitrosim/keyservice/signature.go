package keyservice

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	signatureAlgorithm = "AWS4-HMAC-SHA256"
	signedService      = "kms"
	dateFormat         = "20060102T150405Z"
	maxSkew            = 5 * time.Minute
)

var authorization = regexp.MustCompile(`^` + signatureAlgorithm + ` Credential=([^ ,/]+)/(\d{8})/([^ ,/]+)/([^ ,/]+)/aws4_request, ?SignedHeaders=([a-z0-9;-]+), ?Signature=([0-9a-f]{64})$`)

// authenticate finds who signed a request (AWS Signature Version 4, in its header form).
func (s *Server) authenticate(r *http.Request, body []byte) (Principal, error) {
	header := r.Header.Get("Authorization")
	if header == "" {
		return Principal{}, refuse("MissingAuthenticationTokenException", "Missing Authentication Token")
	}
	m := authorization.FindStringSubmatch(header)
	date, err := time.Parse(dateFormat, r.Header.Get("X-Amz-Date"))
	if m == nil || err != nil {
		return Principal{}, refuse("IncompleteSignatureException",
			"Authorization header requires 'Credential', 'SignedHeaders' and 'Signature' of %s, and 'X-Amz-Date' must be there", signatureAlgorithm)
	}
	id, day, region, service, signed, signature := m[1], m[2], m[3], m[4], strings.Split(m[5], ";"), m[6]
	p, known := s.principals[id]
	token := []byte(r.Header.Get("X-Amz-Security-Token"))
	if !known || subtle.ConstantTimeCompare(token, []byte(p.SessionToken)) != 1 {
		return Principal{}, refuse("UnrecognizedClientException", "The security token included in the request is invalid.")
	}
	now := s.now().UTC()
	mismatch := func(format string, args ...any) (Principal, error) {
		return Principal{}, refuse("InvalidSignatureException", format, args...)
	}
	switch {
	case region != s.Region:
		return mismatch("Credential should be scoped to a valid region.")
	case service != signedService:
		return mismatch("Credential should be scoped to correct service: '%s'.", signedService)
	case date.Format("20060102") != day:
		return mismatch("Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: '%s' != '%s'.", day, date.Format("20060102"))
	case now.Sub(date) > maxSkew:
		return mismatch("Signature expired: %s is now earlier than %s (%s - 5 min.)", date.Format(dateFormat), now.Add(-maxSkew).Format(dateFormat), now.Format(dateFormat))
	case date.Sub(now) > maxSkew:
		return mismatch("Signature not yet current: %s is still later than %s (%s + 5 min.)", date.Format(dateFormat), now.Add(maxSkew).Format(dateFormat), now.Format(dateFormat))
	}
	for _, name := range append(amazonHeaders(r.Header), "host") {
		if !slices.Contains(signed, name) {
			return mismatch("'%s' must be a 'SignedHeader' in the AWS Authorization.", name)
		}
	}
	want := sign(p.SecretAccessKey, scope{day, region, service}, date, canonicalRequest(r, signed, body))
	if subtle.ConstantTimeCompare([]byte(want), []byte(signature)) != 1 {
		return mismatch("The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and signing method. Consult the service documentation for details.")
	}
	if !p.Expiration.IsZero() && now.After(p.Expiration) {
		return Principal{}, refuse("ExpiredTokenException", "The security token included in the request is expired")
	}
	return p, nil
}

// amazonHeaders are those that a signature must cover, in lower case.
func amazonHeaders(h http.Header) (names []string) {
	for name := range h {
		if lower := strings.ToLower(name); strings.HasPrefix(lower, "x-amz-") {
			names = append(names, lower)
		}
	}
	return names
}

// canonicalRequest is the form of a request to "/" that is signed.
func canonicalRequest(r *http.Request, signed []string, body []byte) string {
	lines := []string{r.Method, "/", ""}
	for _, name := range signed {
		values := slices.Clone(r.Header.Values(name))
		switch name {
		case "host":
			values = []string{r.Host}
		case "content-length":
			values = []string{strconv.FormatInt(r.ContentLength, 10)}
		}
		for i, v := range values {
			values[i] = strings.Join(strings.Fields(v), " ")
		}
		lines = append(lines, name+":"+strings.Join(values, ","))
	}
	return strings.Join(append(lines, "", strings.Join(signed, ";"), hexSHA256(body)), "\n")
}

// scope is what a signature is good for.
type scope struct{ day, region, service string }

// sign gives the signature of a canonical request, in hex.
func sign(secret string, sc scope, date time.Time, request string) string {
	key := []byte("AWS4" + secret)
	for _, part := range []string{sc.day, sc.region, sc.service, "aws4_request"} {
		key = mac(key, part)
	}
	return hex.EncodeToString(mac(key, strings.Join([]string{
		signatureAlgorithm, date.Format(dateFormat), sc.day + "/" + sc.region + "/" + sc.service + "/aws4_request", hexSHA256([]byte(request)),
	}, "\n")))
}

func mac(key []byte, text string) []byte {
	m := hmac.New(sha256.New, key)
	m.Write([]byte(text))
	return m.Sum(nil)
}

func hexSHA256(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
