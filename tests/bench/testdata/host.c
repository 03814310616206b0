/* A PKCS #11 application that does one operation again and again, in threads, and prints what it took.
   Usage: host MODULE SLOT LABEL OPERATION CIPHERTEXT-FILE OPS THREADS PIN-FILE|- [fork]
   With "fork" it does so in a forked child, as the workers of a server do. */
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../../../cgo/cryptoki.h"

#define CKA_CLASS 0x00UL
#define CKA_LABEL 0x03UL
#define CKO_PRIVATE_KEY 3UL
#define CKU_USER 1UL
#define CKM_SHA256_RSA_PKCS 0x40UL
#define CKM_ECDSA 0x1041UL
#define CKM_SHA256 0x250UL
#define CKG_MGF1_SHA256 2UL
#define CKZ_DATA_SPECIFIED 1UL
#define MAX_THREADS 64

static CK_FUNCTION_LIST_PTR p11;
static CK_RSA_PKCS_PSS_PARAMS pss = {CKM_SHA256, CKG_MGF1_SHA256, 32};
static CK_RSA_PKCS_OAEP_PARAMS oaep = {CKM_SHA256, CKG_MGF1_SHA256, CKZ_DATA_SPECIFIED, NULL, 0};
static const struct operation {
	const char *name;
	CK_MECHANISM mechanism;
	int decrypt;
} operations[] = {
	{"pkcs1", {CKM_SHA256_RSA_PKCS, NULL, 0}, 0},
	{"pss", {CKM_SHA256_RSA_PKCS_PSS, &pss, sizeof pss}, 0},
	{"ecdsa", {CKM_ECDSA, NULL, 0}, 0},
	{"oaep", {CKM_RSA_PKCS_OAEP, &oaep, sizeof oaep}, 1},
};

static const struct operation *operation;
static CK_SLOT_ID slot;
static const char *label;
static CK_BYTE ciphertext[1024], digest[32];
static CK_ULONG ciphertext_length;
static int64_t *took;
static pthread_barrier_t ready; /* passed twice: all have their sessions, and the time is taken */

static void must(CK_RV rv, const char *what)
{
	if (rv != CKR_OK) {
		fprintf(stderr, "%s: 0x%lx\n", what, rv);
		exit(1);
	}
}

static int64_t now(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static long resident(void)
{
	char line[256];
	long n = 0;
	FILE *file = fopen("/proc/self/status", "r");

	while (fgets(line, sizeof line, file) != NULL)
		if (strncmp(line, "VmRSS:", 6) == 0)
			n = strtol(line + 6, NULL, 10);
	fclose(file);
	return n;
}

static CK_ULONG read_file(const char *path, CK_BYTE *into, size_t most)
{
	FILE *file = fopen(path, "r");
	size_t n;

	if (file == NULL) {
		perror(path);
		exit(1);
	}
	n = fread(into, 1, most, file);
	fclose(file);
	return n;
}

static CK_OBJECT_HANDLE find(CK_SESSION_HANDLE session)
{
	CK_ULONG class = CKO_PRIVATE_KEY, n = 0;
	CK_ATTRIBUTE wanted[] = {{CKA_CLASS, &class, sizeof class}, {CKA_LABEL, (void *)label, strlen(label)}};
	CK_OBJECT_HANDLE found = 0;

	must(p11->C_FindObjectsInit(session, wanted, 2), "C_FindObjectsInit");
	must(p11->C_FindObjects(session, &found, 1, &n), "C_FindObjects");
	must(p11->C_FindObjectsFinal(session), "C_FindObjectsFinal");
	if (n != 1) {
		fprintf(stderr, "no key %s\n", label);
		exit(1);
	}
	return found;
}

static void operate(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE key)
{
	CK_MECHANISM mechanism = operation->mechanism;
	CK_BYTE out[1024];
	CK_ULONG n = sizeof out;

	if (operation->decrypt) {
		must(p11->C_DecryptInit(session, &mechanism, key), "C_DecryptInit");
		must(p11->C_Decrypt(session, ciphertext, ciphertext_length, out, &n), "C_Decrypt");
		return;
	}
	must(p11->C_SignInit(session, &mechanism, key), "C_SignInit");
	must(p11->C_Sign(session, digest, sizeof digest, out, &n), "C_Sign");
}

struct share {
	pthread_t thread;
	int first, n;
};

static void *work(void *argument)
{
	struct share *share = argument;
	CK_SESSION_HANDLE session;
	CK_OBJECT_HANDLE key;

	must(p11->C_OpenSession(slot, CKF_SERIAL_SESSION, NULL, NULL, &session), "C_OpenSession");
	key = find(session);
	pthread_barrier_wait(&ready);
	pthread_barrier_wait(&ready);
	for (int i = share->first; i < share->first + share->n; i++) {
		int64_t began = now(CLOCK_MONOTONIC);

		operate(session, key);
		took[i] = now(CLOCK_MONOTONIC) - began;
	}
	must(p11->C_CloseSession(session), "C_CloseSession");
	return NULL;
}

static void batch(int ops, int threads, const char *pin_file, long before, long after)
{
	struct share shares[MAX_THREADS];
	CK_SESSION_HANDLE session;
	int64_t began, cpu;

	must(p11->C_OpenSession(slot, CKF_SERIAL_SESSION, NULL, NULL, &session), "C_OpenSession");
	if (strcmp(pin_file, "-") != 0) {
		CK_BYTE pin[64];
		CK_ULONG n = read_file(pin_file, pin, sizeof pin);

		must(p11->C_Login(session, CKU_USER, pin, n), "C_Login");
	}
	operate(session, find(session)); /* does not count */
	took = calloc(ops, sizeof *took);
	pthread_barrier_init(&ready, NULL, threads + 1);
	for (int i = 0, first = 0; i < threads; i++) {
		shares[i].first = first;
		shares[i].n = ops / threads + (i < ops % threads);
		first += shares[i].n;
		pthread_create(&shares[i].thread, NULL, work, &shares[i]);
	}
	pthread_barrier_wait(&ready);
	cpu = now(CLOCK_PROCESS_CPUTIME_ID);
	began = now(CLOCK_MONOTONIC);
	pthread_barrier_wait(&ready);
	for (int i = 0; i < threads; i++)
		pthread_join(shares[i].thread, NULL);
	began = now(CLOCK_MONOTONIC) - began;
	cpu = now(CLOCK_PROCESS_CPUTIME_ID) - cpu;
	printf("{\"ns\":[");
	for (int i = 0; i < ops; i++)
		printf("%s%lld", i > 0 ? "," : "", (long long)took[i]);
	printf("],\"wall_ns\":%lld,\"cpu_ns\":%lld,\"resident_before_kib\":%ld,\"resident_kib\":%ld}\n", (long long)began, (long long)cpu, before, after);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	CK_RV (*get_list)(CK_FUNCTION_LIST_PTR_PTR);
	int forked = argc == 10 && strcmp(argv[9], "fork") == 0, status = 1;
	long before = resident();
	void *library;

	if (argc != 9 && !forked)
		return 2;
	library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
	if (library == NULL) {
		fprintf(stderr, "%s\n", dlerror());
		return 1;
	}
	*(void **)&get_list = dlsym(library, "C_GetFunctionList");
	must(get_list(&p11), "C_GetFunctionList");
	must(p11->C_Initialize(NULL), "C_Initialize");
	slot = strtoul(argv[2], NULL, 10);
	label = argv[3];
	for (size_t i = 0; i < sizeof operations / sizeof *operations; i++)
		if (strcmp(argv[4], operations[i].name) == 0)
			operation = &operations[i];
	if (operation == NULL || atoi(argv[7]) > MAX_THREADS)
		return 2;
	if (operation->decrypt)
		ciphertext_length = read_file(argv[5], ciphertext, sizeof ciphertext);
	if (!forked) {
		batch(atoi(argv[6]), atoi(argv[7]), argv[8], before, resident());
		must(p11->C_Finalize(NULL), "C_Finalize");
		return 0;
	}
	if (fork() == 0) {
		must(p11->C_Initialize(NULL), "C_Initialize in a child");
		batch(atoi(argv[6]), atoi(argv[7]), argv[8], before, resident());
		must(p11->C_Finalize(NULL), "C_Finalize in a child");
		_exit(0);
	}
	wait(&status);
	must(p11->C_Finalize(NULL), "C_Finalize");
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
