package simtest

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha512"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/google/go-tpm/tpm2"

	"github.com/tpm2-p11/tpm2-p11/attest"
)

const (
	nvIndex  tpm2.TPMHandle = 0x01800100
	ccAttest                = 0x20000001
)

// cpHash is what an authorisation of the attestation command covers.
func cpHash(name []byte) []byte {
	h := sha512.New()
	h.Write(binary.BigEndian.AppendUint32(nil, ccAttest))
	h.Write(name)
	h.Write(name)
	return h.Sum(nil)
}

func TestCpHashKnownAnswer(t *testing.T) {
	t.Parallel()
	name := make([]byte, 68)
	for i := range name {
		name[i] = byte(i)
	}
	const want = "c3869a4e945d90e6688365a59e14d2c5ab3d2b4579261a4a4377fe918d5d350933284223b6a569e384124d2bceb2173dac7a4171181efed7a5697d862174f9dc"
	if got := hex.EncodeToString(cpHash(name)); got != want {
		t.Errorf("cpHash %s, want %s", got, want)
	}
}

// vault is an NV index with a request, and an HMAC session for it.
type vault struct {
	*client
	auth     []byte
	name     []byte
	session  tpm2.TPMHandle
	nonceTPM []byte
}

// vault defines the index, writes the request into it and starts a session.
func (c *client) vault(size uint16, request any) *vault {
	c.t.Helper()
	return c.newVault(size, request, true)
}

func (c *client) newVault(size uint16, request any, noDA bool) *vault {
	c.t.Helper()
	v := &vault{client: c, auth: []byte("an authorisation")}
	public := tpm2.New2B(tpm2.TPMSNVPublic{
		NVIndex: nvIndex, NameAlg: tpm2.TPMAlgSHA512, DataSize: size,
		Attributes: tpm2.TPMANV{AuthRead: true, AuthWrite: true, NoDA: noDA},
	})
	if _, err := (tpm2.NVDefineSpace{AuthHandle: tpm2.TPMRHOwner, Auth: tpm2.TPM2BAuth{Buffer: v.auth}, PublicInfo: public}).Execute(c); err != nil {
		c.t.Fatalf("defining the index: %v", err)
	}
	v.readName()
	encoded, isRaw := request.([]byte)
	if !isRaw {
		var err error
		if encoded, err = cbor.Marshal(request); err != nil {
			c.t.Fatal(err)
		}
	}
	v.write(encoded)
	v.readName() // the first write changes it
	v.start()
	return v
}

func (v *vault) readName() {
	v.t.Helper()
	r, err := tpm2.NVReadPublic{NVIndex: nvIndex}.Execute(v)
	if err != nil {
		v.t.Fatal(err)
	}
	v.name = r.NVName.Buffer
}

func (v *vault) handle() tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: nvIndex, Name: tpm2.TPM2BName{Buffer: v.name}, Auth: tpm2.PasswordAuth(v.auth)}
}

func (v *vault) write(data []byte) {
	v.t.Helper()
	for offset := 0; offset < len(data); offset += 1024 {
		part := data[offset:min(len(data), offset+1024)]
		_, err := tpm2.NVWrite{AuthHandle: v.handle(), NVIndex: tpm2.NamedHandle{Handle: nvIndex, Name: tpm2.TPM2BName{Buffer: v.name}},
			Data: tpm2.TPM2BMaxNVBuffer{Buffer: part}, Offset: uint16(offset)}.Execute(v)
		if err != nil {
			v.t.Fatalf("writing the request: %v", err)
		}
	}
}

func (v *vault) read(size int) []byte {
	v.t.Helper()
	var data []byte
	for len(data) < size {
		r, err := tpm2.NVRead{AuthHandle: v.handle(), NVIndex: tpm2.NamedHandle{Handle: nvIndex, Name: tpm2.TPM2BName{Buffer: v.name}},
			Size: uint16(min(1024, size-len(data))), Offset: uint16(len(data))}.Execute(v)
		if err != nil {
			v.t.Fatalf("reading the answer: %v", err)
		}
		data = append(data, r.Data.Buffer...)
	}
	return data
}

func (v *vault) undefine() {
	v.t.Helper()
	_, err := tpm2.NVUndefineSpace{AuthHandle: tpm2.TPMRHOwner, NVIndex: tpm2.NamedHandle{Handle: nvIndex, Name: tpm2.TPM2BName{Buffer: v.name}}}.Execute(v)
	if err != nil {
		v.t.Error(err)
	}
}

// start starts an unsalted session: its HMACs are keyed by the index's
// authorisation alone.
func (v *vault) start() {
	v.t.Helper()
	r, err := tpm2.StartAuthSession{
		TPMKey: tpm2.TPMRHNull, Bind: tpm2.TPMRHNull, NonceCaller: tpm2.TPM2BNonce{Buffer: make([]byte, 16)},
		SessionType: tpm2.TPMSEHMAC, Symmetric: tpm2.TPMTSymDef{Algorithm: tpm2.TPMAlgNull}, AuthHash: tpm2.TPMAlgSHA512,
	}.Execute(v)
	if err != nil {
		v.t.Fatal(err)
	}
	v.session, v.nonceTPM = r.SessionHandle, r.NonceTPM.Buffer
}

// attempt is a way to send the attestation command; what is nil is right.
type attempt struct {
	auth, cpHash, nonceTPM []byte
	session                tpm2.TPMHandle
	parameters             []byte
}

const continueSession = 1

// attest sends the command and checks the HMAC of a response that is a success.
func (v *vault) attest(a attempt) tpm2.TPMRC {
	v.t.Helper()
	if a.auth == nil {
		a.auth = v.auth
	}
	if a.cpHash == nil {
		a.cpHash = cpHash(v.name)
	}
	if a.nonceTPM == nil {
		a.nonceTPM = v.nonceTPM
	}
	if a.session == 0 {
		a.session = v.session
	}
	nonceCaller := make([]byte, 32)
	_, _ = rand.Read(nonceCaller)
	area := sized(binary.BigEndian.AppendUint32(nil, uint32(a.session)), nonceCaller)
	area = sized(append(area, continueSession), mac(a.auth, a.cpHash, nonceCaller, a.nonceTPM, []byte{continueSession}))
	body := words(uint32(nvIndex), uint32(nvIndex), uint32(len(area)))
	body = append(append(body, area...), a.parameters...)
	command := append([]byte{0x80, 0x02}, words(uint32(10+len(body)), ccAttest)...)
	response, err := v.Send(append(command, body...))
	if err != nil {
		v.t.Fatal(err)
	}
	rc := tpm2.TPMRC(binary.BigEndian.Uint32(response[6:]))
	if rc == tpm2.TPMRCSuccess {
		v.checkResponse(response, nonceCaller)
	}
	return rc
}

func (v *vault) checkResponse(response, nonceCaller []byte) {
	v.t.Helper()
	const start = 10 + 4 // no parameters
	if binary.BigEndian.Uint32(response[10:]) != 0 {
		v.t.Fatal("the response has parameters")
	}
	size := int(binary.BigEndian.Uint16(response[start:]))
	nonceTPM := response[start+2:][:size]
	rest := response[start+2+size:]
	rpHash := sha512.Sum512(words(0, ccAttest))
	if want := mac(v.auth, rpHash[:], nonceTPM, nonceCaller, rest[:1]); !bytes.Equal(rest[3:], want) {
		v.t.Error("the response's HMAC is wrong")
	}
	v.nonceTPM = bytes.Clone(nonceTPM)
}

func mac(key []byte, parts ...[]byte) []byte {
	h := hmac.New(sha512.New, key)
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)
}

func words(values ...uint32) []byte {
	var b []byte
	for _, v := range values {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	return b
}

func sized(to, data []byte) []byte {
	return append(binary.BigEndian.AppendUint16(to, uint16(len(data))), data...)
}

// answer reads what the TPM wrote.
func (v *vault) answer(size int) (document []byte, refusal string) {
	v.t.Helper()
	var a struct {
		Attestation struct {
			Document []byte `cbor:"document"`
		}
		Error string
	}
	if _, err := cbor.UnmarshalFirst(v.read(size), &a); err != nil {
		v.t.Fatalf("the answer: %v", err)
	}
	return a.Attestation.Document, a.Error
}

func request(fields map[string]any) any { return map[string]any{"Attestation": fields} }

// document asks for a document in one go.
func (c *client) document(fields map[string]any) []byte {
	c.t.Helper()
	if fields == nil {
		fields = map[string]any{}
	}
	v := c.vault(8192, request(fields))
	defer v.undefine()
	defer v.flush(v.session)
	if rc := v.attest(attempt{}); rc != tpm2.TPMRCSuccess {
		c.t.Fatalf("attesting: response code 0x%03x", uint32(rc))
	}
	document, refusal := v.answer(8192)
	if refusal != "" {
		c.t.Fatalf("the answer is %s", refusal)
	}
	return document
}

func TestADocumentVerifiesAndStatesTheTPMsPCRs(t *testing.T) {
	t.Parallel()
	rootFile := filepath.Join(t.TempDir(), "root.pem")
	sim := Start(t, "--root-out", rootFile, "--instance", "i-00000000000000042")
	c := connect(t, sim.Address())
	policy := attest.Policy{
		Roots:     []*x509.Certificate{sim.Root(t)},
		Instance:  "i-00000000000000042",
		Nonce:     []byte("a nonce"),
		UserData:  []byte("user data"),
		PublicKey: bytes.Repeat([]byte{7}, 1024),
		PCRs:      map[int][]byte{},
	}
	for pcr := range 24 {
		policy.PCRs[pcr] = c.pcr(tpm2.TPMAlgSHA384, uint(pcr))
	}
	fields := map[string]any{"nonce": policy.Nonce, "user_data": policy.UserData, "public_key": policy.PublicKey}
	if _, err := attest.Verify(c.document(fields), policy); err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(policy.PCRs[7], make([]byte, 48)) || !bytes.Equal(policy.PCRs[16], make([]byte, 48)) {
		t.Error("PCRs are not as a firmware leaves them")
	}

	sim.Extend(t, "sha384", 7, []byte("another secure boot policy"))
	var pcrError *attest.PCRError
	if _, err := attest.Verify(c.document(fields), policy); !errors.As(err, &pcrError) || pcrError.PCR != 7 {
		t.Errorf("after PCR 7 was extended: error %v", err)
	}
	event := sha512.Sum384([]byte("another secure boot policy"))
	extended := sha512.Sum384(append(policy.PCRs[7], event[:]...))
	policy.PCRs[7] = extended[:]
	if _, err := attest.Verify(c.document(fields), policy); err != nil {
		t.Errorf("with PCR 7 as it should be now: %v", err)
	}

	file, err := os.ReadFile(rootFile)
	if err != nil {
		t.Fatal(err)
	}
	if block, _ := pem.Decode(file); block == nil || !bytes.Equal(block.Bytes, sim.Root(t).Raw) {
		t.Error("--root-out wrote another root")
	}
	policy.Roots = nil
	if _, err := attest.Verify(c.document(fields), policy); err == nil {
		t.Error("AWS's root vouches for the emulator")
	}
}

func TestTheClockOfDocumentsCanBeSet(t *testing.T) {
	t.Parallel()
	then := time.Date(2031, 5, 6, 7, 8, 9, 0, time.UTC)
	sim := Start(t, "--time", then.Format(time.RFC3339))
	d := connect(t, sim.Address()).document(nil)
	policy := attest.Policy{Roots: []*x509.Certificate{sim.Root(t)}, Now: then.Add(time.Minute)}
	if _, err := attest.Verify(d, policy); err != nil {
		t.Error(err)
	}
	policy.Now = time.Now()
	if _, err := attest.Verify(d, policy); err == nil {
		t.Error("a document of the future verifies today")
	}
}

const (
	authFail = tpm2.TPMRCAuthFail | 0x900 // of session 1
	badAuth  = tpm2.TPMRCBadAuth | 0x900
)

func TestAWrongAuthorisationIsRefusedAsATPMDoes(t *testing.T) {
	t.Parallel()
	sim := Start(t)
	c := connect(t, sim.Address())
	v := c.vault(8192, request(map[string]any{}))
	before := v.read(8192)
	otherName := bytes.Clone(v.name)
	otherName[10] ^= 1
	withParameters := sha512.Sum512(append(append(append(words(ccAttest), v.name...), v.name...), 0, 0))
	for _, w := range []struct {
		what    string
		attempt attempt
		code    tpm2.TPMRC
	}{
		{"a wrong authorisation", attempt{auth: []byte("a wrong one")}, badAuth},
		{"a cpHash of another Name", attempt{cpHash: cpHash(otherName)}, badAuth},
		{"an old nonce", attempt{nonceTPM: make([]byte, 64)}, badAuth},
		{"parameters that the HMAC does not cover", attempt{parameters: []byte{0, 0}}, badAuth},
		{"parameters", attempt{parameters: []byte{0, 0}, cpHash: withParameters[:]}, 0x095}, // TPM_RC_SIZE
		{"a session that is not there", attempt{session: 0x02000030}, tpm2.TPMRCReferenceS0},
	} {
		if rc := v.attest(w.attempt); rc != w.code {
			t.Errorf("%s: response code 0x%03x, want 0x%03x", w.what, uint32(rc), uint32(w.code))
		}
	}
	if !bytes.Equal(before, v.read(8192)) {
		t.Error("a refused command has written an answer")
	}
	if rc := v.attest(attempt{}); rc != tpm2.TPMRCSuccess {
		t.Errorf("the right authorisation afterwards: response code 0x%03x", uint32(rc))
	}
	v.undefine()
	if rc := v.attest(attempt{}); rc != 0x18b { // TPM_RC_HANDLE, handle 1
		t.Errorf("without the index: response code 0x%03x", uint32(rc))
	}
}

func TestWrongAuthorisationsLockTheTPMOut(t *testing.T) {
	t.Parallel()
	sim := Start(t)
	v := connect(t, sim.Address()).newVault(8192, request(map[string]any{}), false)
	guess := attempt{auth: []byte("a guess")}
	const tries = 3 // TPM_PT_MAX_AUTH_FAIL of the emulator
	for range tries {
		if rc := v.attest(guess); rc != authFail {
			t.Errorf("a guess: response code 0x%03x, want 0x%03x", uint32(rc), uint32(authFail))
		}
	}
	for what, a := range map[string]attempt{"another guess": guess, "the right one": {}} {
		if rc := v.attest(a); rc != tpm2.TPMRCLockout {
			t.Errorf("%s: response code 0x%03x, want TPM_RC_LOCKOUT", what, uint32(rc))
		}
	}
}

func TestTheCommandNeedsAnAuthorisation(t *testing.T) {
	t.Parallel()
	sim := Start(t)
	c := connect(t, sim.Address())
	c.vault(8192, request(map[string]any{}))
	for _, w := range []struct {
		what    string
		command []byte
		code    uint32
	}{
		{"no sessions", append([]byte{0x80, 0x01}, words(18, ccAttest, uint32(nvIndex), uint32(nvIndex))...), 0x125},                                                // TPM_RC_AUTH_MISSING
		{"an owner's empty password", append(append([]byte{0x80, 0x02}, words(31, ccAttest, 0x40000001, uint32(nvIndex), 9, 0x40000009)...), 0, 0, 0, 0, 0), 0x149}, // TPM_RC_NV_AUTHORIZATION
		{"no handles", append([]byte{0x80, 0x01}, words(10, ccAttest)...), 0x09a},                                                                                   // TPM_RC_INSUFFICIENT
		{"a hierarchy for an index", append(append([]byte{0x80, 0x02}, words(31, ccAttest, 0x40000001, 0x40000001, 9, 0x40000009)...), 0, 0, 0, 0, 0), 0x284},       // TPM_RC_VALUE, handle 2
		{"another vendor command", append([]byte{0x80, 0x01}, words(10, 0x20000002)...), 0x143},                                                                     // TPM_RC_COMMAND_CODE
	} {
		r, err := c.Send(w.command)
		if err != nil {
			t.Fatal(err)
		}
		if got := binary.BigEndian.Uint32(r[6:]); got != w.code {
			t.Errorf("%s: response code 0x%03x, want 0x%03x", w.what, got, w.code)
		}
	}
}

func TestNSMRefusesInTheIndex(t *testing.T) {
	t.Parallel()
	sim := Start(t)
	c := connect(t, sim.Address())
	for _, w := range []struct {
		what    string
		size    uint16
		request any
		refusal string
	}{
		{"a long nonce", 8192, request(map[string]any{"nonce": make([]byte, 513)}), "InputTooLarge"},
		{"no CBOR", 8192, []byte{0xff}, "InvalidArgument"},
		{"another request", 8192, map[string]any{"DescribeNSM": nil}, "InvalidOperation"},
		{"an index without room", 2048, request(map[string]any{}), "BufferTooSmall"},
	} {
		v := c.vault(w.size, w.request)
		if rc := v.attest(attempt{}); rc != tpm2.TPMRCSuccess {
			t.Errorf("%s: response code 0x%03x", w.what, uint32(rc))
		}
		if document, refusal := v.answer(int(w.size)); refusal != w.refusal || document != nil {
			t.Errorf("%s: refusal %q, want %q", w.what, refusal, w.refusal)
		}
		if err := v.flush(v.session); err != nil {
			t.Error(err)
		}
		v.undefine()
	}
}

func TestWhatWasLongerInTheIndexStaysBehindTheAnswer(t *testing.T) {
	t.Parallel()
	sim := Start(t)
	v := connect(t, sim.Address()).vault(8192, append([]byte{0xff}, bytes.Repeat([]byte("stale"), 200)...))
	if rc := v.attest(attempt{}); rc != tpm2.TPMRCSuccess {
		t.Fatalf("response code 0x%03x", uint32(rc))
	}
	if !bytes.HasSuffix(v.read(1001), []byte("stalestale")) {
		t.Error("the answer has overwritten more than its length")
	}
}
