#include "stream.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>

#include "messages_gen.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "a frame's header is little-endian");

struct header {
	uint32_t length, version; /* of the message, of the protocol */
	uint64_t id;
};
_Static_assert(sizeof(struct header) == 16, "a frame's header has no padding");

#define SIGN_OF_LIFE 0 /* an id that no request has */

/* A thread that waits for its response. It is on that thread's stack. */
struct waiter {
	struct waiter *next;
	uint64_t id;
	pthread_cond_t changed; /* it is done, may read for all, or nothing comes any more */
	bool asleep;
	bool done;
	unsigned char *response;
	size_t response_length;
};

struct stream {
	struct descriptor socket;
	atomic_uint users;
	atomic_long heard;       /* when something came */
	atomic_long patience;    /* milliseconds that one waits for something to come */
	pthread_mutex_t sending; /* held for a whole frame */
	pthread_mutex_t lock;    /* guards what follows, and the waiters */
	struct waiter *waiters;  /* that are not done */
	uint64_t last_id;
	bool reading; /* one of those that wait reads for all */
	enum stream_result end; /* why nothing comes any more, STREAM_OK while something may */
};

long stream_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return 1000L * now.tv_sec + now.tv_nsec / 1000000;
}

static void limit(struct stream *s, int option, long milliseconds)
{
	const struct timeval time = {.tv_sec = milliseconds / 1000, .tv_usec = milliseconds % 1000 * 1000};

	if (descriptor_holds(&s->socket))
		setsockopt(s->socket.fd, SOL_SOCKET, option, &time, sizeof time);
}

struct stream *stream_open(struct descriptor socket)
{
	struct stream *s = calloc(1, sizeof *s);

	if (s == NULL) {
		descriptor_close(&socket);
		return NULL;
	}
	s->socket = socket;
	atomic_init(&s->users, 1);
	pthread_mutex_init(&s->sending, NULL);
	pthread_mutex_init(&s->lock, NULL);
	atomic_init(&s->heard, stream_now());
	stream_patience(s, STREAM_SILENCE);
	limit(s, SO_SNDTIMEO, STREAM_SILENCE);
	return s;
}

void stream_join(struct stream *s)
{
	atomic_fetch_add(&s->users, 1);
}

void stream_leave(struct stream *s)
{
	if (atomic_fetch_sub(&s->users, 1) != 1)
		return;
	descriptor_close(&s->socket);
	pthread_mutex_destroy(&s->sending);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

void stream_patience(struct stream *s, long milliseconds)
{
	atomic_store(&s->patience, milliseconds);
	limit(s, SO_RCVTIMEO, milliseconds);
}

/* The flags of a try after one that a signal ended. The system's limit begins anew with each, and a host may have many signals: once the
   time is over, only what can be done at once is. */
static int after_signal(long since, long patience)
{
	return stream_now() - since < patience ? 0 : MSG_DONTWAIT;
}

/* Ends the stream for everybody; the lock is held. */
static void end(struct stream *s, enum stream_result why)
{
	if (s->end != STREAM_OK)
		return;
	s->end = why;
	if (descriptor_holds(&s->socket))
		shutdown(s->socket.fd, SHUT_RDWR);
	for (struct waiter *w = s->waiters; w != NULL; w = w->next)
		pthread_cond_signal(&w->changed);
}

void stream_break(struct stream *s)
{
	pthread_mutex_lock(&s->lock);
	end(s, STREAM_LOST);
	pthread_mutex_unlock(&s->lock);
}

bool stream_broken(struct stream *s)
{
	bool broken;

	pthread_mutex_lock(&s->lock);
	broken = s->end != STREAM_OK;
	pthread_mutex_unlock(&s->lock);
	return broken;
}

static enum stream_result send_all(struct stream *s, struct iovec *parts, size_t count)
{
	struct msghdr message = {.msg_iov = parts, .msg_iovlen = count};
	long since = stream_now();
	int flags = 0;

	while (message.msg_iovlen > 0) {
		ssize_t sent;

		if (!descriptor_holds(&s->socket))
			return STREAM_UNSENT;
		sent = sendmsg(s->socket.fd, &message, MSG_NOSIGNAL | flags);
		if (sent < 0 && errno == EINTR) {
			flags = after_signal(since, STREAM_SILENCE);
			continue;
		}
		if (sent < 0 && errno != EAGAIN && errno != EWOULDBLOCK)
			return STREAM_UNSENT;
		/* Who takes nothing more may be at work on what it took. */
		if (sent < 0 && stream_now() - atomic_load(&s->heard) >= STREAM_SILENCE)
			return STREAM_SILENT;
		since = stream_now();
		flags = 0;
		if (sent < 0)
			continue;
		while (message.msg_iovlen > 0 && (size_t)sent >= message.msg_iov->iov_len) {
			sent -= message.msg_iov->iov_len;
			message.msg_iov++;
			message.msg_iovlen--;
		}
		if (message.msg_iovlen > 0) {
			message.msg_iov->iov_base = (char *)message.msg_iov->iov_base + sent;
			message.msg_iov->iov_len -= sent;
		}
	}
	return STREAM_OK;
}

static enum stream_result send_frame(struct stream *s, uint64_t id, const unsigned char *request, size_t length)
{
	struct header header = {(uint32_t)length, STREAM_VERSION, id};
	struct iovec parts[] = {{&header, sizeof header}, {(void *)request, length}};
	enum stream_result sent;

	pthread_mutex_lock(&s->sending);
	sent = send_all(s, parts, 2);
	pthread_mutex_unlock(&s->sending);
	return sent;
}

static enum stream_result receive(struct stream *s, void *bytes, size_t length)
{
	long since = stream_now();
	int flags = 0;

	while (length > 0) {
		ssize_t got;

		if (!descriptor_holds(&s->socket))
			return STREAM_LOST;
		got = recv(s->socket.fd, bytes, length, flags);
		if (got < 0 && errno == EINTR) {
			flags = after_signal(since, atomic_load(&s->patience));
			continue;
		}
		if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			return STREAM_SILENT;
		if (got <= 0)
			return STREAM_LOST;
		since = stream_now();
		flags = 0;
		atomic_store(&s->heard, since);
		bytes = (char *)bytes + got;
		length -= got;
	}
	return STREAM_OK;
}

/* Reads the next frame. The message is malloc'ed. */
static enum stream_result receive_frame(struct stream *s, struct header *header, unsigned char **message)
{
	enum stream_result result = receive(s, header, sizeof *header);

	*message = NULL;
	if (result != STREAM_OK)
		return result;
	if (header->version != STREAM_VERSION)
		return STREAM_FOREIGN;
	if (header->length > MAX_MESSAGE)
		return STREAM_LOST;
	*message = malloc(header->length ? header->length : 1);
	if (*message == NULL)
		return STREAM_MEMORY;
	result = receive(s, *message, header->length);
	if (result == STREAM_OK)
		return result;
	explicit_bzero(*message, header->length);
	free(*message);
	*message = NULL;
	return result;
}

/* Takes a waiter off the list; the lock is held. */
static void forget(struct stream *s, const struct waiter *w)
{
	for (struct waiter **at = &s->waiters; *at != NULL; at = &(*at)->next)
		if (*at == w) {
			*at = w->next;
			return;
		}
}

/* Gives a response to whom it belongs. One that nobody asked for ends the stream. The lock is held. */
static void deliver(struct stream *s, uint64_t id, unsigned char *message, size_t length)
{
	struct waiter *w = s->waiters;

	while (w != NULL && w->id != id)
		w = w->next;
	if (w == NULL) {
		explicit_bzero(message, length);
		free(message);
		end(s, STREAM_LOST);
		return;
	}
	forget(s, w);
	w->response = message;
	w->response_length = length;
	w->done = true;
	pthread_cond_signal(&w->changed);
}

/* Has one that waits read for all, if nobody does; who is still sending will see for itself. The lock is held. */
static void hand_over(struct stream *s)
{
	struct waiter *w = s->waiters;

	if (s->reading)
		return;
	while (w != NULL && !w->asleep)
		w = w->next;
	if (w != NULL)
		pthread_cond_signal(&w->changed);
}

/* Reads one frame for whoever it is for; the lock is held, but not while reading. */
static void read_one(struct stream *s)
{
	struct header header;
	unsigned char *message;
	enum stream_result result;

	s->reading = true;
	pthread_mutex_unlock(&s->lock);
	result = receive_frame(s, &header, &message);
	pthread_mutex_lock(&s->lock);
	s->reading = false;
	if (result == STREAM_OK && header.id == SIGN_OF_LIFE && header.length == 0)
		free(message);
	else if (result == STREAM_OK)
		deliver(s, header.id, message, header.length);
	else
		end(s, result);
}

enum stream_result stream_exchange(struct stream *s, const unsigned char *request, size_t request_length, unsigned char **response, size_t *response_length)
{
	struct waiter me = {.changed = PTHREAD_COND_INITIALIZER};
	enum stream_result sent, result;

	pthread_mutex_lock(&s->lock);
	if (s->end != STREAM_OK) {
		pthread_mutex_unlock(&s->lock);
		return STREAM_UNSENT;
	}
	me.id = ++s->last_id;
	me.next = s->waiters;
	s->waiters = &me;
	pthread_mutex_unlock(&s->lock);

	sent = send_frame(s, me.id, request, request_length);
	if (sent != STREAM_OK) {
		pthread_mutex_lock(&s->lock);
		end(s, sent == STREAM_SILENT ? STREAM_SILENT : STREAM_LOST);
		/* Another thread may have read an answer to it all the same: of a server that answers before it has listened. */
		result = me.done ? STREAM_OK : sent;
	} else {
		pthread_mutex_lock(&s->lock);
		while (!me.done && s->end == STREAM_OK)
			if (s->reading) {
				me.asleep = true;
				pthread_cond_wait(&me.changed, &s->lock);
				me.asleep = false;
			} else {
				read_one(s);
			}
		result = me.done ? STREAM_OK : s->end;
	}
	if (!me.done)
		forget(s, &me);
	hand_over(s);
	pthread_mutex_unlock(&s->lock);
	pthread_cond_destroy(&me.changed);
	*response = me.response;
	*response_length = me.response_length;
	return result;
}
