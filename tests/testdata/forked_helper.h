/* What children see of the helper's death: it is killed, or stops, while they use the keys. */
#ifndef FORKED_HELPER_H
#define FORKED_HELPER_H

#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <time.h>

#include "forked.h"

#define CKR_USER_NOT_LOGGED_IN 0x101UL
#define CKU_USER 1UL

/* A worker that has given up its rights starts no helper in the stead of the one that had them. */
static void lose_the_helper(void)
{
	CK_SESSION_HANDLE session;
	CK_OBJECT_HANDLE private;

	become_nobody();
	use_keys(1);
	session = open_session();
	private = find(session, CKO_PRIVATE_KEY, "web");
	tell("kill everything\n");
	alarm(CALL_PATIENCE);
	for (int i = 0; i < 1000; i++)
		CHECK_RV(p11->C_SignInit(session, &ecdsa, private), CKR_DEVICE_REMOVED);
	CHECK_RV(p11->C_Finalize(NULL), CKR_OK);
	for (int i = 0; i < 1000; i++)
		CHECK_RV(p11->C_Initialize(NULL), CKR_FUNCTION_FAILED);
	tell("helpers?\n");
}

static void nobodys_work(void)
{
	become_nobody();
	work();
}

/* Its master starts one when it forks anew. */
static void recover_by_a_fork(void)
{
	await(start(lose_the_helper));
	await_all(nobodys_work, 4);
}

static int between[2]; /* a master and its worker */

/* A worker that was broken into shuts down the socket by which connections are passed, for all who have it, and stays. */
static void shut_the_socket_down(void)
{
	int kind, shut = 0;
	socklen_t size = sizeof kind;
	char done;

	use_keys(1);
	for (int fd = 3; fd < 1024; fd++) {
		if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &kind, &size) != 0 || kind != SOCK_SEQPACKET)
			continue;
		CHECK(shutdown(fd, SHUT_WR) == 0);
		CHECK(poll(&(struct pollfd){.fd = fd}, 1, 60000) == 1); /* the helper has taken note */
		shut++;
	}
	CHECK(shut == 1);
	CHECK(write(between[1], "x", 1) == 1 && read(between[1], &done, 1) == 1);
}

/* Its master's next fork brings the keys back to all others. */
static void recover_from_a_shutdown(void)
{
	pid_t broken;
	char done;

	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, between) == 0);
	broken = start(shut_the_socket_down);
	CHECK(read(between[0], &done, 1) == 1);
	await_all(nobodys_work, 4);
	CHECK(write(between[0], "x", 1) == 1);
	await(broken);
	close(between[0]);
	close(between[1]);
}

/* The helper dies between a C_SignInit and its C_Sign, in the midst of a search, and while many sign. */
static void outlive_the_helper(void)
{
	CK_SESSION_HANDLE session;
	CK_OBJECT_HANDLE private, public, found[4];
	CK_BYTE signature[P256_SIGNATURE];
	CK_ULONG n = sizeof signature, length;

	CHECK_RV(p11->C_Initialize(NULL), CKR_OK);
	session = open_session();
	private = find(session, CKO_PRIVATE_KEY, "web");
	public = find(session, CKO_PUBLIC_KEY, "web");
	CHECK_RV(p11->C_SignInit(session, &ecdsa, private), CKR_OK);
	CHECK_RV(p11->C_SignUpdate(session, message, 4), CKR_OK);
	CHECK_RV(p11->C_FindObjectsInit(session, NULL, 0), CKR_OK);
	CHECK_RV(p11->C_FindObjects(session, found, 1, &length), CKR_OK);
	tell("kill\n");
	alarm(CALL_PATIENCE);
	CHECK_RV(p11->C_SignUpdate(session, message + 4, sizeof message - 4), CKR_OK);
	CHECK_RV(p11->C_SignFinal(session, NULL, &n), CKR_OK);
	tell("kill\n");
	CHECK_RV(p11->C_SignFinal(session, signature, &n), CKR_OK);
	CHECK_RV(p11->C_SignFinal(session, signature, &n), CKR_OPERATION_NOT_INITIALIZED);
	CHECK_RV(p11->C_FindObjects(session, found + 1, 3, &length), CKR_OK);
	CHECK(length >= 1 && found[0] != found[1]);
	CHECK_RV(p11->C_FindObjectsFinal(session), CKR_OK);
	CHECK_RV(p11->C_VerifyInit(session, &ecdsa, public), CKR_OK);
	CHECK_RV(p11->C_Verify(session, message, sizeof message, signature, n), CKR_OK);
	tell("kill everything\n");
	sign_for(session, private, public, 3);
	CHECK_RV(p11->C_CloseSession(session), CKR_OK);
	CHECK_RV(p11->C_CloseSession(session), CKR_SESSION_HANDLE_INVALID);
}

static void stop_amid_calls(void)
{
	tell("stop the server\n");
	pause_a_second();
}

static void *is_told_in_time(void *unused)
{
	CK_SESSION_HANDLE session;
	CK_RV rv = p11->C_OpenSession(0, CKF_SERIAL_SESSION, NULL, NULL, &session);

	CHECK_RV(rv, CKR_DEVICE_REMOVED);
	return unused;
}

static void nothing(int signal) { (void)signal; }

/* Has this process get a signal a hundred times a second, which ends each wait in the system, as that of a profiler does. */
static timer_t interrupts(void)
{
	struct sigaction action = {.sa_handler = nothing, .sa_flags = SA_RESTART};
	struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
	const struct itimerspec often = {{0, 10 * 1000 * 1000}, {0, 10 * 1000 * 1000}};
	timer_t timer;

	CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
	CHECK(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0);
	CHECK(timer_settime(timer, 0, &often, NULL) == 0);
	return timer;
}

static void all_are_told_in_time(void)
{
	pthread_t threads[16]; /* one after another they would wait for two minutes */
	timer_t timer;

	alarm(CALL_PATIENCE);
	for (int i = 0; i < 16; i++)
		CHECK(pthread_create(&threads[i], NULL, is_told_in_time, NULL) == 0);
	for (int i = 0; i < 16; i++)
		CHECK(pthread_join(threads[i], NULL) == 0);
	timer = interrupts();
	alarm(CALL_PATIENCE);
	CHECK_RV(p11->C_GetSessionInfo(1, &(CK_SESSION_INFO){0}), CKR_DEVICE_REMOVED);
	alarm(WORKER_PATIENCE);
	CHECK(timer_delete(timer) == 0);
}

/* One of the helper's processes stops, as a debugger or an operator may have it, or both. No call hangs. */
static void outlive_a_stop(void)
{
	CK_SESSION_HANDLE session;
	CK_OBJECT_HANDLE private, public;

	CHECK_RV(p11->C_Initialize(NULL), CKR_OK);
	session = open_session();
	private = find(session, CKO_PRIVATE_KEY, "web");
	public = find(session, CKO_PUBLIC_KEY, "web");
	tell("stop the server\n");
	sign_for(session, private, public, 3);
	tell("stop the supervisor\n");
	sign_for(session, private, public, 3);
	with_threads(4, 0, stop_amid_calls);
	tell("two processes\n");
	tell("stop both\n");
	all_are_told_in_time();
	tell("continue\n");
	sign_for(session, private, public, 3);
}

/* The service is away for a moment, which is no longer for a host that gets signals than for others. */
static void outlive_a_restart(void)
{
	CK_SESSION_HANDLE session;
	CK_OBJECT_HANDLE private, public;
	timer_t timer;

	CHECK_RV(p11->C_Initialize(NULL), CKR_OK);
	session = open_session();
	private = find(session, CKO_PRIVATE_KEY, "web");
	public = find(session, CKO_PUBLIC_KEY, "web");
	timer = interrupts();
	tell("restart\n");
	sign_for(session, private, public, 1);
	CHECK(timer_delete(timer) == 0);
}

/* A request is sent twice at most: none may lose two helpers. */
static void lose_many_helpers(void)
{
	for (int i = 0; i < 6 && failures == 0; i++) {
		tell("kill\n");
		await_signatures(8);
	}
}

static void outlive_many_helpers(void)
{
	CHECK_RV(p11->C_Initialize(NULL), CKR_OK);
	with_threads(8, 0, lose_many_helpers);
}

/* A token with a PIN: after the helper's death the login is gone, and the next one brings the key back. */
static void log_in_again(void)
{
	static CK_UTF8CHAR pin[] = "123456";
	CK_SESSION_HANDLE session;
	CK_OBJECT_HANDLE private, public;
	CK_BYTE signature[P256_SIGNATURE];
	CK_ULONG n = sizeof signature;

	CHECK_RV(p11->C_Initialize(NULL), CKR_OK);
	session = open_session();
	CHECK_RV(p11->C_Login(session, CKU_USER, pin, sizeof pin - 1), CKR_OK);
	private = find(session, CKO_PRIVATE_KEY, "web");
	public = find(session, CKO_PUBLIC_KEY, "web");
	sign_for(session, private, public, 2);
	CHECK_RV(p11->C_SignInit(session, &ecdsa, private), CKR_OK);
	tell("kill\n");
	alarm(CALL_PATIENCE);
	CHECK_RV(p11->C_Sign(session, message, sizeof message, signature, &n), CKR_USER_NOT_LOGGED_IN);
	CHECK_RV(p11->C_SignInit(session, &ecdsa, private), CKR_USER_NOT_LOGGED_IN);
	CHECK_RV(p11->C_Login(session, CKU_USER, pin, sizeof pin - 1), CKR_OK);
	sign_for(session, private, public, 2);
}

#endif
