# The last act of the demo, which demo.sh reads: the fleet's TLS key comes from a
# KMS into the TPM of a machine that proves what it booted, and nginx serves
# with it.

# await FILE WORD: waits for a background program's word, and gives the line with it.
await() {
	for _ in $(seq 600); do
		if grep -m 1 "$2" "$1" 2>/dev/null; then return; fi
		sleep 0.1
	done
	cat "$1" >&2
	return 1
}

say "It boots as before, and a KMS comes, which knows this image by its key policy"
run "nitro-sim reset --socket tpm"
cat >principals.json <<'JSON'
[{"Arn": "arn:aws:iam::111122223333:role/fleet",   "AccessKeyId": "fleet",   "SecretAccessKey": "fleet-secret"},
 {"Arn": "arn:aws:iam::111122223333:role/release", "AccessKeyId": "release", "SecretAccessKey": "release-secret"}]
JSON
role=arn:aws:iam::111122223333:role
run "tpm2-p11 kms key-policy --current Today --machine $role/fleet --encrypter $role/release --admin $role/release --out policy.json"
run "tpm2-p11 kms key-policy --lint policy.json"
echo_command "nitro-sim kms --root root.pem --principals principals.json --key fleet=policy.json &"
nitro-sim kms --listen 127.0.0.1:0 --root root.pem --principals principals.json --key fleet=policy.json >kms.log 2>&1 &
kms=$!
url=$(await kms.log 'http://' | sed 's|.*\(http://[0-9.:]*\).*|\1|')
cat >>tpm2-p11.conf <<CONF

[kms]
key_id     = "alias/fleet"
region     = "us-east-1"
endpoint   = "$url"
plain_http = true
context    = { purpose = "tls" }
CONF
unset AWS_SESSION_TOKEN AWS_PROFILE
export AWS_EC2_METADATA_DISABLED=true AWS_ACCESS_KEY_ID=release AWS_SECRET_ACCESS_KEY=release-secret

say "Somewhere else, with the release role: the fleet's key and its certificate; the key is kept as KMS encrypted it"
run "openssl req -x509 -newkey rsa:2048 -nodes -keyout fleet.key -out fleet.crt -days 30 -subj /CN=localhost -addext subjectAltName=DNS:localhost 2>/dev/null"
run "tpm2-p11 kms encrypt --in fleet.key --out fleet.key.kms"
run "rm fleet.key"

say "On the machine, with its own role: KMS decrypts for the TPM alone, and the key is never on disk or in the clear"
export AWS_ACCESS_KEY_ID=fleet AWS_SECRET_ACCESS_KEY=fleet-secret
import="tpm2-p11 kms import-key fleet --in fleet.key.kms --certificate fleet.crt --handle 0x81000110 --pcr sha384:4,7"
run "$import"
run "tpm2-p11 key show fleet"
run "$import"

say "nginx serves with it"
port=$(shuf -i 20000-32000 -n 1)
cat >nginx.conf <<CONF
worker_processes 2;
daemon off;
pid $work/nginx.pid;
error_log stderr;
ssl_engine pkcs11;
events { }
http {
	access_log off;
	client_body_temp_path $work/nginx-body;
	proxy_temp_path $work/nginx-proxy;
	fastcgi_temp_path $work/nginx-fastcgi;
	uwsgi_temp_path $work/nginx-uwsgi;
	scgi_temp_path $work/nginx-scgi;
	server {
		listen 127.0.0.1:$port ssl;
		ssl_certificate $work/fleet.crt;
		ssl_certificate_key "engine:pkcs11:pkcs11:token=demo;object=fleet;type=private";
		location / { return 200 "hello from nginx, by a key that KMS gave to this TPM\n"; }
	}
}
CONF
chmod 755 "$work"
nginx=$(command -v nginx || echo /usr/sbin/nginx)
serve_nginx() {
	echo_command "nginx -c nginx.conf &"
	PKCS11_MODULE_PATH="$module" "$nginx" -e stderr -c "$work/nginx.conf" >server.log 2>&1 &
	server=$!
	for _ in $(seq 600); do
		if listens "$port"; then return; fi
		sleep 0.1
	done
	echo "nginx did not start" >&2
	exit 1
}
serve_nginx
for _ in 1 2 3; do
	run "curl --silent --show-error --cacert fleet.crt --connect-to localhost:443:127.0.0.1:$port https://localhost/"
done

say "Something else boots: KMS refuses it the key, and the TPM refuses nginx the one it has"
run "nitro-sim extend 7 --bank sha384 --event something-else --socket tpm"
refused "curl --silent --show-error --cacert fleet.crt --connect-to localhost:443:127.0.0.1:$port https://localhost/ || { cat server.log; false; }"
stop_server
run "tpm2-p11 key delete fleet --yes"
refused "$import"
