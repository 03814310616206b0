package promises

import (
	"strings"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/internal/faulttpm"
)

// TPM response codes (Part 2, section 6.6).
const (
	rcInitialize = 0x100
	rcFailure    = 0x101
	rcPCRChanged = 0x128
	rcYielded    = 0x908
	rcTesting    = 0x90A
	rcObject     = 0x910 // TPM_RC_REFERENCE_H0
	rcSession    = 0x918 // TPM_RC_REFERENCE_S0
	rcRetry      = 0x922
)

var (
	unseen = Row{Module: "CKR_OK", Signer: "nil", Command: Command{Exit: "0"}}
	web    = Use{Key: "web"}
	bound  = Use{Key: "bound"}
)

// as is a row whose promise is another's.
func (r Row) as(promise Row) Row {
	r.Module, r.Signer, r.Command = promise.Module, promise.Signer, promise.Command
	return r
}

var busy = Row{Module: "CKR_DEVICE_ERROR", Signer: "ErrBusy", Command: Command{"1", []string{"the TPM is busy", "try again"}}}

// The promises that several rows make.
var (
	removed   = Row{Module: "CKR_DEVICE_REMOVED", Signer: "ErrUnavailable", Command: Command{"1", []string{"the TPM cannot be reached", "doctor"}}}
	silent    = Row{Module: "CKR_DEVICE_ERROR", Signer: "ErrUnavailable", Command: Command{"1", []string{"no answer", "doctor"}}}
	malformed = Row{Module: "CKR_DEVICE_ERROR", Signer: "ErrMalformed", Command: Command{"1", []string{"malformed"}}}
	forged    = Row{Module: "CKR_DEVICE_ERROR", Signer: "ErrIntegrity", Command: Command{"1", []string{"not authentic"}}}
	failing   = Row{Module: "CKR_DEVICE_ERROR", Signer: "ErrFailure", Command: Command{"1", []string{"the TPM has failed", "restart"}}}
	restless  = Row{Module: "CKR_FUNCTION_REJECTED", Signer: "ErrPolicy", Command: Command{"1", []string{"PCRs do not come to rest"}}}
	garbage   = Row{Module: "CKR_ENCRYPTED_DATA_INVALID", Signer: "ErrDecrypt", Command: Command{"1", []string{"decryption failed"}}}
)

func decrypt(ciphertext string) Use { return Use{Verb: Decrypt, Key: "mail", Ciphertext: ciphertext} }

var again = []string{"TestCommandsAreSentAgainWhenTheTPMAsksForIt"}

var wire = Section{
	Title: "What the TPM answers, and what reaches us of it",
	Rows: []Row{
		Row{
			Fault: "TPM_RC_RETRY, once", Name: "RETRY once", Use: web, Shown: again,
			Begin: inject(faulttpm.Once(tpm2.TPMCCSign), faulttpm.Answer(rcRetry)),
		}.as(unseen),
		Row{
			Fault: "TPM_RC_YIELDED, once", Name: "YIELDED once", Use: web, Shown: again,
			Begin: inject(faulttpm.Once(tpm2.TPMCCSign), faulttpm.Answer(rcYielded)),
		}.as(unseen),
		Row{
			Fault: "TPM_RC_TESTING, once", Name: "TESTING once", Use: web, Shown: again,
			Begin: inject(faulttpm.Once(tpm2.TPMCCSign), faulttpm.Answer(rcTesting)),
		}.as(unseen),
		Row{
			Fault: "TPM_RC_RETRY, for ever", Name: "RETRY for ever", Use: web, Apart: true,
			Begin: inject(faulttpm.Always(tpm2.TPMCCSign), faulttpm.Answer(rcRetry)),
			Shown: []string{"TestPatienceEnds"},
		}.as(busy),
		Row{
			Fault: "TPM_RC_YIELDED, for ever", Name: "YIELDED for ever", Use: web, Apart: true,
			Begin: inject(faulttpm.Always(tpm2.TPMCCSign), faulttpm.Answer(rcYielded)),
		}.as(busy),
		Row{
			Fault: "TPM_RC_TESTING, for ever", Name: "TESTING for ever", Use: web, Apart: true,
			Begin: inject(faulttpm.Always(tpm2.TPMCCSign), faulttpm.Answer(rcTesting)),
		}.as(busy),
		Row{
			Fault: "TPM_RC_PCR_CHANGED for a policy's PCRs, once", Name: "PCR_CHANGED at PolicyPCR", Use: bound,
			Begin: inject(faulttpm.Once(tpm2.TPMCCPolicyPCR), faulttpm.Answer(rcPCRChanged)),
			Shown: []string{"TestPCRsThatChangeWhileAPolicyRuns"},
		}.as(unseen),
		Row{
			Fault: "TPM_RC_PCR_CHANGED for the signature, once", Name: "PCR_CHANGED at Sign", Use: bound,
			Begin: inject(faulttpm.Once(tpm2.TPMCCSign), faulttpm.Answer(rcPCRChanged)),
			Shown: []string{"TestPCRsThatChangeWhileAPolicyRuns"},
		}.as(unseen),
		Row{
			Fault: "TPM_RC_PCR_CHANGED, for ever", Name: "PCR_CHANGED for ever", Use: bound,
			Begin: inject(faulttpm.Always(tpm2.TPMCCSign), faulttpm.Answer(rcPCRChanged)),
			Shown: []string{"TestPCRsThatChangeWhileAPolicyRuns"},
		}.as(restless),
		Row{
			Fault: "the TPM no longer knows a loaded key", Name: "stale object", Use: Use{Key: "wrapped"},
			Begin: inject(faulttpm.Once(tpm2.TPMCCSign), faulttpm.Answer(rcObject)),
			Shown: []string{"TestASessionThatTheTPMForgot"},
		}.as(unseen),
		Row{
			Fault: "the TPM no longer knows a session", Name: "stale session", Token: Guarded, Use: web,
			Begin: inject(faulttpm.Once(tpm2.TPMCCSign), faulttpm.Answer(rcSession)),
			Shown: []string{"TestASessionThatTheTPMForgot"},
		}.as(unseen),
		Row{
			Fault: "TPM_RC_INITIALIZE: nobody started the TPM", Name: "not started", Use: web,
			Begin: inject(faulttpm.When{}, faulttpm.Answer(rcInitialize)),
		}.as(removed),
		Row{
			Fault: "the TPM is in failure mode: TPM_RC_FAILURE to everything", Name: "failure mode", Use: web,
			Begin: inject(faulttpm.When{}, faulttpm.Answer(rcFailure)),
		}.as(failing),
		Row{
			Fault: "the same, when something is to be decrypted", Name: "failure mode, decrypting", Use: decrypt(""),
			Begin: inject(faulttpm.When{}, faulttpm.Answer(rcFailure)),
		}.as(failing),
		Row{
			Fault: "the connection ends before a command, once", Name: "connection lost", Use: web,
			Begin: inject(faulttpm.Once(tpm2.TPMCCSign), faulttpm.Drop),
			Shown: []string{"TestALostConnectionIsOpenedAgain"},
		}.as(unseen),
		Row{
			Fault: "the connection ends after a command: its answer is lost, once", Name: "answer lost", Use: web,
			Begin: inject(faulttpm.Once(tpm2.TPMCCSign), faulttpm.Lose),
			Shown: []string{"TestALostConnectionIsOpenedAgain"},
		}.as(unseen),
		Row{
			Fault: "the connection ends each time", Name: "connection lost for ever", Use: web,
			Begin: inject(faulttpm.Always(tpm2.TPMCCSign), faulttpm.Drop),
		}.as(removed),
		Row{
			Fault: "an answer comes late", Name: "late answer", Use: web,
			Begin: inject(faulttpm.Once(tpm2.TPMCCSign), faulttpm.Delay(300*time.Millisecond)),
		}.as(unseen),
		Row{
			Fault: "no answer comes", Name: "no answer", Use: web, Apart: true, Long: true,
			Begin: inject(faulttpm.Always(tpm2.TPMCCSign), faulttpm.Stall),
			After: "the answer was given up after a minute (after five where RSA primes are looked for), by a Go program when it cancels its context; what needs no TPM goes on meanwhile, and the rest waits its turn",
			Shown: []string{"TestATPMThatNeverAnswers", "TestASilentTPMIsLeftAtTheDeadline", "TestOtherThreadsGoOnWhileTheTPMIsSilent"},
		}.as(silent),
		Row{
			Fault: "an answer is cut off with the connection", Name: "truncated", Use: web,
			Begin: inject(faulttpm.Always(tpm2.TPMCCSign), faulttpm.Truncate(40)),
			Shown: []string{"TestAnswersThatMakeNoSense"},
		}.as(removed),
		Row{
			Fault: "an answer lacks its end, and its size says so", Name: "shortened", Use: web,
			Begin: inject(faulttpm.Always(tpm2.TPMCCSign), faulttpm.Shorten(40)),
			Shown: []string{"TestAnswersThatMakeNoSense"},
		}.as(malformed),
		Row{
			Fault: "an answer has more bytes than its size says", Name: "followed by more", Use: web,
			Begin: inject(faulttpm.Always(tpm2.TPMCCSign), faulttpm.Oversize(100, false)),
		}.as(malformed),
		Row{
			Fault: "an answer is longer than it should be", Name: "too long", Use: web,
			Begin: inject(faulttpm.Always(tpm2.TPMCCSign), faulttpm.Oversize(100, true)),
		}.as(malformed),
		Row{
			Fault: "an answer is longer than any can be", Name: "oversized", Use: web,
			Begin: inject(faulttpm.Always(tpm2.TPMCCSign), faulttpm.Oversize(5000, true)),
		}.as(malformed),
		Row{
			Fault: "an answer is noise", Name: "noise", Use: web,
			Begin: inject(faulttpm.Always(tpm2.TPMCCSign), faulttpm.Random(1)),
			Shown: []string{"TestAnswersThatMakeNoSense"},
		}.as(malformed),
		Row{
			Fault: "an answer's HMAC is wrong", Name: "wrong HMAC", Token: Guarded, Use: web,
			Begin: inject(faulttpm.Always(tpm2.TPMCCSign), faulttpm.Flip(0)),
			After: "nothing of the answer was returned",
			Shown: []string{"TestAnswersThatWereTamperedWith"},
		}.as(forged),
		Row{
			Fault: "a bit of an RSA signature is flipped", Name: "flipped signature", Use: Use{Key: "rsa"},
			Begin: inject(faulttpm.Always(tpm2.TPMCCSign), faulttpm.Flip(20)),
			After: "the signature was not returned: it could reveal the key. Of ECDSA signatures one in a second is verified, or each where `verify_signatures = \"all\"` says so",
			Shown: []string{"TestAnswersThatWereTamperedWith"},
		}.as(forged),
		Row{
			Fault: "a ciphertext of another key", Name: "foreign ciphertext", Use: decrypt("\x01" + strings.Repeat("\x55", 255)),
			After: "one error for all of these, after the same work of the TPM",
			Shown: []string{"TestEveryAnswerToABadCiphertextIsTheSameError", "TestEveryBadCiphertextIsTheSameError"},
		}.as(garbage),
		Row{Fault: "a ciphertext of zeros", Name: "zero ciphertext", Use: decrypt(strings.Repeat("\x00", 256))}.as(garbage),
		Row{Fault: "a ciphertext that is no number below the modulus", Name: "large ciphertext", Use: decrypt(strings.Repeat("\xff", 256))}.as(garbage),
	},
}
