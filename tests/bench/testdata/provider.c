/* An application of OpenSSL 3 that signs again and again with a key of its tpm2 provider, and prints what it took.
   Usage: provider KEY.pem OPERATION OPS */
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/provider.h>
#include <openssl/rsa.h>
#include <openssl/store.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static unsigned char digest[32];

static void must(int ok, const char *what)
{
	if (ok <= 0) {
		fprintf(stderr, "%s\n", what);
		ERR_print_errors_fp(stderr);
		exit(1);
	}
}

static int64_t now(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static EVP_PKEY *load(const char *path)
{
	OSSL_STORE_CTX *store = OSSL_STORE_open(path, NULL, NULL, NULL, NULL);
	EVP_PKEY *key = NULL;

	must(store != NULL, "OSSL_STORE_open");
	while (key == NULL && !OSSL_STORE_eof(store)) {
		OSSL_STORE_INFO *info = OSSL_STORE_load(store);

		if (info != NULL && OSSL_STORE_INFO_get_type(info) == OSSL_STORE_INFO_PKEY)
			key = OSSL_STORE_INFO_get1_PKEY(info);
		OSSL_STORE_INFO_free(info);
	}
	OSSL_STORE_close(store);
	must(key != NULL, "no key");
	return key;
}

static void operate(EVP_PKEY *key, const char *operation)
{
	EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new(key, NULL);
	unsigned char out[1024];
	size_t n = sizeof out;

	must(ctx != NULL, "EVP_PKEY_CTX_new");
	must(EVP_PKEY_sign_init(ctx), "EVP_PKEY_sign_init");
	if (strcmp(operation, "ecdsa") != 0)
		must(EVP_PKEY_CTX_set_rsa_padding(ctx, strcmp(operation, "pss") == 0 ? RSA_PKCS1_PSS_PADDING : RSA_PKCS1_PADDING), "padding");
	must(EVP_PKEY_CTX_set_signature_md(ctx, EVP_sha256()), "hash");
	must(EVP_PKEY_sign(ctx, out, &n, digest, sizeof digest), "EVP_PKEY_sign");
	EVP_PKEY_CTX_free(ctx);
}

int main(int argc, char **argv)
{
	int64_t *took, wall, cpu;
	EVP_PKEY *key;
	int ops;

	if (argc != 4)
		return 2;
	must(OSSL_PROVIDER_load(NULL, "tpm2") != NULL, "the provider tpm2");
	must(OSSL_PROVIDER_load(NULL, "default") != NULL, "the default provider");
	key = load(argv[1]);
	ops = atoi(argv[3]);
	operate(key, argv[2]); /* does not count */
	took = calloc(ops, sizeof *took);
	cpu = now(CLOCK_PROCESS_CPUTIME_ID);
	wall = now(CLOCK_MONOTONIC);
	for (int i = 0; i < ops; i++) {
		int64_t began = now(CLOCK_MONOTONIC);

		operate(key, argv[2]);
		took[i] = now(CLOCK_MONOTONIC) - began;
	}
	wall = now(CLOCK_MONOTONIC) - wall;
	cpu = now(CLOCK_PROCESS_CPUTIME_ID) - cpu;
	printf("{\"ns\":[");
	for (int i = 0; i < ops; i++)
		printf("%s%lld", i > 0 ? "," : "", (long long)took[i]);
	printf("],\"wall_ns\":%lld,\"cpu_ns\":%lld}\n", (long long)wall, (long long)cpu);
	EVP_PKEY_free(key);
	return 0;
}
