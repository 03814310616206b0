package promises

import (
	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/internal/faulttpm"
)

// TPM response codes (Part 2, section 6.6).
const (
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

var wire = Section{
	Title: "What the TPM answers",
	Rows: []Row{
		Row{
			Fault: "TPM_RC_RETRY, once", Name: "RETRY once", Use: web,
			Begin: inject(faulttpm.Once(tpm2.TPMCCSign), faulttpm.Answer(rcRetry)),
			Shown: []string{"TestCommandsAreSentAgainWhenTheTPMAsksForIt"},
		}.as(unseen),
		Row{
			Fault: "TPM_RC_YIELDED, once", Name: "YIELDED once", Use: web,
			Begin: inject(faulttpm.Once(tpm2.TPMCCSign), faulttpm.Answer(rcYielded)),
			Shown: []string{"TestCommandsAreSentAgainWhenTheTPMAsksForIt"},
		}.as(unseen),
		Row{
			Fault: "TPM_RC_TESTING, once", Name: "TESTING once", Use: web,
			Begin: inject(faulttpm.Once(tpm2.TPMCCSign), faulttpm.Answer(rcTesting)),
			Shown: []string{"TestCommandsAreSentAgainWhenTheTPMAsksForIt"},
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
	},
}

var machine = Section{Title: "What happens to the machine"}
