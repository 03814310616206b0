/* A server whose forked children use the keys, in one of the ways that servers have.
   Usage: forked /path/to/tpm2-p11.so SCENARIO [ARGUMENT]; the token has the key "web" (P-256). */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>

#include "host.h"

#define CKR_USER_NOT_LOGGED_IN 0x101UL
#define CKR_TOKEN_WRITE_PROTECTED 0xE2UL
#define CKM_EC_KEY_PAIR_GEN 0x1040UL
#define CKF_RW_SESSION 2UL
#define CKA_EC_PARAMS 0x180UL
#define CKA_TOKEN 0x01UL
#define CKU_USER 1UL
#define WORKER_PATIENCE 60 /* seconds for all that a child does; each call has CALL_PATIENCE */

static atomic_int signals_of_children;

static void count_signal(int signal)
{
	(void)signal;
	atomic_fetch_add(&signals_of_children, 1);
}

static int descriptors(void)
{
	DIR *open = opendir("/proc/self/fd");
	int n = 0;

	while (readdir(open) != NULL)
		n++;
	closedir(open);
	return n;
}

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

/* A worker whose helper cannot be started is told so at once. */
static void without_helper(void)
{
	alarm(CALL_PATIENCE);
	CHECK_RV(p11->C_Initialize(NULL), CKR_FUNCTION_FAILED);
	nothing_is_initialised();
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

static void four_workers(void) { await_all(work, 4); }

/* How many descriptors a process has that has let go of the TPM, as it does when it forks. */
static int descriptors_at_rest(void)
{
	await(start(nothing_is_initialised));
	return descriptors();
}

/* Whoever forks has as many descriptors as before, and no child that it does not know of, a zombie neither. */
static void is_undisturbed(int before)
{
	CHECK(descriptors_at_rest() <= before);
	CHECK(waitpid(-1, NULL, WNOHANG | __WALL) == -1 && errno == ECHILD);
	CHECK(atomic_load(&signals_of_children) <= children);
}

/* A master that has left its terminal. */
static void daemonised(void)
{
	int before;

	setsid();
	four_workers();
	work();
	before = descriptors_at_rest();
	four_workers();
	is_undisturbed(before);
}

static void close_everything(void)
{
	for (int fd = 3; fd < 1024; fd++)
		close(fd);
}

/* As daemons once did: and what the numbers meant is soon something else. */
static void master_that_closed_everything(void)
{
	int pair[2];

	close_everything();
	for (int i = 0; i < 4; i++)
		CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) == 0);
	four_workers();
	CHECK(write(pair[0], "x", 1) == 1); /* nobody closed it */
}

/* A worker whose host closes everything while it works. */
static void worker_that_closes_everything(void)
{
	CK_SESSION_HANDLE session;
	CK_OBJECT_HANDLE private, public;

	CHECK_RV(p11->C_Initialize(NULL), CKR_OK);
	session = open_session();
	private = find(session, CKO_PRIVATE_KEY, "web");
	public = find(session, CKO_PUBLIC_KEY, "web");
	sign_for(session, private, public, 2);
	close_everything();
	for (int i = 0; i < 8; i++)
		CHECK(open("/dev/null", O_RDWR) >= 0);
	sign_for(session, private, public, 2);
}

static void become_nobody(void)
{
	CHECK(setgroups(0, NULL) == 0 && setgid(65534) == 0 && setuid(65534) == 0);
}

static const char *jail;

/* As haproxy's workers are: without rights, files, processes. */
static void confined(void)
{
	const struct rlimit none = {0, 0};

	CHECK(chroot(jail) == 0 && chdir("/") == 0);
	become_nobody();
	CHECK(setrlimit(RLIMIT_NPROC, &none) == 0);
	CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
	work();
}

static void confined_workers(void) { await_all(confined, 4); }

static atomic_bool busy;

static void *sign_on(void *unused)
{
	CK_SESSION_HANDLE own = open_session();
	CK_OBJECT_HANDLE private = find(own, CKO_PRIVATE_KEY, "web"), public = find(own, CKO_PUBLIC_KEY, "web");

	while (atomic_load(&busy) && failures == 0)
		sign(own, private, public);
	CHECK_RV(p11->C_CloseSession(own), CKR_OK);
	return unused;
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
		CHECK(pthread_create(&threads[i], &attributes, sign_on, NULL) == 0);
	what();
	atomic_store(&busy, 0);
	for (int i = 0; i < n; i++)
		CHECK(pthread_join(threads[i], NULL) == 0);
}

static void fork_often(void)
{
	for (int i = 0; i < 30 && failures == 0; i++)
		await(start(work));
}

static void pause_a_second(void)
{
	struct timespec second = {1, 0};

	while (nanosleep(&second, &second) != 0)
		continue;
}

/* Many threads, with small stacks and all signals blocked, in a process that forks. */
static void with_small_threads(void)
{
	sigset_t all, before;

	sigfillset(&all);
	sigdelset(&all, SIGALRM);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	with_threads(16, 64 << 10, four_workers);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void threaded(void)
{
	use_keys(1);
	with_small_threads();
}

static void only_uses_keys(void)
{
	CK_BBOOL yes = CK_TRUE;
	static CK_BYTE p256[] = {6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7};
	CK_ATTRIBUTE public[] = {{CKA_TOKEN, &yes, 1}, {CKA_EC_PARAMS, p256, sizeof p256}}, private[] = {{CKA_TOKEN, &yes, 1}, {CKA_LABEL, "new", 3}};
	CK_MECHANISM generate = {CKM_EC_KEY_PAIR_GEN, NULL, 0};
	CK_SESSION_HANDLE session = 0;
	CK_OBJECT_HANDLE one, other;
	CK_RV want = getenv("ALLOWED") != NULL ? CKR_OK : CKR_TOKEN_WRITE_PROTECTED;

	use_keys(1);
	CHECK_RV(p11->C_OpenSession(0, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &session), CKR_OK);
	CHECK_RV(p11->C_GenerateKeyPair(session, &generate, public, 2, private, 2, &one, &other), want);
	if (want == CKR_OK)
		CHECK_RV(p11->C_DestroyObject(session, other), CKR_OK);
	else
		CHECK_RV(p11->C_DestroyObject(session, find(session, CKO_PRIVATE_KEY, "web")), want);
}

/* Writes a line to whoever runs this, and waits for the answer. */
static void tell(const char *line)
{
	char answer;

	CHECK(write(STDOUT_FILENO, line, strlen(line)) == (ssize_t)strlen(line));
	CHECK(read(STDIN_FILENO, &answer, 1) == 1);
}

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

static void all_are_told_in_time(void)
{
	pthread_t threads[4];

	alarm(CALL_PATIENCE);
	for (int i = 0; i < 4; i++)
		CHECK(pthread_create(&threads[i], NULL, is_told_in_time, NULL) == 0);
	for (int i = 0; i < 4; i++)
		CHECK(pthread_join(threads[i], NULL) == 0);
	alarm(CALL_PATIENCE);
	CHECK_RV(p11->C_GetSessionInfo(1, &(CK_SESSION_INFO){0}), CKR_DEVICE_REMOVED);
	alarm(WORKER_PATIENCE);
}

/* One of the helper's processes stops, as a debugger or an operator may have it, or both. A call takes CALL_PATIENCE at most. */
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

static void sign_meanwhile(void) { tell("kill often\n"); }

static void outlive_many_helpers(void)
{
	CHECK_RV(p11->C_Initialize(NULL), CKR_OK);
	with_threads(8, 0, sign_meanwhile);
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

static char **command; /* that this program was started by */

static void sign_for_seconds(void)
{
	CK_SESSION_HANDLE session;
	CK_OBJECT_HANDLE private, public;

	CHECK_RV(p11->C_Initialize(NULL), CKR_OK);
	session = open_session();
	private = find(session, CKO_PRIVATE_KEY, "web");
	public = find(session, CKO_PUBLIC_KEY, "web");
	for (time_t end = time(NULL) + 3; time(NULL) < end && failures == 0;)
		sign_for(session, private, public, 1);
}

/* The program anew, which knows nothing of what this one has loaded. */
static void execute(char *as)
{
	command[2] = as;
	execv("/proc/self/exe", command);
	CHECK(!"executed");
}

static void be_the_next_master(void) { execute("workers"); }

/* An upgrade while it serves, as nginx does it: another master beside this one, and workers of both. */
static void upgraded(void)
{
	pid_t old = start(sign_for_seconds);

	await(start(be_the_next_master));
	four_workers();
	await(old);
}

/* A restart as haproxy's master does it: it becomes the next one, and has the workers of the one before. */
static void replaced(void)
{
	start(sign_for_seconds);
	start(sign_for_seconds);
	pause_a_second();
	CHECK(failures == 0);
	execute("replacement");
}

static void with_the_workers_of_another(void)
{
	four_workers();
	for (int i = 0; i < 2; i++, children++)
		await(-1);
}

static const char *scenario;

static int is(const char *name) { return strcmp(scenario, name) == 0; }

/* What a master does that has C_Initialize behind it. */
static void serve(void)
{
	if (is("many")) {
		for (int i = 0; i < 500 && failures == 0; i++)
			await(start(i % 5 == 0 ? work : nothing_is_initialised));
	} else if (is("workers") || is("bound deeply"))
		four_workers();
	else if (is("grandchildren"))
		await(start(daemonised));
	else if (is("closed"))
		await(start(master_that_closed_everything));
	else if (is("closing"))
		await(start(worker_that_closes_everything));
	else if (is("confined"))
		confined_workers();
	else if (is("confined grandchildren"))
		await(start(confined_workers));
	else if (is("helpless"))
		await(start(without_helper));
	else if (is("amid"))
		with_threads(3, 0, fork_often);
	else if (is("threaded"))
		await(start(threaded));
	else if (is("threaded master"))
		with_small_threads();
	else if (is("rights"))
		await(start(only_uses_keys));
	else if (is("helper dies"))
		await(start(outlive_the_helper));
	else if (is("upgraded"))
		upgraded();
	else if (is("replaced"))
		replaced();
	else if (is("replacement"))
		with_the_workers_of_another();
	else if (is("helper lost"))
		recover_by_a_fork();
	else if (is("helper stops"))
		await(start(outlive_a_stop));
	else if (is("helpers die"))
		await(start(outlive_many_helpers));
	else if (is("pin"))
		await(start(log_in_again));
	else
		CHECK(!"a scenario");
}

int main(int argc, char **argv)
{
	struct sigaction count = {.sa_handler = count_signal}, reset = {.sa_handler = SIG_DFL};
	int pin;

	if (argc < 3)
		return 2;
	command = argv;
	scenario = argv[2];
	jail = argc > 3 ? argv[3] : "/";
	pin = is("pin");
	CHECK(open(argv[0], O_RDONLY) >= 0); /* a file of the server's */
	if (is("bound deeply")) /* as OpenSSL 3's pkcs11 provider loads it */
		CHECK(dlopen(argv[1], RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND) != NULL);
	load(argv[1]);
	alarm(2 * WORKER_PATIENCE);
	if (is("loaded")) { /* nobody but the children uses Cryptoki */
		four_workers();
		await(start(four_workers));
		return failures != 0;
	}
	CHECK_RV(p11->C_Initialize(NULL), CKR_OK);
	if (!pin) {
		CK_SESSION_HANDLE session = open_session();

		sign(session, find(session, CKO_PRIVATE_KEY, "web"), find(session, CKO_PUBLIC_KEY, "web"));
		CHECK_RV(p11->C_CloseSession(session), CKR_OK);
	}
	sigaction(SIGCHLD, &count, NULL);
	if (is("daemon")) {
		/* The first process ends, as daemon(3)'s does, and what it began goes on. */
		if (fork() != 0)
			exit(failures != 0);
		sigaction(SIGCHLD, &reset, NULL);
		alarm(2 * WORKER_PATIENCE);
		daemonised();
		pause_a_second();
		four_workers();
		tell(failures == 0 ? "fine\n" : "failed\n");
		return failures != 0;
	}
	if (is("nobody forks"))
		pause_a_second();
	else if (!is("idle")) {
		int before = descriptors_at_rest();

		serve();
		is_undisturbed(before);
	}
	if (is("idle")) {
		/* A helper is no child that the host could see. */
		pid_t child = start(nothing_is_initialised);

		await(child);
		CHECK(atomic_load(&signals_of_children) == 1);
		CHECK(waitpid(-1, NULL, WNOHANG | __WALL) == -1 && errno == ECHILD);
		tell("helpers?\n");
	}
	if (!pin) {
		CK_SESSION_HANDLE session = open_session();

		sign(session, find(session, CKO_PRIVATE_KEY, "web"), find(session, CKO_PUBLIC_KEY, "web"));
	}
	CHECK_RV(p11->C_Finalize(NULL), CKR_OK);
	return failures != 0;
}
