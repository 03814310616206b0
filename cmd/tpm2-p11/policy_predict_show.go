package main

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"

	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/policy/policyfile"
)

// predictionJSON is a prediction as --json shows it. Its names are stable.
type predictionJSON struct {
	Images       []imageJSON   `json:"images"`
	Policy       policy.Policy `json:"policy"`
	PolicyHash   string        `json:"policy_hash"`
	PolicyDigest string        `json:"policy_digest"`
}

type imageJSON struct {
	Name   string                       `json:"name"`
	File   string                       `json:"file"`
	PCRs   map[string]map[string]string `json:"pcrs"`
	Events []measurementJSON            `json:"events"`
}

type measurementJSON struct {
	PCR     uint              `json:"pcr"`
	Type    string            `json:"type"`
	What    string            `json:"what"`
	Digests map[string]string `json:"digests"`
}

func (p prediction) json() imageJSON {
	j := imageJSON{Name: p.name, File: p.file, PCRs: map[string]map[string]string{}}
	for bank, values := range p.pcrs {
		j.PCRs[bank] = map[string]string{}
		for i, value := range values {
			j.PCRs[bank][strconv.FormatUint(uint64(i), 10)] = hex.EncodeToString(value)
		}
	}
	for n, e := range p.events["sha256"] {
		j.Events = append(j.Events, measurementJSON{e.PCR, e.Type, e.What, map[string]string{
			"sha256": hex.EncodeToString(e.Digest), "sha384": hex.EncodeToString(p.events["sha384"][n].Digest),
		}})
	}
	return j
}

// showPredictions prints what people read, and the policy that follows.
func (a *app) showPredictions(flags predictFlags, selected policy.PCR, all []prediction) error {
	hash, err := policy.ParseBank(flags.hash)
	if err != nil {
		return err
	}
	approving := policyOf(selected, all)
	digest, err := approving.Digest(hash)
	if err != nil {
		return err
	}
	shown := predictionJSON{Policy: approving, PolicyHash: flags.hash, PolicyDigest: hex.EncodeToString(digest)}
	for _, p := range all {
		shown.Images = append(shown.Images, p.json())
	}
	bank := policy.BankName(selected.Bank)
	return a.print(shown, func(w io.Writer) {
		for _, p := range all {
			fmt.Fprintf(w, "%s: %s\n", p.name, inputName(p.file))
			for _, i := range slices.Sorted(maps.Keys(p.pcrs[bank])) {
				fmt.Fprintf(w, "  %s PCR%-2d %x\n", bank, i, p.pcrs[bank][i])
				for _, e := range p.events[bank] {
					if flags.events && e.PCR == i {
						fmt.Fprintf(w, "    %x  %s  %s\n", e.Digest, e.Type, e.What)
					}
				}
			}
		}
		fmt.Fprintf(w, "policy of %s PCRs %s\n  %s digest %x\n", bank, indexList(selected.Indices()), flags.hash, digest)
	})
}

func indexList(indices []uint) string {
	var b bytes.Buffer
	for n, i := range indices {
		if n > 0 {
			b.WriteString(", ")
		}
		fmt.Fprint(&b, i)
	}
	return b.String()
}

// awsMeasurements is the form that nitro-tpm-pcr-compute prints.
func awsMeasurements(p prediction) []byte {
	var form struct {
		Measurements struct{ HashAlgorithm, PCR4, PCR7, PCR12 string }
	}
	form.Measurements.HashAlgorithm = "SHA384 { ... }"
	for i, text := range map[uint]*string{4: &form.Measurements.PCR4, 7: &form.Measurements.PCR7, 12: &form.Measurements.PCR12} {
		*text = hex.EncodeToString(p.pcrs["sha384"][i])
	}
	text, err := json.MarshalIndent(form, "", "  ")
	if err != nil {
		panic(err) // strings alone cannot fail
	}
	return append(text, '\n')
}

// policyFile is a policy with its hash, as package policyfile reads it.
func policyFile(hash string, p policy.Policy) ([]byte, error) {
	text, err := json.MarshalIndent(struct {
		Version int           `json:"version"`
		Hash    string        `json:"hash"`
		Policy  policy.Policy `json:"policy"`
	}{policyfile.Version, hash, p}, "", "  ")
	return append(text, '\n'), err
}
