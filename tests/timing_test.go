package tests

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"math"
	mathrand "math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/miekg/pkcs11"
)

// rankSum is the z of Mann and Whitney's test: how many standard deviations the sum of a's ranks among all is off what chance gives.
// Nothing is assumed about how times are distributed.
func rankSum(a, b []time.Duration) float64 {
	all := slices.Sorted(slices.Values(slices.Concat(a, b)))
	sum := 0.0
	for _, v := range a {
		rank, _ := slices.BinarySearch(all, v)
		sum += float64(rank + 1)
	}
	m, n := float64(len(a)), float64(len(b))
	return (sum - m*(m+n+1)/2) / math.Sqrt(m*n*(m+n+1)/12)
}

// How long a decryption takes says nothing of the padding. Good and bad ciphertexts come in random order, so that a machine whose speed
// drifts favours neither; chance alone puts ranks that far off less than once in ten million runs.
func TestTimesOfDecryptionsTellNothing(t *testing.T) {
	const rounds, most = 300, 5.5
	story{
		config: "legacy = [\"pkcs1-decryption\"]\n",
		ways:   transports[:1],
		before: func(m *machine) {
			m.tpm2p11("init", "--no-pin")
			m.tpm2p11("key", "create", "mail", "--use", "decrypt")
			m.tpm2p11("key", "public", "mail", "--out", "mail.pub")
		},
		app: func(a *application) {
			key, private := a.publicKey("mail.pub").(*rsa.PublicKey), a.private("mail")
			kinds := []string{"good", "without a zero byte", "of type 1"}
			ciphertext := map[string]func() []byte{
				"good": func() []byte {
					c, err := rsa.EncryptPKCS1v15(rand.Reader, key, bytes.Repeat([]byte{'x'}, 100))
					a.ok("rsa.EncryptPKCS1v15", err)
					return c
				},
				"without a zero byte": func() []byte {
					return encryptRaw(key, append([]byte{0, 2}, bytes.Repeat([]byte{byte(1 + mathrand.IntN(255))}, key.Size()-2)...))
				},
				"of type 1": func() []byte {
					return encryptRaw(key, append([]byte{0, 1}, bytes.Repeat([]byte{byte(1 + mathrand.IntN(255))}, key.Size()-2)...))
				},
			}
			times := map[string][]time.Duration{}
			for range rounds {
				kind := kinds[mathrand.IntN(len(kinds))]
				c := ciphertext[kind]()
				began := time.Now()
				_, err := a.decrypt(mechanism(pkcs11.CKM_RSA_PKCS), private, c)
				times[kind] = append(times[kind], time.Since(began))
				a.ok("C_Decrypt", err)
			}
			for _, kind := range kinds[1:] {
				if apart := rankSum(times["good"], times[kind]); math.Abs(apart) > most {
					a.t.Errorf("ciphertexts %s are told from good ones by their time: %.1f standard deviations", kind, apart)
				}
			}
		},
	}.tell(t)
}
