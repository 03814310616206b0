/* A connection to another process that answers requests. Many threads use it at once, and none waits for another's call:
   responses come in any order and are told apart by the ids of their requests. */
#ifndef STREAM_H
#define STREAM_H

#include <stddef.h>

#include "descriptor.h"

#define STREAM_VERSION 1 /* of the protocol; package wire has the same */

/* Milliseconds without a sign of life after which the other side hangs. While it works on a request it gives one each second: a frame
   with the id 0 and no message. */
#ifndef STREAM_SILENCE
#define STREAM_SILENCE 7000
#endif

struct stream;

enum stream_result {
	STREAM_OK,
	STREAM_UNSENT,  /* the other side cannot have acted on the request */
	STREAM_LOST,    /* the connection ended before the response: nobody knows whether it did */
	STREAM_SILENT,  /* the other side showed no life, as long as one waits for that: nobody knows either */
	STREAM_MEMORY,  /* there is no memory for the response */
	STREAM_FOREIGN, /* the other side speaks another version */
};

/* A stream over a connected socket, which it takes over. NULL if there is no memory; then the socket is closed. It has one user. */
struct stream *stream_open(struct descriptor socket);

/* Sends a request, and waits for its response, which is malloc'ed. */
enum stream_result stream_exchange(struct stream *s, const unsigned char *request, size_t request_length, unsigned char **response, size_t *response_length);

/* Another time than STREAM_SILENCE, in milliseconds. Only while nobody else uses the stream. */
void stream_patience(struct stream *s, long milliseconds);

/* Milliseconds of a clock that only goes forward. */
long stream_now(void);

/* Ends the connection: whoever waits for a response gets STREAM_LOST. */
void stream_break(struct stream *s);

/* Whether it ended. */
bool stream_broken(struct stream *s);

/* One more user, and one less: the last one's leaving closes the socket and frees the stream. */
void stream_join(struct stream *s);
void stream_leave(struct stream *s);

#endif
