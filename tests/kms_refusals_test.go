package tests

import (
	"crypto/x509"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	awskms "github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/tpm2-p11/tpm2-p11/internal/nitrosim/keyservice"
	"github.com/tpm2-p11/tpm2-p11/internal/nitrosim/simtest"
)

// environment is the machine's, with some variables set otherwise, or with "NAME" alone taken away.
func (m *instance) environment(change ...string) []string {
	env := slices.Clone(m.env)
	for _, c := range change {
		name, _, set := strings.Cut(c, "=")
		env = slices.DeleteFunc(env, func(e string) bool { return strings.HasPrefix(e, name+"=") })
		if set {
			env = append(env, c)
		}
	}
	return env
}

// holds is what a failed import must leave as it is.
func (m *instance) holds() string {
	m.t.Helper()
	var b strings.Builder
	for _, name := range files(m.t, m.path("store")) {
		fmt.Fprintf(&b, "%s %x\n", name, m.read("store/"+name))
	}
	return b.String() + m.tpm2p11("handles").stdout
}

// Whatever goes wrong between the machine and KMS is told with a next step; nothing comes out, and nothing is half imported.
func TestKMSRefusals(t *testing.T) {
	t.Parallel()
	m := newInstance(t)
	m.tpm2p11("init", "--no-pin")
	m.issueKey("web", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
	key := fmt.Sprintf("key_id = %q\nattempts = 2\ntimeout = \"20s\"\n", m.key)
	before, own := m.holds(), m.env

	nobody := "http://127.0.0.1:" + freePort(t)
	// The same KMS half a day later, for which the machine's documents are old; and one that trusts another machine's.
	later := simtest.StartKMS(t, keyservice.Options{Roots: []*x509.Certificate{m.sim.Root(t)}, Now: func() time.Time { return time.Now().Add(12 * time.Hour) }})
	foreign := simtest.StartKMS(t, keyservice.Options{Roots: []*x509.Certificate{simtest.Start(t).Root(t)}})

	fault := func(f keyservice.Fault) func() { return func() { m.kms.Inject(f, 1000) } }
	endpoint := func(url string) func() {
		return func() {
			m.write("tpm2-p11.conf", strings.Replace(string(m.read("tpm2-p11.conf")), m.kms.URL, url, 1))
		}
	}
	for _, c := range []struct {
		name    string
		happens func()
		words   []string
	}{
		{"throttling", fault(keyservice.Throttle), []string{"KMS asks to send fewer requests", "try again in a while"}},
		{"a failure inside KMS", fault(keyservice.Unavailable), []string{"KMS failed inside", "try again in a while"}},
		{"a connection that breaks", fault(keyservice.Close), []string{"KMS cannot be reached", "proxy"}},
		{"an answer cut short", fault(keyservice.Truncate), []string{"KMS"}},
		{"an answer for another key", fault(keyservice.WrongKey), []string{"CMS message is for another key", "look at what stands between this machine and KMS"}},
		{"a flipped bit", fault(keyservice.Flip), []string{"CMS message"}},
		{"an answer in the clear", fault(keyservice.Open), []string{"KMS answered in the clear", "do not use it"}},
		{"KMS out of reach", endpoint(nobody), []string{"KMS cannot be reached", "check the network"}},
		{"documents that have expired", endpoint(later.URL), []string{"the attestation document has expired", "the machine's clock"}},
		{"a KMS that trusts other machines", endpoint(foreign.URL), []string{"the attestation document is not accepted"}},
		{"another region", func() { m.env = m.environment("AWS_REGION=eu-west-3") }, []string{"another region's", "AWS_REGION"}},
		{"no region", func() { m.env = m.environment("AWS_REGION") }, []string{"no region", "set region in the configuration's [kms]"}},
		{"no credentials", func() { m.env = m.environment("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY") }, []string{"no AWS credentials", "give the instance a role"}},
		{"credentials that KMS does not know", func() { m.env = m.environment("AWS_ACCESS_KEY_ID=AKIDNOBODY") }, []string{"KMS refuses them"}},
		{"a role that may not", func() { m.env = append(slices.Clone(own), m.kms.Environ(simtest.ReleaseRole)...) }, []string{"access denied by KMS", "PCR4", "the role of these credentials"}},
		{"another KMS key", func() {
			m.configure(fmt.Sprintf("key_id = %q\nattempts = 2\n", m.kms.Key(t, m.policy())))
		}, []string{"made with another KMS key", "--key-id"}},
		{"no such KMS key", func() { m.configure("key_id = \"alias/nothing\"\nattempts = 2\n") }, []string{"KMS has no such key", "alias/NAME"}},
		{"other PCRs", func() { m.sim.Extend(t, "sha384", 12, []byte("another command line")) }, []string{"access denied by KMS to a machine with PCR4", "PCR12", "put this image into the key's policy"}},
	} {
		m.configure(key)
		c.happens()
		for _, args := range [][]string{{"kms", "decrypt", "--context", "purpose=tls", "--in", "web.key.kms", "--out", "out"}, importKey("web", "--replace")} {
			r := m.refused(c.words, command, args...)
			if t.Failed() {
				t.Fatalf("%s: %s", c.name, r.all())
			}
			if r.stdout != "" || !strings.HasPrefix(strings.TrimPrefix(r.stderr, "note: "), "tpm2-p11: ") {
				t.Errorf("%s: %s", c.name, r.all())
			}
		}
		for _, f := range []keyservice.Fault{keyservice.Throttle, keyservice.Unavailable, keyservice.Close, keyservice.Truncate, keyservice.WrongKey, keyservice.Flip, keyservice.Open} {
			m.kms.Inject(f, 0)
		}
		m.env = own
		m.configure(key)
		if after := m.holds(); after != before {
			t.Fatalf("%s: before:\n%s\nafter:\n%s", c.name, before, after)
		}
		if _, err := os.Stat(m.path("out")); err == nil {
			t.Errorf("%s: a file was written", c.name)
		}
	}
	// One throttled request is sent again, and nobody notices.
	m.approve()
	m.kms.Inject(keyservice.Throttle, 1)
	m.tpm2p11(importKey("web")...)
}

// What is asked for must fit what it is: context, ciphertext, key, document.
func TestKMSWrongInput(t *testing.T) {
	t.Parallel()
	m := newInstance(t)
	m.tpm2p11("init", "--no-pin")
	m.issueKey("web", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
	m.issueKey("other", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
	m.tpm2p11("key", "create", "recipient", "--use", "decrypt", "--wrapped")
	m.tpm2p11("key", "create", "mail", "--use", "decrypt", "--wrapped")
	m.tpm2p11("key", "create", "signs", "--type", "p256", "--wrapped")
	m.tpm2p11("attest", "document", "--public-key", "mail", "--out", "document")
	m.tpm2p11("attest", "document", "--out", "document.empty")
	m.tpm2p11("kms", "decrypt", "--in", "web.key.kms", "--context", "purpose=tls", "--document", "document", "--cms-out", "mail.cms")
	closed := m.read("mail.cms")
	m.write("cut.cms", string(closed[:len(closed)-20]))
	m.write("flipped.cms", string(append(slices.Clone(closed[:len(closed)-40]), append([]byte{closed[len(closed)-40] ^ 1}, closed[len(closed)-39:]...)...)))
	ciphertext := m.read("web.key.kms")
	m.write("cut.kms", string(ciphertext[:len(ciphertext)-9]))
	m.write("text", "not a private key")
	m.as(simtest.ReleaseRole).tpm2p11("kms", "encrypt", "--context", "purpose=tls", "--in", "text", "--out", "text.kms")
	m.as(simtest.ReleaseRole).tpm2p11("kms", "encrypt", "--no-context", "--in", "text", "--out", "free.kms")
	m.write("large", strings.Repeat("x", 4097))
	m.write("empty", "")
	before := m.holds()

	decrypt := []string{"kms", "decrypt", "--in", "web.key.kms"}
	for _, c := range []struct {
		words []string
		args  []string
	}{
		{[]string{"its encryption context is another", "every name and value"}, append(decrypt, "--context", "purpose=db")},
		{[]string{"its encryption context is another", "warning: there is no encryption context"}, decrypt},
		{[]string{"KMS cannot decrypt"}, []string{"kms", "decrypt", "--no-context", "--in", "web.key.kms"}},
		{[]string{"KMS cannot decrypt"}, []string{"kms", "decrypt", "--context", "purpose=tls", "--in", "cut.kms"}},
		{[]string{"empty is empty"}, []string{"kms", "decrypt", "--context", "purpose=tls", "--in", "empty"}},
		{[]string{"its public key is not the recipient's"}, append(decrypt, "--context", "purpose=tls", "--document", "document", "--recipient", "recipient")},
		{[]string{"its public key is not the recipient's"}, append(decrypt, "--context", "purpose=tls", "--document", "document.empty", "--recipient", "recipient")},
		{[]string{"malformed"}, append(decrypt, "--context", "purpose=tls", "--document", "text", "--recipient", "recipient")},
		{[]string{"--document is for a key", "--recipient KEY"}, append(decrypt, "--context", "purpose=tls", "--document", "document")},
		{[]string{"nothing could open it"}, append(decrypt, "--context", "purpose=tls", "--cms-out", "answer")},
		{[]string{"exclude each other"}, append(decrypt, "--context", "purpose=tls", "--cms-out", "answer", "--out", "out")},
		{[]string{"exclude each other"}, append(decrypt, "--context", "purpose=tls", "--no-context")},
		{[]string{"write NAME=VALUE"}, append(decrypt, "--context", "purpose")},
		{[]string{"each name once"}, append(decrypt, "--context", "a=1", "--context", "a=2")},
		{[]string{"it does not decrypt", "`tpm2-p11 key create recipient --use decrypt`"}, append(decrypt, "--context", "purpose=tls", "--recipient", "signs")},
		{[]string{"no such key"}, append(decrypt, "--context", "purpose=tls", "--recipient", "nobody")},
		{[]string{"CMS message is for another key", "the document was made for"}, []string{"kms", "open-cms", "--recipient", "recipient", "--in", "mail.cms"}},
		{[]string{"CMS message is malformed"}, []string{"kms", "open-cms", "--recipient", "mail", "--in", "cut.cms"}},
		{[]string{"CMS message is malformed"}, []string{"kms", "open-cms", "--recipient", "mail", "--in", "text"}},
		{[]string{"the recipient key is missing"}, []string{"kms", "open-cms", "--in", "mail.cms"}},
		{[]string{"the private key does not belong to the public key", "must be a pair"}, append(importKey("other"), "--in", "web.key.kms")},
		{[]string{"no private key"}, append(importKey("web"), "--in", "text.kms")},
		{[]string{"another region's", "is in eu-west-3"}, []string{"kms", "data-key", "--context", "a=b", "--ciphertext-out", "c", "--key-id", "arn:aws:kms:eu-west-3:111122223333:key/x"}},
		{[]string{"too long"}, []string{"kms", "encrypt", "--context", "a=b", "--in", "large"}},
		{[]string{"nothing to encrypt"}, []string{"kms", "encrypt", "--context", "a=b", "--in", "empty"}},
	} {
		if r := m.refused(c.words, command, c.args...); r.stdout != "" {
			t.Errorf("%v printed %q", c.args, r.stdout)
		}
	}
	// A flipped bit in the content may give other bytes, never the key; the import would find out.
	m.start(command, "kms", "open-cms", "--recipient", "mail", "--in", "flipped.cms")

	m.kms.Inject(keyservice.Short, 1)
	m.refused([]string{"31 bytes in place of 32"}, command, "kms", "data-key", "--context", "a=b", "--out", "out", "--ciphertext-out", "out.kms")
	for _, name := range []string{"out", "out.kms", "answer", "c"} {
		if _, err := os.Stat(m.path(name)); err == nil {
			t.Errorf("%s was written", name)
		}
	}
	if after := m.holds(); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	if got := m.tpm2p11("kms", "decrypt", "--no-context", "--in", "free.kms"); got.stdout != "not a private key" || strings.Contains(got.stderr, "warning") {
		t.Errorf("without a context: %s", got.all())
	}
}

// The role's credentials are of no use where there is no document: the key policy refuses them.
func TestKMSKeyPolicyAsksForAttestation(t *testing.T) {
	t.Parallel()
	m := newInstance(t)
	m.write("password", "correct horse")
	m.encrypt("password", "password.kms")
	_, err := m.kms.Client(simtest.MachineRole).Decrypt(t.Context(), &awskms.DecryptInput{
		CiphertextBlob: m.read("password.kms"), EncryptionContext: map[string]string{"purpose": "db"},
	})
	if err == nil || !strings.Contains(err.Error(), "AccessDenied") {
		t.Errorf("without a document: %v", err)
	}

	m.write("policy.json", m.policy())
	if said := m.tpm2p11("kms", "key-policy", "--lint", "policy.json").stdout; !strings.Contains(said, "nothing in it bypasses attestation") {
		t.Errorf("our own policy: %s", said)
	}
	m.write("open.json", `{"Version":"2012-10-17","Statement":[{"Sid":"All","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::111122223333:root"},"Action":"kms:*","Resource":"*"}]}`)
	r := m.refused(nil, command, "kms", "key-policy", "--lint", "open.json")
	for _, want := range []string{"statement All: allows kms:Decrypt", "kms:CreateGrant", "no statement denies"} {
		if r.code != 1 || r.stderr != "" || !strings.Contains(r.stdout, want) {
			t.Errorf("lint does not say %q: %d %s", want, r.code, r.all())
		}
	}
}

// However it goes, the secret is in what was asked for and nowhere else: not in the log, not in messages, not on the disk.
func TestKMSLeavesNoPlaintext(t *testing.T) {
	t.Parallel()
	const canary = "canary-in-the-coal-mine-32-bytes"
	m := newInstance(t)
	m.tpm2p11("init", "--no-pin")
	m.tpm2p11("key", "create", "recipient", "--use", "decrypt")
	m.write("password", canary)
	m.encrypt("password", "password.kms")
	m.run("openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-outform", "DER", "-out", "fleet.der")
	fleet := m.read("fleet.der")
	m.run("openssl", "pkey", "-inform", "DER", "-in", "fleet.der", "-pubout", "-out", "fleet.pub")
	m.as(simtest.ReleaseRole).tpm2p11("kms", "encrypt", "--context", "purpose=db", "--in", "fleet.der", "--out", "fleet.kms")
	for _, name := range []string{"password", "fleet.der"} {
		if err := os.Remove(m.path(name)); err != nil {
			t.Fatal(err)
		}
	}
	decrypt := []string{"kms", "decrypt", "--in", "password.kms", "--context", "purpose=db", "--verbose"}
	fleetKey := []string{"kms", "import-key", "fleet", "--in", "fleet.kms", "--public-key", "fleet.pub", "--context", "purpose=db", "--verbose"}
	said := ""
	if r := m.tpm2p11(decrypt...); r.stdout != canary {
		t.Errorf("decrypted %q", r.stdout)
	} else {
		said += r.stderr
	}
	said += m.tpm2p11(append(decrypt, "--recipient", "recipient", "--cms-out", "answer.cms")...).all()
	for _, f := range []keyservice.Fault{keyservice.Open, keyservice.Truncate, keyservice.Flip, keyservice.WrongKey, keyservice.Short} {
		for _, args := range [][]string{decrypt, fleetKey} {
			m.kms.Inject(f, 4)
			said += m.start(command, args...).stderr
			m.kms.Inject(f, 0)
		}
	}
	// What KMS decrypts is not the private key that it should be.
	said += m.refused(nil, command, append(fleetKey, "--in", "password.kms")...).all()
	said += m.tpm2p11(fleetKey...).all()
	m.write("in.txt", "what is signed")
	said += m.tpm2p11("sign", "fleet", "--in", "in.txt", "--out", "sig", "--verbose").all()
	if n := strings.Count(said, "request to KMS"); n < 10 {
		t.Errorf("only %d requests were logged: the test proves nothing", n)
	}
	scalar := fleet[36:68] // PKCS #8 of P-256: the private key follows its headers
	for where, text := range map[string]string{"what was said": said, "the log": string(m.read("debug.log")), "what is on the disk": m.everything()} {
		for _, secret := range [][]byte{[]byte(canary), scalar} {
			hides(t, where, text, secret)
		}
	}
}

// everything is the content of all files of the machine's folder.
func (m *instance) everything() string {
	m.t.Helper()
	var b strings.Builder
	for _, name := range files(m.t, m.dir) {
		b.Write(m.read(name))
	}
	return b.String()
}
