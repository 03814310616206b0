package main

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/google/go-tpm/tpm2"
	"github.com/spf13/cobra"

	"github.com/tpm2-p11/tpm2-p11/kms"
	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/policy/predict"
	"github.com/tpm2-p11/tpm2-p11/policy/predict/esl"
	"github.com/tpm2-p11/tpm2-p11/policy/predict/pe"
)

// maxImage bounds a machine image in bytes.
const maxImage = 1 << 30

// predictBanks are the banks that images are predicted for.
var predictBanks = map[string]crypto.Hash{"sha256": crypto.SHA256, "sha384": crypto.SHA384}

// predictFlags are the flags of `policy predict`.
type predictFlags struct {
	loaders          []string
	pk, kek, db, dbx string
	commandLine      string
	phases           string
	stub             int
	pcr, hash        string
	format, out      string
	events           bool
	sign             signerFlags
	principals       policyPrincipals
}

func policyPredictCommand(a *app) *cobra.Command {
	var flags predictFlags
	c := &cobra.Command{
		Use:   "predict [NAME=]IMAGE…",
		Short: "Compute an image's PCRs before it boots, and policies that approve it",
		Long: `predict computes PCRs 4, 7, 11 and 12 of machines that boot a unified kernel image (UKI): what firmware, with or without
secure boot, and systemd-stub will measure. It asks no TPM. Several images are several machines, or one before and after
an update; PCRs of two images never mix.

Secure boot is on when --pk is given. --format prints something to use elsewhere:
  aws     the measurements of one image, as nitro-tpm-pcr-compute prints them
  policy  a policy for keys that work under each of the images
  kms     a key policy for AWS KMS that approves each of the images

--sign approves a policy for each image at once, as policy sign does, with the signer's key and the --ref of the keys' policy.`,
		Example: `  tpm2-p11 policy predict image.efi
  tpm2-p11 policy predict november.efi december.efi --pcr sha384:4,7,12 --format policy --out fleet.json
  tpm2-p11 policy predict november.efi --sign ci.pem --ref tls/v1 --out november.json
  tpm2-p11 policy predict signed.efi --pk PK.esl --kek KEK.esl --db db.esl --pcr sha384:7 --format kms \
    --machine arn:aws:iam::111122223333:role/web --admin arn:aws:iam::111122223333:role/keys`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("IMAGE is missing")
			}
			return nil
		},
		RunE: a.verb(func(ctx context.Context, args []string) error { return a.predict(ctx, flags, args) }),
	}
	f := c.Flags()
	f.StringVar(&flags.pk, "pk", "", "`FILE` with the platform key: an ESL, an .auth file, or one of efivarfs; secure boot is on then")
	f.StringVar(&flags.kek, "kek", "", "`FILE` with the key exchange keys")
	f.StringVar(&flags.db, "db", "", "`FILE` with what secure boot lets start")
	f.StringVar(&flags.dbx, "dbx", "", "`FILE` with what it does not")
	f.StringArrayVar(&flags.loaders, "loader", nil, "boot loader `FILE` that starts before the image; may be repeated, in the order of starting")
	f.StringVar(&flags.commandLine, "cmdline", "", "kernel command line, as `TEXT`, that the boot entry gives to the image")
	f.StringVar(&flags.phases, "phase", "", "phases that userspace measured, as `PHASE:PHASE…` (enter-initrd:leave-initrd:sysinit:ready)")
	f.IntVar(&flags.stub, "stub-version", 0, "`VERSION` of the image's systemd-stub, where the image does not tell")
	f.StringVar(&flags.pcr, "pcr", "sha384:4,7,12", "`PCRS` that the policy is about, of 4, 7, 11 and 12")
	f.StringVar(&flags.hash, "hash", "sha256", "hash of the policy's digest: sha256 or sha384")
	f.BoolVar(&flags.events, "events", false, "show the measurements too, to compare with `tpm2-p11 policy events`")
	f.StringVar(&flags.format, "format", "", "aws, policy or kms, instead of text or --json")
	f.StringVarP(&flags.out, "out", "o", "", "output `FILE` for --format or --sign (default: standard output)")
	flags.principals.register(c)
	flags.sign.register(c, "sign", "write what policy sign makes of a policy for each image, with this ")
	choices(c, "format", "aws", "policy", "kms")
	choices(c, "hash", "sha256", "sha384")
	return c
}

// prediction is what an image will measure.
type prediction struct {
	name, file  string
	commandLine bool                       // the image has one of its own
	pcrs        map[string]map[uint][]byte // by bank
	events      map[string][]predict.Event // by bank, of the same order
}

func (a *app) predict(ctx context.Context, flags predictFlags, args []string) error {
	selected, err := flags.selection()
	if err != nil {
		return err
	}
	boot, err := a.boot(flags)
	if err != nil {
		return err
	}
	if err := bound(selected, boot.SecureBoot.Enabled()); err != nil {
		return err
	}
	var all []prediction
	for _, arg := range args {
		p, err := a.predictImage(boot, arg)
		if err != nil {
			return err
		}
		all = append(all, p)
	}
	open := !boot.SecureBoot.Enabled() || slices.ContainsFunc(all, func(p prediction) bool { return !p.commandLine })
	if open && !slices.Contains(selected.Indices(), predict.PCRConfig) {
		a.note("the policy is not about PCR 12: an image is the same to it with any kernel command line that its boot entry gives it")
	}
	if len(boot.Loaders) > 0 && slices.Contains(selected.Indices(), predict.PCRConfig) {
		a.note("a loader may measure into PCR 12 what it hands over: compare with `tpm2-p11 policy events` on a machine")
	}
	if flags.sign.key != "" {
		return a.signPredictions(ctx, flags, selected, all)
	}
	switch flags.format {
	case "":
		return a.showPredictions(flags, selected, all)
	case "aws":
		if len(all) > 1 {
			return usagef("--format aws has room for one image")
		}
		return a.deliverText(flags.out, awsMeasurements(all[0]))
	case "policy":
		text, err := policyFile(flags.hash, policyOf(selected, all))
		if err != nil {
			return err
		}
		return a.deliverText(flags.out, text)
	}
	return a.predictKeyPolicy(flags, selected, all)
}

// selection are the PCRs that the policy is about, after a look at the flags that depend on another.
func (f predictFlags) selection() (policy.PCR, error) {
	selected, err := policy.ParsePCR(f.pcr)
	if err != nil {
		return selected, usageError{err}
	}
	if predictBanks[policy.BankName(selected.Bank)] == 0 {
		return selected, usagef("--pcr %s: images are predicted for sha256 and sha384", f.pcr)
	}
	for _, i := range selected.Indices() {
		if !slices.Contains([]uint{predict.PCRBoot, predict.PCRSecureBoot, predict.PCRKernel, predict.PCRConfig}, i) {
			return selected, usagef("--pcr %s: PCR %d does not follow from an image; 4, 7, 11 and 12 do", f.pcr, i)
		}
	}
	principals := len(f.principals.Machines) + len(f.principals.Administrators) + len(f.principals.Encrypters)
	switch {
	case !slices.Contains([]string{"", "aws", "policy", "kms"}, f.format):
		return selected, usagef("--format %s: there is aws, policy and kms", f.format)
	case f.sign.key != "" && f.format != "":
		return selected, usagef("--sign and --format exclude each other")
	case f.sign.key == "" && f.sign.ref != "":
		return selected, usagef("--ref goes with --sign")
	case len(f.sign.ref) > policy.MaxRef:
		return selected, usagef("--ref has %d bytes at most", policy.MaxRef)
	case f.hash != "sha256" && f.hash != "sha384":
		return selected, usagef("--hash %s: there is sha256 and sha384", f.hash)
	case f.out != "" && f.format == "" && f.sign.key == "":
		return selected, usagef("--out goes with --format and --sign")
	case f.format != "kms" && principals > 0:
		return selected, usagef("--machine, --encrypter and --admin go with --format kms")
	case f.format == "kms" && len(f.principals.Machines) == 0:
		return selected, usagef("--machine is missing")
	case f.format == "kms" && len(f.principals.Administrators) == 0:
		return selected, usagef("--admin is missing")
	case f.format == "kms" && selected.Bank != tpm2.TPMAlgSHA384:
		return selected, usagef("--pcr %s: attestation documents have sha384", f.pcr)
	}
	return selected, nil
}

// bound refuses selections that anything could be made to fit.
func bound(selected policy.PCR, secureBoot bool) error {
	has := func(i uint) bool { _, ok := selected.Values[i]; return ok }
	switch {
	case has(predict.PCRBoot) || has(predict.PCRSecureBoot) && secureBoot:
		return nil
	case has(predict.PCRSecureBoot):
		return withHint(usagef("PCR 7 without secure boot is the same for every image"), "add PCR 4, or give the machine's secure boot by --pk, --kek and --db")
	}
	return withHint(usagef("PCRs 11 and 12 can be extended by whatever boots: without PCR 4, or PCR 7 under secure boot, they bind nothing"), "add PCR 4")
}

// boot reads all that comes with the images.
func (a *app) boot(flags predictFlags) (predict.Boot, error) {
	b := predict.Boot{CommandLine: flags.commandLine, StubVersion: flags.stub}
	if flags.phases != "" {
		b.Phases = strings.Split(flags.phases, ":")
	}
	for _, v := range []struct {
		flag, path string
		contents   *[]byte
	}{
		{"--pk", flags.pk, &b.SecureBoot.PK}, {"--kek", flags.kek, &b.SecureBoot.KEK},
		{"--db", flags.db, &b.SecureBoot.DB}, {"--dbx", flags.dbx, &b.SecureBoot.DBX},
	} {
		if v.path == "" {
			continue
		}
		file, err := a.read(v.flag, v.path, esl.MaxSize)
		if err != nil {
			return b, err
		}
		if *v.contents, err = esl.Variable(file); err != nil {
			return b, withHint(fmt.Errorf("%s: %w", inputName(v.path), err), "`cert-to-efi-sig-list` makes one of a certificate")
		}
	}
	switch {
	case flags.pk != "" && !b.SecureBoot.Enabled():
		return b, usagef("--pk %s: it holds no key", flags.pk)
	case flags.pk == "" && flags.kek+flags.db+flags.dbx != "":
		return b, withHint(usagef("--kek, --db and --dbx are of secure boot, which is on with a platform key only"), "give it by --pk")
	}
	for _, path := range flags.loaders {
		image, err := a.readPE("--loader", path)
		if err != nil {
			return b, err
		}
		b.Loaders = append(b.Loaders, image)
	}
	return b, nil
}

func (a *app) predictImage(boot predict.Boot, arg string) (p prediction, err error) {
	p.name, p.file = namedFile(arg)
	if boot.Image, err = a.readPE("IMAGE", p.file); err != nil {
		return p, err
	}
	if _, uki := boot.Image.Section(".linux"); !uki {
		return p, withHint(fmt.Errorf("%s is no unified kernel image: no PCR would tell what it starts, and how", inputName(p.file)),
			"`ukify` makes one of a kernel, an initrd and a command line")
	}
	_, p.commandLine = boot.Image.Section(".cmdline")
	p.pcrs, p.events = map[string]map[uint][]byte{}, map[string][]predict.Event{}
	for bank, hash := range predictBanks {
		if p.events[bank], err = boot.Events(hash); err == nil {
			p.pcrs[bank], err = boot.PCRs(hash)
		}
		if errors.Is(err, predict.ErrUnpredictable) && boot.StubVersion == 0 {
			err = withHint(err, "where the image does not tell its systemd-stub's version, give it by --stub-version")
		}
		if err != nil {
			return p, fmt.Errorf("%s: %w", inputName(p.file), err)
		}
	}
	return p, nil
}

// readPE reads an image, whose size is not that of other inputs.
func (a *app) readPE(flag, path string) (*pe.Image, error) {
	r, err := a.reader(flag, path)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	file, err := io.ReadAll(io.LimitReader(r, maxImage+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", inputName(path), err)
	}
	if len(file) > maxImage {
		return nil, fmt.Errorf("%s: more than %d bytes", inputName(path), maxImage)
	}
	image, err := pe.Parse(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", inputName(path), err)
	}
	return image, nil
}

// node requires the selected PCRs of an image.
func (p prediction) node(selected policy.PCR) policy.PCR {
	node := policy.PCR{Bank: selected.Bank, Values: map[uint][]byte{}}
	for _, i := range selected.Indices() {
		node.Values[i] = p.pcrs[policy.BankName(selected.Bank)][i]
	}
	return node
}

// signPredictions approves each image by a policy of its own.
func (a *app) signPredictions(ctx context.Context, flags predictFlags, selected policy.PCR, all []prediction) error {
	var policies []toSign
	for _, p := range all {
		s := toSign{name: p.name, policy: policy.Policy{Root: p.node(selected)}}
		hash := tpm2.TPMIAlgHash(tpm2.TPMAlgSHA256)
		if flags.hash == "sha384" {
			hash = tpm2.TPMAlgSHA384
		}
		var err error
		if s.digest, err = s.policy.Digest(hash); err != nil {
			return err
		}
		policies = append(policies, s)
	}
	var text []byte
	err := a.withSigningKey(ctx, flags.sign, func(key crypto.Signer) (err error) {
		text, err = signPolicies(key, policies, flags.sign.ref, false)
		return err
	})
	if err != nil {
		return err
	}
	return a.deliverText(flags.out, text)
}

// policyOf requires the selected PCRs of one of the images.
func policyOf(selected policy.PCR, all []prediction) policy.Policy {
	var images policy.Any
	for _, p := range all {
		node := p.node(selected)
		if !slices.ContainsFunc(images, func(n policy.Node) bool { return (policy.Policy{Root: n}).Equal(policy.Policy{Root: node}) }) {
			images = append(images, node)
		}
	}
	if len(images) == 1 {
		return policy.Policy{Root: images[0]}
	}
	return policy.Policy{Root: images}
}

func (a *app) predictKeyPolicy(flags predictFlags, selected policy.PCR, all []prediction) error {
	var images []kms.Image
	for _, p := range all {
		image := kms.Image{Name: p.name, PCRs: map[int][]byte{}}
		for _, i := range selected.Indices() {
			image.PCRs[int(i)] = p.pcrs["sha384"][i]
		}
		images = append(images, image)
	}
	text, err := kms.KeyPolicy(flags.principals.PolicyPrincipals, images...)
	if errors.As(err, new(*kms.ImageError)) {
		err = withHint(err, "name images by NAME=IMAGE")
	}
	if err != nil {
		return err
	}
	return a.deliverText(flags.out, append(text, '\n'))
}
