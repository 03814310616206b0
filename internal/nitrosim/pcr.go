package nitrosim

import (
	"bytes"
	"crypto"
	_ "crypto/sha1" // the banks' hashes
	_ "crypto/sha256"
	_ "crypto/sha512"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/tpm2-p11/tpm2-p11/internal/nitrosim/nsm"
)

// direct is the machine's TPM as go-tpm takes it, without latency.
type direct struct{ Hardware }

func (d direct) Send(command []byte) ([]byte, error) { return d.Transmit(command) }

// pcrs reads the SHA-384 bank.
func (m *Machine) pcrs() (pcrs nsm.PCRs, err error) {
	const atOnce = 8 // digests in a TPML_DIGEST
	for first := uint(0); first < uint(len(pcrs)); first += atOnce {
		var selection []uint
		for pcr := first; pcr < first+atOnce; pcr++ {
			selection = append(selection, pcr)
		}
		r, err := tpm2.PCRRead{PCRSelectionIn: tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{
			{Hash: tpm2.TPMAlgSHA384, PCRSelect: tpm2.PCClientCompatible.PCRs(selection...)},
		}}}.Execute(direct{m.hardware})
		if err != nil {
			return pcrs, err
		}
		if len(r.PCRValues.Digests) != atOnce {
			return pcrs, fmt.Errorf("the TPM gives %d of the PCRs %d to %d", len(r.PCRValues.Digests), first, first+atOnce-1)
		}
		for i, d := range r.PCRValues.Digests {
			pcrs[first+uint(i)] = bytes.Clone(d.Buffer)
		}
	}
	return pcrs, nil
}

// banks are the hashes of PCRs by the names that tpm2-tools give them.
var banks = map[string]struct {
	alg  tpm2.TPMAlgID
	hash crypto.Hash
}{
	"sha1":   {tpm2.TPMAlgSHA1, crypto.SHA1},
	"sha256": {tpm2.TPMAlgSHA256, crypto.SHA256},
	"sha384": {tpm2.TPMAlgSHA384, crypto.SHA384},
	"sha512": {tpm2.TPMAlgSHA512, crypto.SHA512},
}

// Extend extends a PCR of one bank ("sha1", "sha256", "sha384", "sha512") by the
// hash of an event, or of all banks with bank "".
func (m *Machine) Extend(pcr uint, bank string, event []byte) error {
	if pcr >= 24 {
		return fmt.Errorf("PCR %d: PCRs are 0 to 23", pcr)
	}
	handle := tpm2.AuthHandle{Handle: tpm2.TPMHandle(pcr), Auth: tpm2.PasswordAuth(nil)}
	var digests []tpm2.TPMTHA
	for name, b := range banks {
		if bank == "" || bank == name {
			h := b.hash.New()
			h.Write(event)
			digests = append(digests, tpm2.TPMTHA{HashAlg: b.alg, Digest: h.Sum(nil)})
		}
	}
	if digests == nil {
		return fmt.Errorf("bank %q: banks are sha1, sha256, sha384, sha512, or none for all", bank)
	}
	_, err := tpm2.PCRExtend{PCRHandle: handle, Digests: tpm2.TPMLDigestValues{Digests: digests}}.Execute(direct{m.hardware})
	if err != nil {
		return fmt.Errorf("extending PCR %d: %w", pcr, err)
	}
	return nil
}

// measure extends PCRs 0 to 7 as a firmware that boots a machine: always by the
// same events.
func (m *Machine) measure() error {
	if !m.Measured {
		return nil
	}
	for pcr, event := range []string{
		"nitro-sim firmware",
		"nitro-sim firmware configuration",
		"nitro-sim option ROM",
		"nitro-sim option ROM configuration",
		"nitro-sim boot loader",
		"nitro-sim boot loader configuration",
		"nitro-sim platform events",
		"nitro-sim secure boot policy",
	} {
		for _, e := range []string{event, separator} {
			if err := m.Extend(uint(pcr), "", []byte(e)); err != nil {
				return fmt.Errorf("measuring the boot: %w", err)
			}
		}
	}
	return nil
}

// separator is the event between firmware and operating system (TCG PC Client
// Platform Firmware Profile, "EV_SEPARATOR").
const separator = "\x00\x00\x00\x00"
