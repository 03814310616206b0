/* What an application has open, as far as its calls told it: enough to open it again on the other side of a new connection. */
#ifndef REPLAY_H
#define REPLAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cryptoki.h"
#include "messages_gen.h"

enum session_effect { SESSION_NONE, SESSION_OPENS, SESSION_CLOSES, SESSION_CLOSES_ALL, SESSION_CANCELS };
enum step { STEP_NONE, STEP_BEGINS, STEP_CONTINUES, STEP_USES, STEP_ENDS };

/* How a call bears on a new connection (from the table in internal/boundary). */
struct replay_rule {
	bool once; /* never sent twice: it changes what outlives a session, or counts as a try of a PIN */
	enum session_effect effect;
	enum step step;
	unsigned operation; /* that it is a step of */
	bool ends_when_refused; /* a call that fails ends the operation, also one that never left this side */
	bool ends_in_buffer; /* its last argument is an output buffer, which may have been asked for its length only */
};

const struct replay_rule *replay_rule(uint32_t number);

/* What C_SessionCancel calls the operations. */
extern const CK_FLAGS replay_operation_flags[OPERATIONS];

/* The rule of a request. */
const struct replay_rule *replay_rule_of(const unsigned char *request, size_t length);

/* The requests of one operation that is active. */
struct replay_log {
	unsigned char *requests; /* each after its length, a uint32_t */
	size_t length;
	uint64_t connection; /* that they were made over */
	bool incomplete;     /* too long to be remembered */
};

/* Notes what a call that went over a connection did. One thread at a time, as for all that follows. */
void replay_note(const unsigned char *request, size_t request_length, const unsigned char *response, size_t response_length, uint64_t connection);

/* The operation that a request continues or ends, if it was begun over another connection; else NULL. */
struct replay_log *replay_missed(const unsigned char *request, size_t request_length, uint64_t connection);

/* Forgets an operation. */
void replay_drop(struct replay_log *log);

/* The request that initialises the other side and opens the sessions there. malloc'ed; NULL if there is no memory. */
unsigned char *replay_resume(const CK_C_INITIALIZE_ARGS *args, size_t *length);

/* Forgets everything. */
void replay_clear(void);

/* The same in a forked child, where nothing may be freed. */
void replay_abandon(void);

#endif
