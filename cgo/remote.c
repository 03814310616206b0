#include "remote.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "helper.h"
#include "messages_gen.h"
#include "notice.h"
#include "replay.h"
#include "stream.h"

#define TRIES 12                        /* to connect */
#define FIRST_PAUSE (4L * 1000 * 1000)  /* nanoseconds, between the first and the second try; then twice as long each time */
#define LONGEST_PAUSE (500L * 1000 * 1000)
/* Milliseconds, of all tries together: the other side touches no TPM for its first answer. After a silence there is less left of the
   ten seconds that a host may wait for a call. */
#ifndef CONNECT_PATIENCE
#define CONNECT_PATIENCE 8000
#endif
#define SILENCED_PATIENCE 2000
#define DIAL_PATIENCE 2 /* seconds, of one try: a server that hangs has a full queue before it */
#define RESENDS 5 /* of a request that the other side cannot have acted on */

/* Guards what follows. It is held while a connection is made: the others need it too. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static const struct settings *settings; /* NULL outside of remote_open and remote_close */
static bool has_args;
static CK_C_INITIALIZE_ARGS args;
static struct stream *current;
static struct descriptor current_socket = NO_DESCRIPTOR; /* for a child, which may not look into the stream */
static uint64_t connection; /* counts them */

/* Counts the vain tries, and what came of the last: whoever waited meanwhile need not try again. */
static atomic_uint failed;
static CK_RV failed_with;
static bool noticed; /* that nobody answers, in the log */

static enum dialled dial_socket(const char *path, struct descriptor *socket_, const char **why)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	const struct timeval limit = {.tv_sec = DIAL_PATIENCE};

	*why = "its path is too long for a socket's: choose a shorter one";
	if (strlen(path) >= sizeof address.sun_path)
		return DIAL_NEVER;
	*why = "it cannot be reached: start the server (systemctl start tpm2-p11.socket), or correct socket in the configuration";
	strcpy(address.sun_path, path);
	*socket_ = descriptor_take(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
	if (socket_->fd < 0)
		return DIAL_AGAIN;
	/* A server that takes no more connections would block this one, and one that reads nothing a request. */
	setsockopt(socket_->fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
	if (connect(socket_->fd, (struct sockaddr *)&address, sizeof address) == 0)
		return DIALLED;
	/* Waiting helps against a server that starts, not against missing rights. */
	if (errno == EACCES || errno == EPERM) {
		*why = "this user may not connect to it: name it in an [[access]] table of the server's configuration";
		descriptor_close(socket_);
		return DIAL_NEVER;
	}
	descriptor_close(socket_);
	return DIAL_AGAIN;
}

static enum dialled dial(struct descriptor *socket_, const char **why)
{
	if (settings->socket[0] == '\0')
		return helper_dial(settings, socket_, why);
	return dial_socket(settings->socket, socket_, why);
}

/* The return value at the beginning of a response, which is wiped and freed. */
static CK_RV take_rv(unsigned char *response, size_t length)
{
	uint64_t rv = CKR_GENERAL_ERROR;

	if (length >= sizeof rv)
		memcpy(&rv, response, sizeof rv);
	if (response != NULL) {
		explicit_bzero(response, length);
		free(response);
	}
	return rv;
}

/* Sends a request of this file's own. Its return value is only there if the exchange was. */
static enum stream_result ask(struct stream *s, const unsigned char *request, size_t length, CK_RV *rv)
{
	unsigned char *response;
	size_t response_length;
	enum stream_result result = stream_exchange(s, request, length, &response, &response_length);

	if (result == STREAM_OK)
		*rv = take_rv(response, response_length);
	return result;
}

/* Initialises a new connection's other side, and opens the sessions there. */
static enum stream_result greet(struct stream *s, long deadline, CK_RV *rv)
{
	long left = deadline - stream_now();
	enum stream_result result;
	size_t length;
	unsigned char *request = replay_resume(has_args ? &args : NULL, &length);

	if (request == NULL)
		return STREAM_MEMORY;
	stream_patience(s, left > 1 ? left : 1);
	result = ask(s, request, length, rv);
	stream_patience(s, STREAM_SILENCE);
	free(request);
	return result;
}

static void leave_current(void)
{
	if (current != NULL)
		stream_leave(current);
	current = NULL;
	current_socket.fd = -1;
}

/* One try to make a connection. False if another one can help. */
static bool connect_once(long deadline, CK_RV *rv, const char **why)
{
	struct descriptor socket_ = NO_DESCRIPTOR;
	struct stream *s;

	*rv = CKR_DEVICE_REMOVED;
	switch (dial(&socket_, why)) {
	case DIALLED:
		break;
	case DIAL_AGAIN:
		return false;
	case DIAL_NEVER:
		return true;
	}
	current_socket = socket_;
	*why = settings->socket[0] == '\0' ? "the helper does not answer: reload or restart the program"
	                                   : "the server does not answer: restart it (systemctl restart tpm2-p11), and read its log";
	s = stream_open(socket_);
	if (s == NULL) {
		*rv = CKR_HOST_MEMORY;
		return true;
	}
	switch (greet(s, deadline, rv)) {
	case STREAM_OK:
		if (*rv == CKR_OK) {
			current = s;
			connection++;
			return true;
		}
		*why = *rv == CKR_FUNCTION_REJECTED ? "the server lets this user use none: name it in an [[access]] table of the server's configuration" : "whoever serves it refused: its log says why";
		break;
	case STREAM_FOREIGN:
		*why = "whoever serves it is of another release of the module: restart the program";
		*rv = CKR_FUNCTION_FAILED;
		break;
	case STREAM_MEMORY:
		*rv = CKR_HOST_MEMORY;
		break;
	case STREAM_UNSENT:
	case STREAM_LOST:
	case STREAM_SILENT:
		stream_leave(s);
		return false;
	}
	stream_leave(s);
	return true;
}

/* Says in the log why there are no keys, and from where there would be. */
static void tell_why(const char *why)
{
	const bool served = settings->socket[0] != '\0';
	char text[512];

	snprintf(text, sizeof text, "this process has no keys%s%s: %s", served ? " from the server's socket " : "", settings->socket, why != NULL ? why : "no connection can be made");
	notice(settings, text);
}

/* Makes a connection, within milliseconds; the lock is held. */
static CK_RV connect_anew(long patience)
{
	struct timespec pause = {0, FIRST_PAUSE};
	const long deadline = stream_now() + patience;
	const char *why = NULL;
	CK_RV rv;

	leave_current();
	for (int tries = 1; !connect_once(deadline, &rv, &why) && tries < TRIES && stream_now() < deadline; tries++) {
		for (struct timespec left = pause; nanosleep(&left, &left) != 0 && errno == EINTR;) /* a host may have many signals */
			continue;
		pause.tv_nsec = 2 * pause.tv_nsec < LONGEST_PAUSE ? 2 * pause.tv_nsec : LONGEST_PAUSE;
	}
	if (rv != CKR_OK) {
		failed_with = rv;
		atomic_fetch_add(&failed, 1);
	}
	if (rv != CKR_OK && !noticed)
		tell_why(why);
	noticed = rv != CKR_OK;
	return rv;
}

/* Gives the connection, which the caller must leave, and its number. */
static CK_RV join(long patience, struct stream **s, uint64_t *number)
{
	const unsigned before = atomic_load(&failed);
	CK_RV rv = CKR_OK;

	pthread_mutex_lock(&lock);
	if (settings == NULL)
		rv = CKR_CRYPTOKI_NOT_INITIALIZED;
	else if (current != NULL && !stream_broken(current))
		rv = CKR_OK;
	else if (atomic_load(&failed) != before)
		rv = failed_with;
	else
		rv = connect_anew(patience);
	if (rv == CKR_OK) {
		stream_join(current);
		*s = current;
		*number = connection;
	}
	pthread_mutex_unlock(&lock);
	return rv;
}

/* Sends what was remembered of an operation. */
static enum stream_result send_again(struct stream *s, const unsigned char *requests, size_t length, CK_RV *rv)
{
	enum stream_result result = STREAM_OK;
	uint32_t size;

	*rv = CKR_OK;
	for (size_t at = 0; at < length && result == STREAM_OK && *rv == CKR_OK; at += size) {
		memcpy(&size, requests + at, sizeof size);
		at += sizeof size;
		result = ask(s, requests + at, size, rv);
	}
	return result;
}

/* Begins the operation of a request again, if it was begun over another connection. rv is the request's own if that is refused. */
static enum stream_result catch_up(struct stream *s, uint64_t number, const unsigned char *request, size_t request_length, CK_RV *rv)
{
	enum stream_result result;
	struct replay_log *log;
	unsigned char *copy = NULL;
	size_t length = 0;

	*rv = CKR_OK;
	pthread_mutex_lock(&lock);
	log = replay_missed(request, request_length, number);
	if (log == NULL) {
		pthread_mutex_unlock(&lock);
		return STREAM_OK;
	}
	length = log->length;
	if (log->incomplete)
		*rv = CKR_DEVICE_REMOVED;
	else if ((copy = malloc(length)) == NULL)
		*rv = CKR_HOST_MEMORY;
	else
		memcpy(copy, log->requests, length);
	if (*rv != CKR_OK)
		replay_drop(log);
	pthread_mutex_unlock(&lock);
	if (*rv != CKR_OK)
		return STREAM_OK;

	result = send_again(s, copy, length, rv);
	explicit_bzero(copy, length);
	free(copy);
	if (result != STREAM_OK)
		return result;
	pthread_mutex_lock(&lock);
	log = replay_missed(request, request_length, number);
	if (log != NULL && *rv == CKR_OK)
		log->connection = number;
	else if (log != NULL)
		replay_drop(log);
	pthread_mutex_unlock(&lock);
	return STREAM_OK;
}

/* Sends a request over one connection. rv is CKR_OK if the response is there, or else what became of the request. */
static enum stream_result exchange(long patience, const unsigned char *request, size_t request_length, unsigned char **response,
                                   size_t *response_length, CK_RV *rv)
{
	enum stream_result result;
	struct stream *s;
	uint64_t number;

	*rv = join(patience, &s, &number);
	if (*rv != CKR_OK)
		return STREAM_OK;
	result = catch_up(s, number, request, request_length, rv);
	if (result == STREAM_LOST)
		result = STREAM_UNSENT; /* the request itself was not sent */
	if (result == STREAM_OK && *rv == CKR_OK) {
		result = stream_exchange(s, request, request_length, response, response_length);
		if (result == STREAM_OK) {
			pthread_mutex_lock(&lock);
			replay_note(request, request_length, *response, *response_length, number);
			pthread_mutex_unlock(&lock);
		}
	}
	stream_leave(s);
	return result;
}

static CK_RV insist(const unsigned char *request, size_t request_length, unsigned char **response, size_t *response_length)
{
	bool once = replay_rule_of(request, request_length)->once, again = false;
	long patience = CONNECT_PATIENCE;
	CK_RV rv;

	for (int tries = 0; tries <= RESENDS; tries++)
		switch (exchange(patience, request, request_length, response, response_length, &rv)) {
		case STREAM_OK:
			return rv;
		case STREAM_UNSENT:
			break;
		case STREAM_SILENT:
			patience = SILENCED_PATIENCE;
			/* fall through */
		case STREAM_LOST:
			if (once || again)
				return CKR_DEVICE_REMOVED;
			again = true;
			break;
		case STREAM_MEMORY:
			return CKR_HOST_MEMORY;
		case STREAM_FOREIGN:
			return CKR_FUNCTION_FAILED;
		}
	return CKR_DEVICE_REMOVED;
}

CK_RV remote_exchange(const unsigned char *request, size_t request_length, unsigned char **response, size_t *response_length)
{
	int cancelability;
	CK_RV rv;

	*response = NULL;
	*response_length = 0;
	/* A thread that were cancelled in the midst of a call would take locks with it. */
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancelability);
	rv = insist(request, request_length, response, response_length);
	pthread_setcancelstate(cancelability, NULL);
	return rv;
}

CK_RV remote_open(const struct settings *with, const CK_C_INITIALIZE_ARGS *initialize_args)
{
	CK_RV rv;

	pthread_mutex_lock(&lock);
	settings = with;
	has_args = initialize_args != NULL;
	if (has_args)
		args = *initialize_args;
	rv = connect_anew(CONNECT_PATIENCE);
	if (rv != CKR_OK)
		settings = NULL;
	pthread_mutex_unlock(&lock);
	return rv;
}

void remote_close(void)
{
	static const uint32_t finalize = CALL_C_Finalize;
	CK_RV rv;

	pthread_mutex_lock(&lock);
	settings = NULL;
	if (current != NULL) {
		ask(current, (const unsigned char *)&finalize, sizeof finalize, &rv);
		stream_break(current);
	}
	leave_current();
	replay_clear();
	pthread_mutex_unlock(&lock);
}

void remote_after_fork_in_child(void)
{
	/* The parent's stream and sessions are in memory that a thread may have been changing: they are left where they are. */
	lock = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
	settings = NULL;
	current = NULL;
	noticed = false;
	descriptor_close(&current_socket);
	replay_abandon();
}
