/* What hosts that fork share, and their children: how they sign, start, wait, and tell. */
#ifndef FORKED_H
#define FORKED_H

#include <errno.h>
#include <grp.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <time.h>

#include "host.h"

#define WORKER_PATIENCE 240 /* seconds for all that a child does; each call has CALL_PATIENCE */

/* Signs on, each call within CALL_PATIENCE. */
static void sign_for(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE private, CK_OBJECT_HANDLE public, int times)
{
	for (int i = 0; i < times && failures == 0; i++) {
		alarm(CALL_PATIENCE);
		sign(session, private, public);
	}
	alarm(WORKER_PATIENCE);
}

static void use_keys(int times)
{
	CK_SESSION_HANDLE session;
	CK_OBJECT_HANDLE private, public;

	alarm(CALL_PATIENCE);
	CHECK_RV(p11->C_Initialize(NULL), CKR_OK);
	if (failures != 0)
		return;
	session = open_session();
	private = find(session, CKO_PRIVATE_KEY, "web");
	public = find(session, CKO_PUBLIC_KEY, "web");
	sign_for(session, private, public, times);
}

static void nothing_is_initialised(void)
{
	CK_SESSION_HANDLE session;

	CHECK_RV(p11->C_OpenSession(0, CKF_SERIAL_SESSION, NULL, NULL, &session), CKR_CRYPTOKI_NOT_INITIALIZED);
	CHECK_RV(p11->C_Finalize(NULL), CKR_CRYPTOKI_NOT_INITIALIZED);
}

/* What a worker does. */
static void work(void)
{
	nothing_is_initialised();
	use_keys(3);
	CHECK_RV(p11->C_Initialize(NULL), CKR_CRYPTOKI_ALREADY_INITIALIZED);
	CHECK_RV(p11->C_Finalize(NULL), CKR_OK);
	nothing_is_initialised();
	use_keys(1);
}

static int children; /* that this process has started */

static pid_t start(void (*what)(void))
{
	pid_t child = fork();

	children += child > 0;

	if (child == 0) {
		signal(SIGCHLD, SIG_DFL);
		alarm(WORKER_PATIENCE);
		failures = 0;
		what();
		exit(failures != 0);
	}
	CHECK(child > 0);
	return child;
}

static void await(pid_t child)
{
	int status = -1;

	while (waitpid(child, &status, 0) < 0 && errno == EINTR)
		continue;
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void await_all(void (*what)(void), int workers)
{
	pid_t children[64];

	for (int i = 0; i < workers; i++)
		children[i] = start(what);
	for (int i = 0; i < workers; i++)
		await(children[i]);
}

static void become_nobody(void)
{
	CHECK(setgroups(0, NULL) == 0 && setgid(65534) == 0 && setuid(65534) == 0);
}

static atomic_bool busy;
static atomic_int signed_by[16]; /* signatures of each thread */

static void *sign_on(void *signatures)
{
	CK_SESSION_HANDLE own = open_session();
	CK_OBJECT_HANDLE private = find(own, CKO_PRIVATE_KEY, "web"), public = find(own, CKO_PUBLIC_KEY, "web");

	while (atomic_load(&busy) && failures == 0) {
		sign(own, private, public);
		atomic_fetch_add((atomic_int *)signatures, 1);
	}
	CHECK_RV(p11->C_CloseSession(own), CKR_OK);
	return NULL;
}

static void with_threads(int n, size_t stack, void (*what)(void))
{
	pthread_t threads[16];
	pthread_attr_t attributes;

	pthread_attr_init(&attributes);
	if (stack != 0)
		CHECK(pthread_attr_setstacksize(&attributes, stack) == 0);
	atomic_store(&busy, 1);
	for (int i = 0; i < n; i++)
		CHECK(pthread_create(&threads[i], &attributes, sign_on, &signed_by[i]) == 0);
	what();
	atomic_store(&busy, 0);
	for (int i = 0; i < n; i++)
		CHECK(pthread_join(threads[i], NULL) == 0);
}

/* Waits until each of n threads has ended the signature that it is at, and made another one. */
static void await_signatures(int n)
{
	for (int i = 0; i < n; i++)
		for (int before = atomic_load(&signed_by[i]); atomic_load(&signed_by[i]) < before + 2 && failures == 0;)
			usleep(1000);
}

static void pause_a_second(void)
{
	struct timespec second = {1, 0};

	while (nanosleep(&second, &second) != 0)
		continue;
}

/* Writes a line to whoever runs this, and waits for the answer. */
static void tell(const char *line)
{
	char answer;

	CHECK(write(STDOUT_FILENO, line, strlen(line)) == (ssize_t)strlen(line));
	CHECK(read(STDIN_FILENO, &answer, 1) == 1);
}

#endif
