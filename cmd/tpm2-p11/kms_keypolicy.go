package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/google/go-tpm/tpm2"
	"github.com/spf13/cobra"

	"github.com/tpm2-p11/tpm2-p11/kms"
)

// imagePCRs are the PCRs of NitroTPM that tell one image from another.
var imagePCRs = []uint{4, 7, 12}

// policyPrincipals are the flags that say who may do what with a KMS key.
type policyPrincipals struct{ kms.PolicyPrincipals }

func (p *policyPrincipals) register(c *cobra.Command) {
	f := c.Flags()
	f.StringArrayVar(&p.Machines, "machine", nil, "`ARN` of the role of machines, which use the key when attested; may be repeated")
	f.StringArrayVar(&p.Encrypters, "encrypter", nil, "`ARN` of who encrypts; may be repeated")
	f.StringArrayVar(&p.Administrators, "admin", nil, "`ARN` of who manages the key, the one who puts this policy among them; may be repeated")
}

func kmsKeyPolicyCommand(a *app) *cobra.Command {
	var principals policyPrincipals
	var files []string
	var current, lint, out string
	c := &cobra.Command{
		Use:   "key-policy",
		Short: "Write a key policy for KMS that demands attestation, or look through one",
		Long: `key-policy prints a whole key policy: machines use the key only when their attestation document shows the PCRs of one of
the images, and nobody decrypts without a document. Each image has a statement of its own: PCRs of two images do not mix.

The PCRs come from files, in AWS's form ({"Measurements": {"PCR4": "…"}}), and with --current from this machine's TPM.

--lint reads a key policy and names what would let somebody use the key without being such a machine; then it exits with 1. It
warns of images whose kernel command line the policy leaves open (PCR 12).`,
		Example: `  tpm2-p11 kms key-policy --machine arn:aws:iam::111122223333:role/web --admin arn:aws:iam::111122223333:role/keys \
    --pcr-file November=november.json --pcr-file December=december.json --out policy.json
  aws kms get-key-policy --key-id alias/fleet --output text | tpm2-p11 kms key-policy --lint -`,
		Args: exactly(),
		RunE: a.verb(func(ctx context.Context, _ []string) error {
			if lint != "" {
				if len(files) > 0 || current != "" || out != "" || len(principals.Machines)+len(principals.Encrypters)+len(principals.Administrators) > 0 {
					return usagef("--lint looks through a key policy that there is, and takes no other flag")
				}
				return a.lintKeyPolicy(lint)
			}
			switch {
			case len(principals.Machines) == 0:
				return usagef("--machine is missing")
			case len(principals.Administrators) == 0:
				return usagef("--admin is missing")
			case len(files) == 0 && current == "":
				return usagef("no image: give --pcr-file FILE or --current NAME")
			}
			var images []kms.Image
			for _, f := range files {
				image, err := a.readImage(f)
				if err != nil {
					return err
				}
				images = append(images, image)
			}
			if current != "" {
				image, err := a.currentImage(ctx, current)
				if err != nil {
					return err
				}
				images = append(images, image)
			}
			text, err := kms.KeyPolicy(principals.PolicyPrincipals, images...)
			if errors.As(err, new(*kms.ImageError)) {
				err = withHint(err, imagePCRsHint)
			}
			if err != nil {
				return err
			}
			for _, image := range images {
				if _, ok := image.PCRs[12]; !ok {
					a.note("image %s has no PCR 12: it is the same to the policy with any kernel command line that its boot entry gives it", image.Name)
				}
			}
			return a.deliverText(out, append(text, '\n'))
		}),
	}
	principals.register(c)
	f := c.Flags()
	f.StringArrayVar(&files, "pcr-file", nil, "`[NAME=]FILE` with an image's PCRs; NAME is letters and digits; may be repeated")
	f.StringVar(&current, "current", "", "the image that this machine runs, called `NAME`: its PCRs 4, 7 and 12 as they are now")
	f.StringVar(&lint, "lint", "", "look through the key policy in `FILE` (- is standard input)")
	f.StringVarP(&out, "out", "o", "", "output `FILE` (default: standard output)")
	return c
}

// namedFile reads [NAME=]FILE; without a name it is the letters and digits of the file's.
func namedFile(arg string) (name, path string) {
	if name, path, named := strings.Cut(arg, "="); named {
		return name, path
	}
	return strings.Map(func(r rune) rune {
		if r < 0x80 && (r >= '0' && r <= '9' || r|0x20 >= 'a' && r|0x20 <= 'z') {
			return r
		}
		return -1
	}, strings.TrimSuffix(filepath.Base(arg), filepath.Ext(arg))), arg
}

// readImage reads an image's PCRs in AWS's form, or as `pcr read --json` prints them.
func (a *app) readImage(flag string) (image kms.Image, err error) {
	name, path := namedFile(flag)
	text, err := a.read("--pcr-file", path, maxInput)
	if err != nil {
		return image, err
	}
	image = kms.Image{Name: name}
	if image.PCRs, err = parseImagePCRs(text); err != nil {
		return image, withHint(fmt.Errorf("%s: %w", inputName(path), err), imagePCRsHint)
	}
	return image, nil
}

// imagePCRsHint is where files of an image's PCRs come from.
const imagePCRsHint = "`tpm2-p11 policy predict IMAGE --format aws`, nitro-tpm-pcr-compute and, on a machine, `tpm2-p11 pcr read sha384:4,7,12 --json` print them"

func parseImagePCRs(text []byte) (map[int][]byte, error) {
	var form struct {
		Measurements map[string]string
		PCRs         map[string]map[string]string `json:"pcrs"`
	}
	if err := json.Unmarshal(text, &form); err != nil {
		return nil, fmt.Errorf("not PCR values in JSON: %w", err)
	}
	values := form.PCRs["sha384"]
	if form.Measurements != nil {
		if hash := form.Measurements["HashAlgorithm"]; hash != "" && !strings.HasPrefix(strings.ToUpper(hash), "SHA384") {
			return nil, fmt.Errorf("its hash algorithm is %q, and attestation documents have SHA384", hash)
		}
		values = form.Measurements
	}
	pcrs := map[int][]byte{}
	for name, value := range values {
		if name == "HashAlgorithm" {
			continue
		}
		i, err := strconv.Atoi(strings.TrimPrefix(name, "PCR"))
		if err != nil {
			return nil, fmt.Errorf("%q is not the name of a PCR, like PCR4", name)
		}
		if _, twice := pcrs[i]; twice {
			return nil, fmt.Errorf("PCR%d is there twice", i)
		}
		if pcrs[i], err = hex.DecodeString(value); err != nil {
			return nil, fmt.Errorf("PCR%d: %w", i, err)
		}
	}
	if len(pcrs) == 0 {
		return nil, errors.New(`no PCR values of SHA-384 in it: it is {"Measurements": {"PCR4": "…", "PCR7": "…"}}`)
	}
	return pcrs, nil
}

// currentImage is what this machine runs.
func (a *app) currentImage(ctx context.Context, name string) (kms.Image, error) {
	t, err := a.tpm()
	if err != nil {
		return kms.Image{}, err
	}
	values, err := t.ReadPCRs(ctx, tpm2.TPMAlgSHA384, imagePCRs)
	if err != nil {
		return kms.Image{}, err
	}
	image := kms.Image{Name: name, PCRs: map[int][]byte{}}
	for i, value := range values {
		image.PCRs[int(i)] = value
	}
	return image, nil
}

type findingJSON struct {
	Statement string `json:"statement,omitempty"`
	Problem   string `json:"problem"`
	Warning   bool   `json:"warning,omitempty"`
}

// lintKeyPolicy fails when there are findings that are more than warnings.
func (a *app) lintKeyPolicy(path string) error {
	text, err := a.read("--lint", path, maxInput)
	if err != nil {
		return err
	}
	found, err := kms.Lint(text)
	if err != nil {
		return fmt.Errorf("%s: %w", inputName(path), err)
	}
	findings, open := []findingJSON{}, false
	for _, f := range found {
		findings = append(findings, findingJSON{f.Statement, f.Problem, f.Warning})
		open = open || !f.Warning
	}
	err = a.print(struct {
		Attested bool          `json:"attested"`
		Findings []findingJSON `json:"findings"`
	}{!open, findings}, func(w io.Writer) {
		for _, f := range found {
			fmt.Fprintln(w, f)
		}
		if !open {
			fmt.Fprintln(w, "nothing in it bypasses attestation")
		}
	})
	if err == nil && open {
		err = errReported
	}
	return err
}
