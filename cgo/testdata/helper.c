/* A host that forks, and its helper, which is this program too: started, killed, refused, started anew. Its C_CloseSession answers with
   its process. Built with the address and undefined behaviour sanitizers.
   Usage: helper /path/of/a/log */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../call.h"
#include "../stream.h"
#include "check.h"

#define CONTROL 3
#define MOST 16
#define NOBODY 65534

void tpm2p11Dispatch(void *bytes, size_t length, void **response, size_t *response_length);
void tpm2p11Release(void);
void tpm2p11Settings(char *module, void **settings, size_t *length);
void tpm2p11Hold(int helped);
void tpm2p11Resume(void);

static char *path;

void tpm2p11Release(void) {}
void tpm2p11Hold(int helped) { (void)helped; }
void tpm2p11Resume(void) {}

/* All goes well in this process. */
void tpm2p11Dispatch(void *bytes, size_t length, void **response, size_t *response_length)
{
	(void)bytes, (void)length;
	*response_length = sizeof(uint64_t);
	*response = calloc(1, *response_length);
}

void tpm2p11Settings(char *module, void **settings, size_t *length)
{
	char text[600], self[256];
	ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);

	(void)module;
	CHECK(n > 0);
	self[n > 0 ? n : 0] = '\0';
	*length = 1 + sprintf(text, "%c%s%cfile:%s%cHELPED=1", 0, self, 0, path, 0);
	*settings = malloc(*length);
	memcpy(*settings, text, *length);
}

/* The helper. */

static int taken(int control)
{
	union { struct cmsghdr header; char bytes[CMSG_SPACE(sizeof(int))]; } rights;
	char greeting[8];
	struct iovec part = {greeting, sizeof greeting};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &rights, .msg_controllen = sizeof rights};
	int connection;

	if (recvmsg(control, &message, MSG_CMSG_CLOEXEC) != sizeof greeting || memcmp(greeting, "tp11", 4) != 0)
		return -1;
	memcpy(&connection, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof connection);
	return connection;
}

static int answered(int connection)
{
	struct { uint32_t length, version; uint64_t id; uint64_t rv; } out = {8, STREAM_VERSION, 0, CKR_OK};
	struct { uint32_t length, version; uint64_t id; } header;
	unsigned char message[4096];
	uint32_t number;

	if (recv(connection, &header, sizeof header, MSG_WAITALL) != sizeof header || header.length > sizeof message ||
	    recv(connection, message, header.length, MSG_WAITALL) != (ssize_t)header.length)
		return 0;
	memcpy(&number, message, sizeof number);
	out.id = header.id;
	if (number == CALL_C_CloseSession)
		out.rv = getpid();
	return send(connection, &out, 24, MSG_NOSIGNAL) == 24;
}

static int help(void)
{
	struct pollfd sockets[1 + MOST] = {{.fd = CONTROL, .events = POLLIN}};
	sigset_t blocked;

	/* What a host's helper must find: nothing of the host's. */
	sigprocmask(SIG_SETMASK, NULL, &blocked);
	if (getenv("HELPED") == NULL || !sigisemptyset(&blocked) || fcntl(CONTROL + 1, F_GETFD) >= 0 || getsid(0) != getpid())
		return 1;
	for (int i = 1; i <= MOST; i++)
		sockets[i] = (struct pollfd){.fd = -1, .events = POLLIN};
	while (poll(sockets, 1 + MOST, -1) > 0) {
		if (sockets[0].revents != 0) {
			int connection = taken(CONTROL), i = 1;

			if (connection < 0)
				return 0;
			while (i < MOST && sockets[i].fd >= 0)
				i++;
			sockets[i].fd = connection;
			sockets[i].revents = 0;
		}
		for (int i = 1; i <= MOST; i++)
			if (sockets[i].fd >= 0 && sockets[i].revents != 0 && !answered(sockets[i].fd)) {
				close(sockets[i].fd);
				sockets[i].fd = -1;
			}
	}
	return 1;
}

/* The host. */

static void in_child(void (*what)(void))
{
	int status = -1;
	pid_t child = fork();

	if (child == 0) {
		alarm(60);
		failures = 0;
		what();
		_exit(failures != 0);
	}
	while (waitpid(child, &status, 0) < 0 && errno == EINTR)
		continue;
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static pid_t helper(void) { return C_CloseSession(1); }

static void kill_the_helper(void)
{
	pid_t pid = helper();

	CHECK(pid > 1 && kill(pid, SIGKILL) == 0);
}

static pid_t first;

static void is_helped(void)
{
	CHECK_RV(C_CloseSession(1), CKR_CRYPTOKI_NOT_INITIALIZED);
	CHECK_RV(C_Initialize(NULL), CKR_OK);
	CHECK(helper() > 1 && helper() == helper());
	CHECK(kill(helper(), 0) == 0);
	CHECK_RV(C_Finalize(NULL), CKR_OK);
}

/* With the same rights, a child starts another one. */
static void replaces_the_helper(void)
{
	CHECK_RV(C_Initialize(NULL), CKR_OK);
	first = helper();
	kill_the_helper();
	CHECK(helper() > 1 && helper() != first);
	CHECK_RV(C_Finalize(NULL), CKR_OK);
	in_child(is_helped);
}

/* With others, it says why not, once. */
static void loses_the_helper(void)
{
	CHECK_RV(C_Initialize(NULL), CKR_OK);
	kill_the_helper();
	CHECK(setgroups(0, NULL) == 0 && setgid(NOBODY) == 0 && setuid(NOBODY) == 0);
	for (int i = 0; i < 3; i++)
		CHECK_RV(C_CloseSession(1), CKR_DEVICE_REMOVED);
	CHECK_RV(C_Finalize(NULL), CKR_OK);
	for (int i = 0; i < 3; i++)
		CHECK_RV(C_Initialize(NULL), CKR_FUNCTION_FAILED);
}

static atomic_bool busy;

/* A thread of the host's that asks for the time on and on, as one that writes a log does: when the host forks, the C library's lock for
   that may be held, and nobody in the child will ever release it. */
static void *ask_for_the_time(void *unused)
{
	while (atomic_load(&busy)) {
		time_t now = time(NULL);
		struct tm local;

		CHECK(localtime_r(&now, &local) != NULL);
	}
	return unused;
}

static void lose_helpers_amid(void *(*what)(void *), int times)
{
	pthread_t thread;

	atomic_store(&busy, 1);
	CHECK(pthread_create(&thread, NULL, what, NULL) == 0);
	for (int i = 0; i < times; i++)
		in_child(loses_the_helper);
	atomic_store(&busy, 0);
	CHECK(pthread_join(thread, NULL) == 0);
}

/* A thread that is cancelled as soon as it may be. */
static void *fork_when_cancelled(void *child)
{
	pthread_cancel(pthread_self());
	*(pid_t *)child = fork();
	if (*(pid_t *)child == 0)
		_exit(0);
	pthread_testcancel();
	return NULL;
}

static void a_cancelled_thread_takes_nothing_along(void)
{
	pthread_t thread;
	pid_t child = -1;
	void *end = NULL;

	CHECK(pthread_create(&thread, NULL, fork_when_cancelled, &child) == 0);
	CHECK(pthread_join(thread, &end) == 0 && end == PTHREAD_CANCELED);
	CHECK(child > 0 && waitpid(child, NULL, 0) == child);
	in_child(is_helped);
}

static int lines(const char *text)
{
	char line[1024];
	FILE *log = fopen(path, "r");
	int n = 0;

	while (fgets(line, sizeof line, log) != NULL)
		n += strstr(line, text) != NULL;
	fclose(log);
	return n;
}

int main(int argc, char **argv)
{
	sigset_t some;

	if (argc == 4 && strcmp(argv[1], "serve") == 0)
		return help();
	if (argc != 2)
		return 2;
	path = argv[1];
	fclose(fopen(path, "w"));
	CHECK(chmod(path, 0666) == 0);
	sigemptyset(&some);
	sigaddset(&some, SIGUSR1);
	sigprocmask(SIG_BLOCK, &some, NULL);
	alarm(240);
	CHECK_RV(C_Initialize(NULL), CKR_OK);
	for (int i = 0; i < 20; i++)
		in_child(is_helped);
	in_child(replaces_the_helper);
	in_child(is_helped);
	in_child(loses_the_helper);
	CHECK(lines("may not start one with the rights that it had") == 1 && lines("\n") == 1);
	lose_helpers_amid(ask_for_the_time, 20);
	CHECK(lines("\n") == 21);
	a_cancelled_thread_takes_nothing_along();
	in_child(is_helped);
	CHECK(waitpid(-1, NULL, WNOHANG | __WALL) == -1 && errno == ECHILD);
	CHECK_RV(C_Finalize(NULL), CKR_OK);
	return failures != 0;
}
