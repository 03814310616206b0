/* A server that signs and forks, idle and while its threads sign.
   Usage: fork /path/to/tpm2-p11.so; the token has the key "web" (P-256). */
#include <dirent.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/wait.h>

#include "host.h"

static CK_SESSION_HANDLE session;
static CK_OBJECT_HANDLE private, public;

static void child_finds_nothing_initialised(void)
{
	CK_BYTE signature[P256_SIGNATURE];
	CK_ULONG n = sizeof signature;
	CK_SESSION_HANDLE s;

	CHECK_RV(p11->C_SignInit(session, &ecdsa, private), CKR_CRYPTOKI_NOT_INITIALIZED);
	CHECK_RV(p11->C_Sign(session, message, sizeof message, signature, &n), CKR_CRYPTOKI_NOT_INITIALIZED);
	CHECK_RV(p11->C_GenerateRandom(session, signature, sizeof signature), CKR_CRYPTOKI_NOT_INITIALIZED);
	CHECK_RV(p11->C_OpenSession(0, CKF_SERIAL_SESSION, NULL, NULL, &s), CKR_CRYPTOKI_NOT_INITIALIZED);
	CHECK_RV(p11->C_CloseSession(session), CKR_CRYPTOKI_NOT_INITIALIZED);
	CHECK_RV(p11->C_Finalize(NULL), CKR_CRYPTOKI_NOT_INITIALIZED);
}

/* Forks a child that must end by itself, in the way that programs do, and find nothing wrong. */
static void serve_by_a_child(void)
{
	int status = -1;
	pid_t child = fork();

	if (child == 0) {
		alarm(CALL_PATIENCE);
		failures = 0;
		child_finds_nothing_initialised();
		exit(failures != 0);
	}
	CHECK(waitpid(child, &status, 0) == child);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* Another program inherits no way to the TPM. */
static void run_another_program(const char *self)
{
	int status = -1;
	pid_t child = fork();

	if (child == 0) {
		execl(self, self, (char *)NULL);
		_exit(127);
	}
	CHECK(waitpid(child, &status, 0) == child);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static int has_sockets(void)
{
	char target[64], path[300];
	DIR *open = opendir("/proc/self/fd");
	int found = 0;

	for (struct dirent *entry; (entry = readdir(open)) != NULL;) {
		ssize_t n;

		snprintf(path, sizeof path, "/proc/self/fd/%s", entry->d_name);
		n = readlink(path, target, sizeof target - 1);
		if (n >= 7 && memcmp(target, "socket:", 7) == 0)
			found = 1;
	}
	closedir(open);
	return found;
}

static atomic_bool busy = 1;

static void *sign_on(void *unused)
{
	CK_SESSION_HANDLE own = open_session();

	while (atomic_load(&busy))
		sign(own, private, public);
	CHECK_RV(p11->C_CloseSession(own), CKR_OK);
	return unused;
}

int main(int argc, char **argv)
{
	pthread_t threads[3];

	if (argc != 2)
		return has_sockets();
	load(argv[1]);
	serve_by_a_child();
	CHECK_RV(p11->C_Initialize(NULL), CKR_OK);
	session = open_session();
	private = find(session, CKO_PRIVATE_KEY, "web");
	public = find(session, CKO_PUBLIC_KEY, "web");
	for (int i = 0; i < 20 && failures == 0; i++) {
		/* The TPM's socket: the next child is one of a parent that is connected, which it is for a second after a signature. */
		for (int tries = 0; tries == 0 || (!has_sockets() && tries < 20 && failures == 0); tries++)
			sign(session, private, public);
		CHECK(has_sockets());
		serve_by_a_child();
		run_another_program(argv[0]);
	}
	for (int i = 0; i < 3; i++)
		CHECK(pthread_create(&threads[i], NULL, sign_on, NULL) == 0);
	for (int i = 0; i < 50 && failures == 0; i++)
		serve_by_a_child();
	atomic_store(&busy, 0);
	for (int i = 0; i < 3; i++)
		CHECK(pthread_join(threads[i], NULL) == 0);
	sign(session, private, public);
	CHECK_RV(p11->C_Finalize(NULL), CKR_OK);
	serve_by_a_child();
	return failures != 0;
}
