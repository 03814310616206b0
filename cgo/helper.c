#include "helper.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "rights.h"
#include "stream.h"

#define HELPER_FD 3          /* of the socket in the helper */
#define STACK_SIZE (64 << 10) /* bytes, of each process that shares this one's memory until it becomes the helper */

/* This side of the socket through which connections are passed. The lock is held to use or change it, and over a fork. */
static struct descriptor control = NO_DESCRIPTOR;
static pthread_mutex_t control_lock = PTHREAD_MUTEX_INITIALIZER;

/* The rights that the helper was started with, by this process or by one that it was forked from. */
static struct rights rights;
static bool started, inherited;

/* What a process that becomes the helper needs. */
struct start {
	const struct settings *settings;
	int socket; /* the helper's side */
	sigset_t none;
	void *stack; /* of the second process, its upper end */
	volatile bool failed;
};

static void close_others(void)
{
	struct rlimit limit;
	int most = 65536;

#ifdef SYS_close_range
	if (syscall(SYS_close_range, HELPER_FD + 1, ~0U, 0) == 0)
		return;
#endif
	if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < (rlim_t)most)
		most = limit.rlim_cur;
	for (int fd = HELPER_FD + 1; fd < most; fd++)
		close(fd);
}

/* The second process: it becomes the helper. The host's handlers are not run in it, since signals are blocked until there are none. */
static int become_helper(void *argument)
{
	struct start *start = argument;
	char *const arguments[] = {"tpm2-p11", "serve", "--fd", "3", NULL};
	struct sigaction reset = {.sa_handler = SIG_DFL};
	int null;

	for (int signal = 1; signal < NSIG; signal++)
		sigaction(signal, &reset, NULL);
	if (start->socket == HELPER_FD)
		fcntl(HELPER_FD, F_SETFD, 0);
	else
		dup2(start->socket, HELPER_FD);
	null = open("/dev/null", O_RDWR);
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
		if (fd == STDERR_FILENO && strcmp(start->settings->log, "stderr") == 0)
			continue;
		if (null < 0)
			close(fd);
		else if (null != fd)
			dup2(null, fd);
	}
	close_others();
	setsid();
	if (chdir("/") == 0) {
		sigprocmask(SIG_SETMASK, &start->none, NULL);
		execve(start->settings->helper, arguments, start->settings->environment);
	}
	start->failed = true;
	_exit(127);
}

/* The first process: its child, the helper, is nobody's child once it ends. */
static int start_and_leave(void *argument)
{
	struct start *start = argument;

	if (clone(become_helper, start->stack, CLONE_VM | CLONE_VFORK | SIGCHLD, start) < 0)
		start->failed = true;
	_exit(0);
}

/* Runs the helper. The host sees no SIGCHLD, since the first process has no exit signal, and none of its own waits sees that process. */
static bool run_helper(const struct settings *settings, int socket)
{
	struct start start = {.settings = settings, .socket = socket};
	char *stacks = mmap(NULL, 2 * STACK_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
	sigset_t all, before;
	pid_t first;

	if (stacks == MAP_FAILED)
		return false;
	sigemptyset(&start.none);
	start.stack = stacks + STACK_SIZE;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	first = clone(start_and_leave, stacks + 2 * STACK_SIZE, CLONE_VM | CLONE_VFORK, &start);
	if (first > 0)
		while (waitpid(first, NULL, __WCLONE) < 0 && errno == EINTR)
			continue;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	munmap(stacks, 2 * STACK_SIZE);
	return first > 0 && !start.failed;
}

/* Starts a helper; the lock is held. NULL, or why it cannot be. */
static const char *start_helper(const struct settings *settings)
{
	struct descriptor theirs;
	struct rights own;
	int pair[2];
	bool runs;

	rights_now(&own);
	if (inherited && started && !rights_equal(&own, &rights))
		return "the helper was killed, and this process may not start one with the rights that it had: reload the server";
	if (settings->helper[0] == '\0')
		return "there is no helper, and no command to start one: set helper in the configuration";
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
		return "there is no helper, and no socket to start one";
	control = descriptor_take(pair[0]);
	theirs = descriptor_take(pair[1]);
	runs = control.fd >= 0 && theirs.fd >= 0 && run_helper(settings, theirs.fd);
	descriptor_close(&theirs);
	if (!runs) {
		descriptor_close(&control);
		return "there is no helper, and this process cannot start one";
	}
	rights = own;
	started = true;
	return NULL;
}

/* Whether there is a helper at the other end; the lock is held. */
static bool alive(void)
{
	struct pollfd socket = {.fd = control.fd};

	return descriptor_holds(&control) && poll(&socket, 1, 0) >= 0 && (socket.revents & (POLLHUP | POLLERR | POLLNVAL)) == 0;
}

static const char *ensure(const struct settings *settings)
{
	if (alive())
		return NULL;
	descriptor_close(&control);
	return start_helper(settings);
}

/* Passes one end of a connection to the helper. One that takes none, since it hangs or has very many to take, is not waited for here. */
static bool pass(int connection)
{
	struct { char name[4]; uint32_t version; } greeting = {{'t', 'p', '1', '1'}, STREAM_VERSION};
	union { struct cmsghdr header; char bytes[CMSG_SPACE(sizeof(int))]; } rights = {0};
	struct iovec part = {&greeting, sizeof greeting};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &rights, .msg_controllen = sizeof rights};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	ssize_t sent;

	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof connection);
	memcpy(CMSG_DATA(header), &connection, sizeof connection);
	do
		sent = sendmsg(control.fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
	while (sent < 0 && errno == EINTR);
	return sent == (ssize_t)sizeof greeting;
}

enum dialled helper_dial(const struct settings *settings, struct descriptor *connection, const char **why)
{
	enum dialled result = DIAL_AGAIN;
	struct descriptor theirs;
	int pair[2];

	*why = NULL;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
		return DIAL_AGAIN;
	*connection = descriptor_take(pair[0]);
	theirs = descriptor_take(pair[1]);
	pthread_mutex_lock(&control_lock);
	if ((*why = ensure(settings)) != NULL)
		result = DIAL_NEVER;
	else if (connection->fd >= 0 && theirs.fd >= 0 && pass(theirs.fd))
		result = DIALLED;
	pthread_mutex_unlock(&control_lock);
	descriptor_close(&theirs);
	if (result != DIALLED)
		descriptor_close(connection);
	return result;
}

void helper_release(void)
{
	pthread_mutex_lock(&control_lock);
	descriptor_close(&control);
	pthread_mutex_unlock(&control_lock);
}

void helper_before_fork(const struct settings *settings)
{
	pthread_mutex_lock(&control_lock);
	if (settings != NULL)
		ensure(settings);
}

void helper_after_fork_in_parent(void)
{
	pthread_mutex_unlock(&control_lock);
}

void helper_after_fork_in_child(void)
{
	control_lock = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
	inherited = true;
}
