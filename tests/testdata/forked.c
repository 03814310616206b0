/* A server whose forked children use the keys, in one of the ways that servers have.
   Usage: forked /path/to/tpm2-p11.so SCENARIO [ARGUMENT]; the token has the key "web" (P-256). */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>

#include "forked.h"
#include "forked_helper.h"

#define CKR_TOKEN_WRITE_PROTECTED 0xE2UL
#define CKM_EC_KEY_PAIR_GEN 0x1040UL
#define CKF_RW_SESSION 2UL
#define CKA_EC_PARAMS 0x180UL
#define CKA_TOKEN 0x01UL

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

/* A worker whose helper cannot be started is told so at once. */
static void without_helper(void)
{
	alarm(CALL_PATIENCE);
	CHECK_RV(p11->C_Initialize(NULL), CKR_FUNCTION_FAILED);
	nothing_is_initialised();
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

static const char *jail;

/* As haproxy's workers are: without rights, files, processes. */
static void confine(void)
{
	const struct rlimit none = {0, 0};

	CHECK(chroot(jail) == 0 && chdir("/") == 0);
	become_nobody();
	CHECK(setrlimit(RLIMIT_NPROC, &none) == 0);
	CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
}

static void confined(void)
{
	confine();
	work();
}

static void confined_workers(void) { await_all(confined, 4); }

static void fork_often(void)
{
	for (int i = 0; i < 30 && failures == 0; i++)
		await(start(work));
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

static void confined_for_a_client(int times)
{
	confine();
	nothing_is_initialised();
	use_keys(times);
	CHECK_RV(p11->C_Finalize(NULL), CKR_OK);
}

static void confined_for_one_client(void) { confined_for_a_client(500); }
static void confined_among_sixteen(void) { confined_for_a_client(20); }

static void confined_for_seconds(void)
{
	confine();
	sign_for_seconds();
}

/* haproxy under load: clients one by one and at once, then a worker killed, the helper killed, and a reload. */
static void serve_as_haproxy(void)
{
	pid_t workers[4], doomed;
	int status = 0;

	await(start(confined_for_one_client));
	await_all(confined_among_sixteen, 16);
	for (int i = 0; i < 4; i++)
		workers[i] = start(confined_for_seconds);
	doomed = start(confined_for_seconds);
	pause_a_second();
	CHECK(kill(doomed, SIGKILL) == 0);
	CHECK(waitpid(doomed, &status, 0) == doomed && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	tell("kill\n");
	await_all(confined_for_seconds, 4);
	for (int i = 0; i < 4; i++)
		await(workers[i]);
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
	else if (is("haproxy"))
		serve_as_haproxy();
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
	else if (is("helper shut down"))
		recover_from_a_shutdown();
	else if (is("helper stops"))
		await(start(outlive_a_stop));
	else if (is("service restarts"))
		await(start(outlive_a_restart));
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
	if (is("bound deeply") || is("haproxy")) /* as OpenSSL 3's pkcs11 provider loads it */
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
