# make demo     the main job, on a TPM emulator of its own
# make          build/tpm2-p11.so and build/tpm2-p11
# make build    these and build/nitro-sim, the emulator (needs OpenSSL's headers)
# make check    what to run all day (under 5 minutes)
# make test     everything
# make fuzz     every fuzz target for T=60s each, which make test runs for two seconds
# make soak     applications use keys for T=10m while the wire, the TPM and the service break
# make mutation the tests notice each check that is missing in what verifies and decides (some minutes)
# make bench    what an operation costs beside what the TPM takes for it; make bench-tls the same of TLS servers
# make install  into PREFIX, below DESTDIR

GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)

PREFIX     ?= /usr/local
SYSCONFDIR ?= /etc
BINDIR     ?= $(PREFIX)/bin
LIBDIR     ?= $(PREFIX)/lib
MODULEDIR  ?= $(LIBDIR)/pkcs11
DATADIR    ?= $(PREFIX)/share
MANDIR     ?= $(DATADIR)/man
# p11-kit reads the distribution's modules from /usr/share and the administrator's from /etc.
P11KITDIR  ?= $(if $(filter /usr,$(PREFIX)),/usr/share/p11-kit/modules,$(SYSCONFDIR)/pkcs11/modules)
UNITDIR    ?= $(LIBDIR)/systemd/system
CONFIG      = $(DESTDIR)$(SYSCONFDIR)/tpm2-p11/tpm2-p11.conf

# PACKAGES=present skips the installation of Debian packages.
PACKAGES ?= missing
packages  = $(if $(filter present,$(PACKAGES)),,packaging/install-packages)

GOFLAGS_BUILD = -trimpath -buildvcs=false
LDFLAGS       = -s -w -X github.com/tpm2-p11/tpm2-p11/internal/version.Version=$(VERSION)
# Only the functions of the standard are visible; no lazy binding; no executable stack.
# HELPER is the absolute path of the command for hosts that fork, where it is neither beside the module nor in ../../bin from it.
LDFLAGS_MODULE = $(LDFLAGS) $(if $(HELPER),-X main.helperPath=$(HELPER)) -extldflags "-Wl,--version-script=$(CURDIR)/cgo/exports.map -Wl,-z,relro,-z,now,-z,noexecstack -Wl,-soname,tpm2-p11.so"

.PHONY: all build module command generate demo check test vet test-vectors test-boot fuzz mutation soak soak-signatures bench bench-tls install uninstall clean

all: module command

build: all build/nitro-sim

module:
	CGO_ENABLED=1 $(GO) build $(GOFLAGS_BUILD) -buildmode=c-shared -ldflags '$(LDFLAGS_MODULE)' -o build/tpm2-p11.so ./cgo
	@rm -f build/tpm2-p11.h

command:
	CGO_ENABLED=0 $(GO) build $(GOFLAGS_BUILD) -ldflags '$(LDFLAGS)' -o build/tpm2-p11 ./cmd/tpm2-p11

# The emulator's TPM is the reference implementation, compiled with NitroTPM's
# sizes; a small gap between saved sessions' contexts, as many TPMs have it,
# keeps the multiplexer honest.
SIMULATOR = $(shell $(GO) mod download -json github.com/google/go-tpm-tools | sed -n 's/^\t"Dir": "\(.*\)",$$/\1/p')/simulator/ms-tpm-20-ref
SIMULATOR_CFLAGS = -O2 -DMAX_NV_INDEX_SIZE=8192 -DNV_MEMORY_SIZE=65536 -DCONTEXT_SLOT=UINT8 \
  -D_VENDOR_STRING_H -DFIRMWARE_V1=0x00010000 -DFIRMWARE_V2=0 '-DMANUFACTURER="AMZN"' \
  '-DVENDOR_STRING_1="nitr"' '-DVENDOR_STRING_2="o-si"' '-DVENDOR_STRING_3="m\0\0"' \
  -iquote $(SIMULATOR)/Samples/Google -iquote $(SIMULATOR)/TPMCmd/tpm/include -iquote $(SIMULATOR)/TPMCmd/tpm/include/prototypes
SIMULATOR_TAGS = nitrosim,netgo,osusergo

simulator = CGO_ENABLED=1 CGO_CFLAGS="$(subst ",\",$(SIMULATOR_CFLAGS))" $(GO)

build/nitro-sim: FORCE
	@$(simulator) build $(GOFLAGS_BUILD) -tags $(SIMULATOR_TAGS) -ldflags '$(LDFLAGS)' -o $@ ./cmd/nitro-sim

FORCE:

generate:
	$(GO) generate ./...

demo:
	@$(and $(packages),$(packages) demo)
	@$(MAKE) --no-print-directory build
	@demo/demo.sh

vet:
	@test -z "$$(gofmt -l .)" || { echo "gofmt would change:"; gofmt -l .; exit 1; }
	$(GO) vet ./...
	@$(simulator) vet -tags $(SIMULATOR_TAGS) ./cmd/nitro-sim ./internal/nitrosim/...

check: build vet
	$(GO) test -short -timeout 5m ./...

test:
	@$(and $(packages),$(packages) test)
	@$(MAKE) --no-print-directory build vet
	$(GO) test -race -timeout 20m ./...
	$(GO) run ./tests/fuzz -time 1s
	demo/demo.sh --quiet

# Tests on data from the outside world: VECTORS is the folder that holds it.
test-vectors:
	@test -d "$(VECTORS)" || { echo "VECTORS=$(VECTORS): no such folder"; exit 1; }
	TPM2_P11_VECTORS="$(abspath $(VECTORS))" $(GO) test -count=1 -tags vectors -run '^TestVectors' ./...

# Predicted PCRs against those of machines that boot, in QEMU with Debian's firmware; a minute or two.
test-boot:
	@$(and $(packages),$(packages) boot)
	$(GO) test -count=1 -tags boot -run '^TestBoot' ./policy/predict

# Every fuzz target for T each; FUZZ narrows it, as FUZZ="-run 'kms|FuzzVerify'".
T ?= 60s
fuzz:
	$(GO) run ./tests/fuzz -time $(T) $(FUZZ)

# Takes the checks of what verifies and decides out, one at a time: tests must fail without each. MUTATION narrows it, as -v -run cms.
mutation:
	$(GO) run ./tests/mutation $(MUTATION) ./attest ./kms/cms ./policy ./policy/policyfile

# Load and faults together for T (10m), on an emulator of its own; its last line says what came of it. SOAK: -seed 7 -rate 0.1.
soak: build
	$(GO) run ./tests/soak -time $(if $(filter file,$(origin T)),10m,$(T)) $(SOAK)

# A week's worth of signatures, which leave nothing behind; SIGNATURES is how many.
SIGNATURES ?= 200000
soak-signatures:
	$(GO) test -count=1 -timeout 0 -run '^TestSignaturesLeaveNothing$$' ./p11 -args -signatures $(SIGNATURES)

# BENCH narrows it, as -operations ecdsa -kinds plain -rounds 3; BENCH=-h tells. -history tests/bench/history.tsv keeps its medians.
bench:
	@$(and $(packages),$(packages) test)
	@$(MAKE) --no-print-directory build
	$(GO) run ./tests/bench -markdown build/bench.md -json build/bench.json $(BENCH)

# As root, as nginx's master is. BENCH narrows it, as -handshakes 500.
bench-tls:
	@$(and $(packages),$(packages) test)
	@$(MAKE) --no-print-directory build
	$(GO) run ./tests/bench tls -markdown build/bench-tls.md $(BENCH)

# Needs no Go, so that sudo may run it after make.
install:
	@test -x build/tpm2-p11 -a -f build/tpm2-p11.so || { echo "run make first"; exit 1; }
	install -d $(DESTDIR)$(MODULEDIR) $(DESTDIR)$(BINDIR) $(DESTDIR)$(P11KITDIR) $(DESTDIR)$(LIBDIR)/pkgconfig \
	  $(DESTDIR)$(DATADIR)/bash-completion/completions $(DESTDIR)$(DATADIR)/zsh/site-functions \
	  $(DESTDIR)$(DATADIR)/fish/vendor_completions.d $(DESTDIR)$(MANDIR)/man1 $(dir $(CONFIG))
	install -m 0755 build/tpm2-p11 $(DESTDIR)$(BINDIR)/tpm2-p11
	install -m 0644 build/tpm2-p11.so $(DESTDIR)$(MODULEDIR)/tpm2-p11.so
	sed 's|@MODULE@|$(MODULEDIR)/tpm2-p11.so|' packaging/tpm2-p11.module >$(DESTDIR)$(P11KITDIR)/tpm2-p11.module
	sed 's|@MODULE@|$(MODULEDIR)/tpm2-p11.so|; s|@PREFIX@|$(PREFIX)|; s|@VERSION@|$(VERSION)|' packaging/tpm2-p11.pc.in \
	  >$(DESTDIR)$(LIBDIR)/pkgconfig/tpm2-p11.pc
	install -d $(DESTDIR)$(UNITDIR)
	install -m 0644 packaging/tpm2-p11.socket $(DESTDIR)$(UNITDIR)/tpm2-p11.socket
	sed 's|@BINDIR@|$(BINDIR)|' packaging/tpm2-p11.service.in >$(DESTDIR)$(UNITDIR)/tpm2-p11.service
	build/tpm2-p11 completion bash >$(DESTDIR)$(DATADIR)/bash-completion/completions/tpm2-p11
	build/tpm2-p11 completion zsh >$(DESTDIR)$(DATADIR)/zsh/site-functions/_tpm2-p11
	build/tpm2-p11 completion fish >$(DESTDIR)$(DATADIR)/fish/vendor_completions.d/tpm2-p11.fish
	build/tpm2-p11 man >$(DESTDIR)$(MANDIR)/man1/tpm2-p11.1
	test -e $(CONFIG) || install -m 0644 tpm2-p11.conf $(CONFIG)

# Takes away what install put there, and the folders of its own that are empty then. A configuration that was changed stays.
uninstall:
	rm -f $(DESTDIR)$(UNITDIR)/tpm2-p11.socket $(DESTDIR)$(UNITDIR)/tpm2-p11.service
	rm -f $(DESTDIR)$(BINDIR)/tpm2-p11 $(DESTDIR)$(MODULEDIR)/tpm2-p11.so $(DESTDIR)$(P11KITDIR)/tpm2-p11.module \
	  $(DESTDIR)$(LIBDIR)/pkgconfig/tpm2-p11.pc $(DESTDIR)$(DATADIR)/bash-completion/completions/tpm2-p11 \
	  $(DESTDIR)$(DATADIR)/zsh/site-functions/_tpm2-p11 $(DESTDIR)$(DATADIR)/fish/vendor_completions.d/tpm2-p11.fish \
	  $(DESTDIR)$(MANDIR)/man1/tpm2-p11.1
	@if cmp -s tpm2-p11.conf $(CONFIG); then rm -f $(CONFIG); elif test -e $(CONFIG); then echo "$(CONFIG) was changed and stays"; fi
	@for dir in $(dir $(CONFIG)) $(DESTDIR)$(MODULEDIR) $(DESTDIR)$(P11KITDIR) $(dir $(DESTDIR)$(P11KITDIR)) $(DESTDIR)$(LIBDIR)/pkgconfig \
	  $(DESTDIR)$(DATADIR)/bash-completion/completions $(DESTDIR)$(DATADIR)/bash-completion \
	  $(DESTDIR)$(DATADIR)/zsh/site-functions $(DESTDIR)$(DATADIR)/zsh \
	  $(DESTDIR)$(DATADIR)/fish/vendor_completions.d $(DESTDIR)$(DATADIR)/fish $(DESTDIR)$(MANDIR)/man1 $(DESTDIR)$(MANDIR); do \
	  test ! -d $$dir || rmdir --ignore-fail-on-non-empty $$dir; done

clean:
	rm -rf build
