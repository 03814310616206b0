/* The built module as an application sees it: loaded, initialised, forked, unloaded. No TPM is touched.
   Usage: module /path/to/tpm2-p11.so */
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../cryptoki.h"
#include "check.h"

#define CKR_SESSION_HANDLE_INVALID 0xB3UL
#define PATIENCE 60 /* seconds, after which a process that hangs is killed */

static CK_FUNCTION_LIST_PTR p11;

static void *load(const char *path)
{
	CK_RV (*get_list)(CK_FUNCTION_LIST_PTR_PTR);
	void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);

	if (library == NULL) {
		fprintf(stderr, "%s\n", dlerror());
		_exit(1);
	}
	*(void **)&get_list = dlsym(library, "C_GetFunctionList");
	CHECK_RV(get_list(&p11), CKR_OK);
	return library;
}

/* Runs what in a forked child, which must end by itself and find nothing wrong. */
static void in_child(void (*what)(void))
{
	int status = -1;
	pid_t child = fork();

	if (child == 0) {
		alarm(PATIENCE);
		failures = 0;
		what();
		_exit(failures != 0);
	}
	CHECK(waitpid(child, &status, 0) == child);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void nothing_works_uninitialised(void)
{
	CK_INFO info;
	CK_ULONG n = 1;
	CK_BYTE byte = 0;

	CHECK_RV(p11->C_GetInfo(&info), CKR_CRYPTOKI_NOT_INITIALIZED);
	CHECK_RV(p11->C_GetSlotList(CK_FALSE, NULL, &n), CKR_CRYPTOKI_NOT_INITIALIZED);
	CHECK_RV(p11->C_OpenSession(0, CKF_SERIAL_SESSION, NULL, NULL, &n), CKR_CRYPTOKI_NOT_INITIALIZED);
	CHECK_RV(p11->C_Sign(1, &byte, 1, &byte, &n), CKR_CRYPTOKI_NOT_INITIALIZED);
	CHECK_RV(p11->C_CloseSession(1), CKR_CRYPTOKI_NOT_INITIALIZED);
	CHECK_RV(p11->C_DigestKey(1, 1), CKR_CRYPTOKI_NOT_INITIALIZED);
	CHECK_RV(p11->C_Finalize(NULL), CKR_CRYPTOKI_NOT_INITIALIZED);
}

static void module_works(void)
{
	CK_INFO info;
	CK_SLOT_INFO slot;
	CK_SLOT_ID first[64];
	CK_ULONG n = 0, many = 64;

	memset(&info, 0, sizeof info);
	CHECK_RV(p11->C_GetInfo(&info), CKR_OK);
	CHECK(info.cryptokiVersion.major == 3 && info.cryptokiVersion.minor == 2);
	CHECK(memchr(info.manufacturerID, 0, sizeof info.manufacturerID) == NULL);
	CHECK(info.libraryDescription[sizeof info.libraryDescription - 1] == ' ');
	CHECK_RV(p11->C_GetInfo(NULL), CKR_ARGUMENTS_BAD);
	CHECK_RV(p11->C_GetSlotList(CK_FALSE, NULL, &n), CKR_OK);
	CHECK(n >= 1 && n <= 64);
	CHECK_RV(p11->C_GetSlotList(CK_FALSE, first, &many), CKR_OK);
	CHECK(many == n);
	many = 0;
	CHECK_RV(p11->C_GetSlotList(CK_FALSE, first, &many), CKR_BUFFER_TOO_SMALL);
	CHECK(many == n);
	CHECK_RV(p11->C_GetSlotInfo(first[0], &slot), CKR_OK);
	CHECK(memchr(slot.slotDescription, 0, sizeof slot.slotDescription) == NULL);
	CHECK_RV(p11->C_CloseSession(12345), CKR_SESSION_HANDLE_INVALID);
	CHECK_RV(p11->C_GetFunctionStatus(12345), CKR_FUNCTION_NOT_PARALLEL);
}

static void grandchild_starts_anew(void)
{
	nothing_works_uninitialised();
	CHECK_RV(p11->C_Initialize(NULL), CKR_FUNCTION_FAILED);
	nothing_works_uninitialised();
}

static void child_starts_anew(void)
{
	CK_FUNCTION_LIST_PTR again = NULL;

	CHECK_RV(p11->C_GetFunctionList(&again), CKR_OK);
	CHECK(again == p11);
	grandchild_starts_anew();
	in_child(grandchild_starts_anew);
}

static atomic_bool busy;

static void *call_on(void *unused)
{
	CK_ULONG n;

	while (atomic_load(&busy))
		CHECK_RV(p11->C_GetSlotList(CK_FALSE, NULL, &n), CKR_OK);
	return unused;
}

static void forks_amid_calls_disturb_nobody(void)
{
	pthread_t threads[4];

	atomic_store(&busy, 1);
	for (int i = 0; i < 4; i++)
		CHECK(pthread_create(&threads[i], NULL, call_on, NULL) == 0);
	for (int i = 0; i < 50 && failures == 0; i++)
		in_child(child_starts_anew);
	atomic_store(&busy, 0);
	for (int i = 0; i < 4; i++)
		CHECK(pthread_join(threads[i], NULL) == 0);
}

/* The host's signals and environment, as they were before the module came. */
static struct sigaction handlers[NSIG];
static char *variables[1024];

static void remember_the_host(void)
{
	for (int signal = 1; signal < NSIG; signal++)
		sigaction(signal, NULL, &handlers[signal]);
	for (int i = 0; environ[i] != NULL && i < 1023; i++)
		variables[i] = strdup(environ[i]);
}

/* Go's runtime has handlers for faults, for writing to nobody, and for pausing its goroutines; nothing else is touched. */
static void the_host_is_as_it_was(void)
{
	static const int gos[] = {SIGSEGV, SIGBUS, SIGFPE, SIGPIPE, SIGURG};

	for (int signal = 1; signal < NSIG; signal++) {
		struct sigaction now;
		bool of_go = false;

		for (size_t i = 0; i < sizeof gos / sizeof *gos; i++)
			of_go = of_go || gos[i] == signal;
		if (sigaction(signal, NULL, &now) == 0 && !of_go && now.sa_handler != handlers[signal].sa_handler) {
			fprintf(stderr, "signal %d has another handler\n", signal);
			failures++;
		}
	}
	for (int i = 0; i < 1023 && (variables[i] != NULL || environ[i] != NULL); i++)
		CHECK(variables[i] != NULL && environ[i] != NULL && strcmp(variables[i], environ[i]) == 0);
}

int main(int argc, char **argv)
{
	void *library;

	if (argc != 2)
		return 2;
	remember_the_host();
	library = load(argv[1]);
	the_host_is_as_it_was();
	nothing_works_uninitialised();
	in_child(child_starts_anew);
	if (failures != 0)
		return 1;

	CHECK_RV(p11->C_Initialize(NULL), CKR_OK);
	CHECK_RV(p11->C_Initialize(NULL), CKR_CRYPTOKI_ALREADY_INITIALIZED);
	module_works();
	in_child(child_starts_anew);
	forks_amid_calls_disturb_nobody();
	module_works();
	CHECK_RV(p11->C_Finalize(NULL), CKR_OK);
	nothing_works_uninitialised();

	CHECK_RV(p11->C_Initialize(NULL), CKR_OK);
	module_works();
	CHECK_RV(p11->C_Finalize(NULL), CKR_OK);

	CHECK(dlclose(library) == 0);
	library = load(argv[1]);
	nothing_works_uninitialised();
	CHECK_RV(p11->C_Initialize(NULL), CKR_OK);
	module_works();
	in_child(child_starts_anew);
	CHECK_RV(p11->C_Finalize(NULL), CKR_OK);
	the_host_is_as_it_was();
	return failures != 0;
}
