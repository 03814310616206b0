#!/usr/bin/env bash
# The main job, start to end, on a TPM emulator of its own: a key is born in a
# TPM, bound to what the machine booted, signs through the command, the PKCS#11
# module and Go, and stops signing when a measurement changes.
#
# Each command is echoed before it runs. Exits 0 only if every step went as it
# should, the refusals included. --quiet prints only what went wrong.
set -euo pipefail

top=$(cd "$(dirname "$0")/.." && pwd)
quiet=; [ "${1:-}" = --quiet ] && quiet=1

bold= dim= red= reset=
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
	bold=$'\e[1m' dim=$'\e[2m' red=$'\e[31m' reset=$'\e[0m'
fi

work=$(mktemp -d "${TMPDIR:-/tmp}/tpm2-p11-demo.XXXXXX")
server=
cleanup() {
	status=$?
	[ -z "$server" ] || kill "$server" 2>/dev/null || true
	[ -z "${kms:-}" ] || kill "$kms" 2>/dev/null || true
	[ -z "${sim:-}" ] || kill "$sim" 2>/dev/null || true
	wait 2>/dev/null || true
	if [ "$status" != 0 ]; then
		echo "${red}The demo stopped: a step did not go as it should.${reset}" >&2
		cat "$work/server.log" >&2 2>/dev/null || true
	fi
	rm -rf "$work"
	exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

say() { [ -n "$quiet" ] || printf '\n%s%s%s\n' "$bold" "$*" "$reset"; }
echo_command() { [ -n "$quiet" ] || printf '%s$ %s%s\n' "$dim" "$*" "$reset"; }

# run COMMAND: echoes it, runs it, stops the demo if it fails.
run() {
	echo_command "$1"
	local status=0
	eval "$1" >"$work/output" 2>&1 || status=$?
	if [ "$status" != 0 ] || [ -z "$quiet" ]; then cat "$work/output"; fi
	if [ "$status" != 0 ]; then
		echo "${red}exit code $status: $1${reset}" >&2
		exit 1
	fi
}

# refused COMMAND: echoes it, runs it, stops the demo unless it fails and names PCR 7.
refused() {
	echo_command "$1"
	local status=0
	eval "$1" >"$work/output" 2>&1 || status=$?
	[ -n "$quiet" ] || cat "$work/output"
	if [ "$status" = 0 ]; then
		echo "${red}this was not refused: $1${reset}" >&2
		exit 1
	fi
	if ! grep -q 'PCR7' "$work/output"; then
		cat "$work/output" >&2
		echo "${red}this was refused without naming PCR7: $1${reset}" >&2
		exit 1
	fi
}

# listens PORT: tells from the kernel's list of sockets. Knocking at the port would be a TLS handshake that fails.
listens() { grep -qi "^ *[0-9]*: 0100007F:$(printf %04X "$1") 00000000:0000 0A " /proc/net/tcp; }

start_server() {
	echo_command "tls-server web &"
	port=$(shuf -i 20000-32000 -n 1)
	"$work/tls-server" -listen "127.0.0.1:$port" web >"$work/server.log" 2>&1 &
	server=$!
	for _ in $(seq 600); do
		if listens "$port"; then return; fi
		sleep 0.1
	done
	echo "the TLS server did not start" >&2
	exit 1
}
stop_server() {
	kill "$server"
	wait "$server" 2>/dev/null || true
	server=
}

export PATH="$top/build:$PATH"
export TPM2_P11_CONF="$work/tpm2-p11.conf"
module="$top/build/tpm2-p11.so"
cd "$work"
(cd "$top" && "${GO:-go}" build -o "$work/tls-server" ./examples/tls-server)

say "A TPM of our own: nitro-sim, the TPM of an attestable EC2 instance on a laptop"
echo_command "nitro-sim --socket tpm --root-out root.pem &"
nitro-sim --socket "$work/tpm" --root-out root.pem >sim.log 2>&1 &
sim=$!
for _ in $(seq 600); do
	[ -S "$work/tpm" ] && [ -s root.pem ] && break
	sleep 0.1
done

cat >tpm2-p11.conf <<CONF
label = "demo"
tpm   = "swtpm:path=$work/tpm"
store = "$work/store"
log   = "stderr"

[[key]]
label       = "web"
handle      = 0x81000100
policy      = "sha256:0,1,2,7"
certificate = "$work/web.crt"
CONF
run "cat tpm2-p11.conf"

say "A key is born in the TPM, bound to PCRs 0, 1, 2 and 7"
run "tpm2-p11 init --label demo --no-pin"
run "tpm2-p11 key create web --type rsa2048 --pcr sha256:0,1,2,7 --handle 0x81000100"
run "tpm2-p11 handles"
run "tpm2-p11 key self-sign web --subject CN=localhost --dns localhost --days 30 --out web.crt"

say "It signs by the command; plain openssl verifies"
echo "the contract" >contract.txt
run "tpm2-p11 key public web --out web.pub"
run "tpm2-p11 sign web --in contract.txt --out contract.sig"
run "openssl dgst -sha256 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:digest -verify web.pub -signature contract.sig contract.txt"

say "It signs through the PKCS#11 module"
run "pkcs11-tool --module $module --list-objects"
# pkcs11-tool of Debian 12 overlooks --label when it signs, and takes the first key. The id is the public key's SHA-1, also after a reboot.
id=$(tpm2-p11 key show web | awk '$1 == "CKA_ID" { print $2 }')
run "pkcs11-tool --module $module --sign --mechanism SHA256-RSA-PKCS-PSS --id $id --input-file contract.txt --output-file module.sig"
run "openssl dgst -sha256 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:digest -verify web.pub -signature module.sig contract.txt"
openssl_sign="PKCS11_MODULE_PATH=$module openssl dgst -sha256 -engine pkcs11 -keyform engine -sign 'pkcs11:token=demo;object=web;type=private' -out openssl.sig contract.txt"
run "$openssl_sign"
run "openssl dgst -sha256 -verify web.pub -signature openssl.sig contract.txt"

say "A Go server serves TLS with it"
start_server
run "curl --silent --show-error --cacert web.crt --connect-to localhost:443:127.0.0.1:$port https://localhost/"
stop_server

say "A secret is sealed to the same measurements"
echo "database password" >secret.txt
run "tpm2-p11 seal --pcr sha256:0,1,2,7 --in secret.txt --out secret.tss2"
run "tpm2-p11 unseal secret.tss2"

say "The machine proves what it booted"
run "openssl rand -hex 32 >nonce.hex"
run "tpm2-p11 attest document --nonce \$(cat nonce.hex) --public-key web --out document.cbor"
run "tpm2-p11 attest show document.cbor"
pcr7=$(tpm2-p11 attest show --json document.cbor | sed -n 's/.*"7": *"\([0-9a-f]*\)".*/\1/p' | head -1)
attested="tpm2-p11 attest verify document.cbor --root root.pem --nonce $(cat nonce.hex) --pcr 7=$pcr7"
run "$attested"

say "A reboot of an image that keeps its root in memory: the store is gone, the TPM still has the key"
run "rm -r store"
run "tpm2-p11 key ensure"
run "tpm2-p11 key ensure"
run "tpm2-p11 sign web --in contract.txt --out again.sig"
run "openssl dgst -sha256 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:digest -verify web.pub -signature again.sig contract.txt"

say "Something else boots: PCR 7 changes, and every private operation is refused"
start_server
run "nitro-sim extend 7 --event something-else --socket tpm"
refused "tpm2-p11 sign web --in contract.txt --out never.sig"
refused "pkcs11-tool --module $module --sign --mechanism SHA256-RSA-PKCS-PSS --id $id --input-file contract.txt --output-file never.sig"
refused "$openssl_sign"
refused "curl --silent --show-error --cacert web.crt --connect-to localhost:443:127.0.0.1:$port https://localhost/ || { cat server.log; false; }"
stop_server
refused "tpm2-p11 unseal secret.tss2"
refused "tpm2-p11 attest self --root root.pem --pcr 7=$pcr7"

. "$top/demo/fleet.sh"

say "All of it went as it should."
