/* Calls that another process answers, which is played here by a thread: answers in any order, broken answers, connections that end,
   and what is opened again over the next one. Built with the address and undefined behaviour sanitizers.
   Usage: remote /path/of/a/socket */
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "../call.h"
#include "../stream.h"
#include "check.h"

#define CKF_SESSION 4UL
#define HANDLE 7UL

void tpm2p11Dispatch(void *bytes, size_t length, void **response, size_t *response_length);
void tpm2p11Release(void);
void tpm2p11Settings(char *module, void **settings, size_t *length);
void tpm2p11Hold(int helped);
void tpm2p11Resume(void);

static const char *path;

/* Nothing is answered in this process. */
void tpm2p11Dispatch(void *bytes, size_t length, void **response, size_t *response_length)
{
	(void)bytes, (void)length, (void)response_length;
	*response = NULL;
	CHECK(!"in process");
}

void tpm2p11Release(void) {}
void tpm2p11Hold(int helped) { (void)helped; }
void tpm2p11Resume(void) {}

void tpm2p11Settings(char *module, void **settings, size_t *length)
{
	char text[600];

	(void)module;
	*length = sprintf(text, "%s%c%cfile:%s.log%c", path, 0, 0, path, 0);
	*settings = malloc(*length);
	memcpy(*settings, text, *length);
}

/* How many lines of the log say something. */
static int lines(const char *something)
{
	char line[1024], log_path[512];
	FILE *log;
	int n = 0;

	sprintf(log_path, "%s.log", path);
	log = fopen(log_path, "a+");
	while (fgets(line, sizeof line, log) != NULL)
		n += strstr(line, something) != NULL;
	fclose(log);
	return n;
}

/* What the player does with the next request that is not a greeting. */
enum prank { NONE, HANG_UP, HALF, LONG, FOREIGN, STRANGER, SHORT, SILENCE, LONG_WORK, DEAF, FOREIGN_GREETING, NO_GREETING };
static _Atomic enum prank prank;
static atomic_int greetings, sign_inits, signs, logins;
static _Atomic uint64_t resumed; /* sessions of the last greeting */

struct frame {
	uint32_t length, version;
	uint64_t id;
	unsigned char message[1 << 20];
};

static int get(int fd, void *to, size_t n)
{
	for (ssize_t got; n > 0; n -= got, to = (char *)to + got)
		if ((got = recv(fd, to, n, 0)) <= 0)
			return 0;
	return 1;
}

static int get_frame(int fd, struct frame *f)
{
	enum prank deaf = DEAF;

	if (!get(fd, f, 16))
		return 0;
	/* It takes nothing more until the other side has left. */
	if (atomic_compare_exchange_strong(&prank, &deaf, NONE)) {
		while (poll(&(struct pollfd){.fd = fd, .events = POLLRDHUP}, 1, -1) != 1)
			continue;
		return 0;
	}
	return f->length <= sizeof f->message && get(fd, f->message, f->length);
}

static void give(int fd, uint32_t length, uint32_t version, uint64_t id, const void *message, size_t n)
{
	struct { uint32_t length, version; uint64_t id; unsigned char message[64]; } f = {length, version, id, {0}};

	memcpy(f.message, message, n);
	CHECK(send(fd, &f, 16 + n, MSG_NOSIGNAL) >= 0 || prank != NONE);
}

static void give_numbers(int fd, uint64_t id, CK_RV rv, uint64_t output, int outputs)
{
	uint64_t numbers[2] = {rv, output};

	give(fd, 8 + 8 * outputs, STREAM_VERSION, id, numbers, 8 + 8 * outputs);
}

/* Plays the prank on a request; false if the connection is over. */
static int play(int fd, const struct frame *f)
{
	switch (atomic_exchange(&prank, NONE)) {
	case HANG_UP:
		return 0;
	case HALF:
		give(fd, 100, STREAM_VERSION, f->id, "half", 4);
		return 0;
	case LONG:
		give(fd, ~0U, STREAM_VERSION, f->id, "long", 4);
		return 1;
	case FOREIGN:
		give(fd, 8, 99, f->id, "12345678", 8);
		return 1;
	case STRANGER:
		give(fd, 8, STREAM_VERSION, f->id + 1000, "12345678", 8);
		return 1;
	case SHORT:
		give(fd, 3, STREAM_VERSION, f->id, "123", 3);
		return 1;
	case SILENCE:
		return 1;
	case LONG_WORK: /* longer than anybody may be silent */
		for (int i = 0; i < 10; i++) {
			give(fd, 0, STREAM_VERSION, 0, "", 0);
			usleep(STREAM_SILENCE * 1000 / 4);
		}
		give_numbers(fd, f->id, CKR_OK, 0, 0);
		return 1;
	default:
		return 1;
	}
}

/* Answers: a C_CloseSession gets its argument as return value, so that each thread knows its own. */
static void answer(int fd, const struct frame *f)
{
	uint32_t number;
	uint64_t argument = 0;

	memcpy(&number, f->message, sizeof number);
	if (f->length >= 12)
		memcpy(&argument, f->message + 4, sizeof argument);
	switch (number) {
	case CALL_RESUME: {
		uint64_t count, session[3] = {0};

		memcpy(&count, f->message + 13, sizeof count);
		if (count > 0)
			memcpy(session, f->message + 21, sizeof session);
		atomic_store(&resumed, count);
		CHECK(count == 0 || (session[0] == HANDLE && session[1] == 3 && session[2] == CKF_SESSION));
		atomic_fetch_add(&greetings, 1);
		if (prank == NO_GREETING)
			return;
		if (prank == FOREIGN_GREETING)
			give(fd, 8, 99, f->id, "12345678", 8);
		else
			give_numbers(fd, f->id, CKR_OK, 0, 0);
		return;
	}
	case CALL_C_OpenSession:
		give_numbers(fd, f->id, CKR_OK, HANDLE, 1);
		return;
	case CALL_C_SignInit:
		atomic_fetch_add(&sign_inits, 1);
		break;
	case CALL_C_Sign: {
		uint64_t numbers[4] = {CKR_OK, 8, 8, 0x1122334455667788};

		atomic_fetch_add(&signs, 1);
		give(fd, sizeof numbers, STREAM_VERSION, f->id, numbers, sizeof numbers);
		return;
	}
	case CALL_C_Login:
		atomic_fetch_add(&logins, 1);
		break;
	case CALL_C_CloseSession:
		give_numbers(fd, f->id, argument, 0, 0);
		return;
	}
	give_numbers(fd, f->id, CKR_OK, 0, 0);
}

/* Takes what is there, up to some requests, and answers the last first. */
static void converse(int fd)
{
	static struct frame frames[8];

	for (;;) {
		struct pollfd more = {.fd = fd, .events = POLLIN};
		int n = 0;

		do
			if (!get_frame(fd, &frames[n]))
				return;
		while (++n < 8 && poll(&more, 1, 1) == 1);
		while (n-- > 0) {
			uint32_t number;

			memcpy(&number, frames[n].message, sizeof number);
			if (number == CALL_RESUME || prank == NONE)
				answer(fd, &frames[n]);
			else if (!play(fd, &frames[n]))
				return;
		}
	}
}

static int listener;

static void *serve(void *unused)
{
	for (int fd; (fd = accept(listener, NULL, NULL)) >= 0; close(fd))
		converse(fd);
	return unused;
}

static void *close_sessions(void *thread)
{
	for (CK_ULONG i = 1; i <= 100; i++) {
		CK_ULONG own = 1000 * (CK_ULONG)thread + i;

		CHECK_RV(C_CloseSession(own), own);
	}
	return NULL;
}

static void answers_in_any_order_find_their_threads(void)
{
	pthread_t threads[8];

	for (CK_ULONG i = 0; i < 8; i++)
		CHECK(pthread_create(&threads[i], NULL, close_sessions, (void *)(i + 1)) == 0);
	for (int i = 0; i < 8; i++)
		CHECK(pthread_join(threads[i], NULL) == 0);
}

static void what_is_open_is_opened_again(void)
{
	CK_MECHANISM mechanism = {0x1044, NULL, 0};
	CK_SESSION_HANDLE session = 0;
	CK_BYTE data[3] = "abc", signature[8];
	CK_ULONG n = sizeof signature;
	int before;

	CHECK_RV(C_OpenSession(3, CKF_SESSION, NULL, NULL, &session), CKR_OK);
	CHECK(session == HANDLE);
	CHECK_RV(C_SignInit(session, &mechanism, 1), CKR_OK);
	before = greetings;
	for (enum prank p = HANG_UP; p <= STRANGER; p++) {
		if (p == FOREIGN)
			continue;
		/* The connection ends while a length is asked for: the operation is begun again, and goes on. */
		atomic_store(&prank, p);
		CHECK_RV(C_Sign(session, data, sizeof data, NULL, &n), CKR_OK);
		CHECK(n == 8);
		CHECK(resumed == 1);
	}
	CHECK(greetings == before + 4);
	CHECK(sign_inits == 1 + 4);
	CHECK_RV(C_Sign(session, data, sizeof data, signature, &n), CKR_OK);
	CHECK(signature[0] == 0x88 && signature[7] == 0x11);
	/* It is over: a new connection begins nothing. */
	atomic_store(&prank, HANG_UP);
	CHECK_RV(C_Sign(session, data, sizeof data, signature, &n), CKR_OK);
	CHECK(sign_inits == 1 + 4);
}

/* What was refused on this side is over: a new connection does not begin it again. */
static void what_was_refused_is_over(void)
{
	CK_MECHANISM mechanism = {0x1044, NULL, 0};
	CK_BYTE data[3] = "abc", signature[8];
	CK_ULONG n = sizeof signature;
	int before;

	CHECK_RV(C_SignInit(HANDLE, &mechanism, 1), CKR_OK);
	before = sign_inits;
	CHECK_RV(C_Sign(HANDLE, NULL, 5, signature, &n), CKR_ARGUMENTS_BAD);
	atomic_store(&prank, HANG_UP);
	CHECK_RV(C_Sign(HANDLE, data, sizeof data, signature, &n), CKR_OK);
	CHECK(sign_inits == before);
}

static void what_could_do_harm_is_not_sent_twice(void)
{
	CK_UTF8CHAR pin[] = "1234";

	atomic_store(&prank, HANG_UP);
	CHECK_RV(C_Login(HANDLE, 1, pin, 4), CKR_DEVICE_REMOVED);
	CHECK(logins == 0);
	CHECK_RV(C_Login(HANDLE, 1, pin, 4), CKR_OK);
	CHECK(logins == 1);
}

/* A server that hangs holds C_Initialize up once, not for each of the tries that help against one that starts. */
static void who_hangs_is_left(void)
{
	int before;

	CHECK_RV(C_Finalize(NULL), CKR_OK);
	before = greetings;
	atomic_store(&prank, NO_GREETING);
	CHECK_RV(C_Initialize(NULL), CKR_FUNCTION_FAILED);
	CHECK(greetings - before <= 2);
	atomic_store(&prank, NONE);
	CHECK_RV(C_Initialize(NULL), CKR_OK);
}

static void *work_long(void *unused)
{
	CHECK_RV(C_CloseSession(0), CKR_OK);
	return unused;
}

/* Who shows no life hangs: the call goes to the next one, if that can do no harm. Who shows life may take its time, for all. */
static void who_is_silent_is_left(void)
{
	CK_UTF8CHAR pin[] = "1234";
	CK_BYTE *data = calloc(1, 900000);
	CK_ULONG n = 8;
	CK_BYTE signature[8];
	pthread_t other;
	int before = greetings;

	atomic_store(&prank, SILENCE);
	CHECK_RV(C_CloseAllSessions(3), CKR_OK);
	CHECK(greetings == before + 1);
	CHECK_RV(C_OpenSession(3, CKF_SESSION, NULL, NULL, &(CK_SESSION_HANDLE){0}), CKR_OK);
	atomic_store(&prank, SILENCE);
	before = logins;
	CHECK_RV(C_Login(HANDLE, 1, pin, 4), CKR_DEVICE_REMOVED);
	CHECK(logins == before);

	CHECK_RV(C_CloseSession(0), CKR_OK);
	before = greetings;
	atomic_store(&prank, LONG_WORK);
	CHECK(pthread_create(&other, NULL, work_long, NULL) == 0);
	while (prank != NONE)
		usleep(1000);
	CHECK_RV(C_CloseSession(0), CKR_OK);
	CHECK(pthread_join(other, NULL) == 0);
	CHECK(greetings == before);

	/* More than the socket holds. */
	CHECK_RV(C_SignInit(HANDLE, &(CK_MECHANISM){0x1044, NULL, 0}, 1), CKR_OK);
	atomic_store(&prank, DEAF);
	CHECK_RV(C_Sign(HANDLE, data, 900000, signature, &n), CKR_OK);
	CHECK(greetings == before + 1);
	free(data);
}

static void other_versions_are_refused(void)
{
	CK_INFO info;

	atomic_store(&prank, FOREIGN);
	CHECK_RV(C_GetInfo(&info), CKR_FUNCTION_FAILED);
	atomic_store(&prank, SHORT);
	CHECK_RV(C_CloseAllSessions(3), CKR_GENERAL_ERROR);
	CHECK_RV(C_CloseAllSessions(3), CKR_OK);
	CHECK_RV(C_Finalize(NULL), CKR_OK);
	atomic_store(&prank, FOREIGN_GREETING);
	CHECK_RV(C_Initialize(NULL), CKR_FUNCTION_FAILED);
	CHECK_RV(C_Initialize(NULL), CKR_FUNCTION_FAILED);
	CHECK(lines("is of another release of the module: restart the program") == 1); /* and not at each try */
	atomic_store(&prank, NONE);
	CHECK_RV(C_Initialize(NULL), CKR_OK);
}

int main(int argc, char **argv)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	CK_INFO info;
	pthread_t player;
	int before;

	if (argc != 2 || strlen(argv[1]) >= sizeof address.sun_path)
		return 2;
	path = argv[1];
	strcpy(address.sun_path, path);
	alarm(240);
	CHECK(lines("") == 0);
	CHECK_RV(C_Initialize(NULL), CKR_FUNCTION_FAILED); /* nobody listens */
	CHECK(lines(" from the server's socket /") == 1 && lines(path) == 1);
	CHECK(lines("it cannot be reached: start the server (systemctl start tpm2-p11.socket)") == 1);
	listener = socket(AF_UNIX, SOCK_STREAM, 0);
	CHECK(bind(listener, (struct sockaddr *)&address, sizeof address) == 0 && listen(listener, 8) == 0);
	CHECK(pthread_create(&player, NULL, serve, NULL) == 0);
	CHECK_RV(C_GetInfo(&info), CKR_CRYPTOKI_NOT_INITIALIZED);
	CHECK_RV(C_Initialize(NULL), CKR_OK);
	CHECK_RV(C_Initialize(NULL), CKR_CRYPTOKI_ALREADY_INITIALIZED);
	answers_in_any_order_find_their_threads();
	what_is_open_is_opened_again();
	what_was_refused_is_over();
	what_could_do_harm_is_not_sent_twice();
	other_versions_are_refused();
	who_is_silent_is_left();
	who_hangs_is_left();
	CHECK_RV(C_Finalize(NULL), CKR_OK);
	CHECK_RV(C_Finalize(NULL), CKR_CRYPTOKI_NOT_INITIALIZED);
	shutdown(listener, SHUT_RDWR);
	CHECK(pthread_join(player, NULL) == 0);
	close(listener);

	/* One that hangs takes connections, and says nothing. */
	listener = socket(AF_UNIX, SOCK_STREAM, 0);
	CHECK(unlink(path) == 0 && bind(listener, (struct sockaddr *)&address, sizeof address) == 0 && listen(listener, 8) == 0);
	before = lines("the server does not answer: restart it (systemctl restart tpm2-p11)");
	CHECK_RV(C_Initialize(NULL), CKR_FUNCTION_FAILED);
	CHECK(lines("the server does not answer: restart it (systemctl restart tpm2-p11)") == before + 1);
	CHECK(lines(path) == lines("has no keys"));
	return failures != 0;
}
