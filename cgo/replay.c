#include "replay.h"

#include <stdlib.h>
#include <string.h>

#define BUCKETS 256
#define MAX_LOG (64UL << 10) /* bytes of an operation's requests that are remembered */

/* Where a request has its first argument, and a response its first output. */
#define ARGUMENTS sizeof(uint32_t)
#define OUTPUTS sizeof(uint64_t)

/* An output buffer's place in a request: whether it is NULL, and its room. */
#define BUFFER_SIZE (1 + sizeof(uint64_t))

struct session {
	struct session *next;
	uint64_t handle, slot, flags;
	struct replay_log operations[OPERATIONS];
};

static struct session *sessions[BUCKETS];
static size_t session_count;

static uint64_t u64_at(const unsigned char *bytes, size_t length, size_t at)
{
	uint64_t value = 0;

	if (length >= at + sizeof value)
		memcpy(&value, bytes + at, sizeof value);
	return value;
}

const struct replay_rule *replay_rule_of(const unsigned char *request, size_t length)
{
	uint32_t number = 0;

	if (length >= sizeof number)
		memcpy(&number, request, sizeof number);
	return replay_rule(number);
}

static struct session **place_of(uint64_t handle)
{
	struct session **at = &sessions[handle % BUCKETS];

	while (*at != NULL && (*at)->handle != handle)
		at = &(*at)->next;
	return at;
}

void replay_drop(struct replay_log *log)
{
	if (log->requests != NULL) {
		explicit_bzero(log->requests, log->length);
		free(log->requests);
	}
	memset(log, 0, sizeof *log);
}

static void open_session(const unsigned char *request, size_t request_length, uint64_t handle)
{
	struct session *s = calloc(1, sizeof *s);

	if (s == NULL)
		return; /* it will not survive the connection */
	s->handle = handle;
	s->slot = u64_at(request, request_length, ARGUMENTS);
	s->flags = u64_at(request, request_length, ARGUMENTS + sizeof(uint64_t));
	s->next = sessions[handle % BUCKETS];
	sessions[handle % BUCKETS] = s;
	session_count++;
}

static void close_session(struct session **at)
{
	struct session *s = *at;

	*at = s->next;
	for (int i = 0; i < OPERATIONS; i++)
		replay_drop(&s->operations[i]);
	free(s);
	session_count--;
}

/* Closes the sessions of a slot, or all. */
static void close_sessions(const uint64_t *slot)
{
	for (int i = 0; i < BUCKETS; i++)
		for (struct session **at = &sessions[i]; *at != NULL;)
			if (slot == NULL || (*at)->slot == *slot)
				close_session(at);
			else
				at = &(*at)->next;
}

static void append(struct replay_log *log, const unsigned char *request, size_t length)
{
	uint32_t size = length;
	size_t grown_length = log->length + sizeof size + length;
	unsigned char *grown = grown_length <= MAX_LOG ? malloc(grown_length) : NULL;
	bool fits = grown != NULL && !log->incomplete;

	if (fits) {
		if (log->length != 0)
			memcpy(grown, log->requests, log->length);
		memcpy(grown + log->length, &size, sizeof size);
		memcpy(grown + log->length + sizeof size, request, length);
	} else {
		free(grown);
		grown = NULL;
		grown_length = 0;
	}
	if (log->requests != NULL) {
		explicit_bzero(log->requests, log->length);
		free(log->requests);
	}
	log->requests = grown;
	log->length = grown_length;
	log->incomplete = !fits;
}

/* Whether an operation goes on after a call that could have ended it. */
static bool goes_on(const struct replay_rule *rule, const unsigned char *request, size_t length, CK_RV rv)
{
	if (rv == CKR_BUFFER_TOO_SMALL)
		return true;
	return rv == CKR_OK && rule->ends_in_buffer && length >= BUFFER_SIZE && request[length - BUFFER_SIZE] != 0;
}

/* Whether a call that begins an operation ended one instead: its mechanism, the second argument, was NULL. */
static bool cancels(const unsigned char *request, size_t length)
{
	return u64_at(request, length, ARGUMENTS + sizeof(uint64_t)) == CK_UNAVAILABLE_INFORMATION;
}

static void note_step(const struct replay_rule *rule, const unsigned char *request, size_t length, CK_RV rv, uint64_t connection)
{
	struct session *s = *place_of(u64_at(request, length, ARGUMENTS));
	struct replay_log *log;

	if (s == NULL)
		return;
	log = &s->operations[rule->operation];
	switch (rule->step) {
	case STEP_BEGINS:
		if (rv != CKR_OK)
			return;
		replay_drop(log);
		if (cancels(request, length))
			return;
		append(log, request, length);
		log->connection = connection;
		return;
	case STEP_CONTINUES:
		if (rv == CKR_OK)
			append(log, request, length);
		else if (rv != CKR_BUFFER_TOO_SMALL)
			replay_drop(log);
		return;
	case STEP_ENDS:
		if (!goes_on(rule, request, length, rv))
			replay_drop(log);
		return;
	case STEP_USES:
	case STEP_NONE:
		return;
	}
}

static bool is_refusal(const unsigned char *request, size_t length)
{
	uint32_t number = 0;

	if (length >= sizeof number)
		memcpy(&number, request, sizeof number);
	return number == CALL_REFUSED;
}

/* Forgets the operation that a refused call ended. */
static void drop_refused(const unsigned char *call, size_t length)
{
	struct session *s = *place_of(u64_at(call, length, ARGUMENTS));

	if (s != NULL)
		replay_drop(&s->operations[replay_rule_of(call, length)->operation]);
}

static void note_cancel(struct session *s, CK_FLAGS flags)
{
	for (int i = 0; s != NULL && i < OPERATIONS; i++)
		if (replay_operation_flags[i] & flags)
			replay_drop(&s->operations[i]);
}

void replay_note(const unsigned char *request, size_t request_length, const unsigned char *response, size_t response_length, uint64_t connection)
{
	const struct replay_rule *rule = replay_rule_of(request, request_length);
	uint64_t first = u64_at(request, request_length, ARGUMENTS);
	CK_RV rv = u64_at(response, response_length, 0);

	if (response_length < sizeof(uint64_t))
		return;
	if (is_refusal(request, request_length)) {
		drop_refused(request + ARGUMENTS, request_length - ARGUMENTS);
		return;
	}
	if (rule->step != STEP_NONE)
		note_step(rule, request, request_length, rv, connection);
	if (rv != CKR_OK)
		return;
	switch (rule->effect) {
	case SESSION_OPENS:
		if (response_length >= OUTPUTS + sizeof(uint64_t))
			open_session(request, request_length, u64_at(response, response_length, OUTPUTS));
		return;
	case SESSION_CLOSES:
		if (*place_of(first) != NULL)
			close_session(place_of(first));
		return;
	case SESSION_CLOSES_ALL:
		close_sessions(&first);
		return;
	case SESSION_CANCELS:
		note_cancel(*place_of(first), u64_at(request, request_length, ARGUMENTS + sizeof(uint64_t)));
		return;
	case SESSION_NONE:
		return;
	}
}

struct replay_log *replay_missed(const unsigned char *request, size_t request_length, uint64_t connection)
{
	const struct replay_rule *rule = replay_rule_of(request, request_length);
	struct session *s;
	struct replay_log *log;

	if (rule->step != STEP_CONTINUES && rule->step != STEP_USES && rule->step != STEP_ENDS)
		return NULL;
	s = *place_of(u64_at(request, request_length, ARGUMENTS));
	if (s == NULL)
		return NULL;
	log = &s->operations[rule->operation];
	return (log->requests != NULL || log->incomplete) && log->connection != connection ? log : NULL;
}

unsigned char *replay_resume(const CK_C_INITIALIZE_ARGS *args, size_t *length)
{
	const uint32_t number = CALL_RESUME;
	const uint64_t flags = args != NULL ? args->flags : 0;
	const size_t each = 3 * sizeof(uint64_t), fixed = sizeof number + 1 + 2 * sizeof(uint64_t);
	const uint64_t count = session_count < (MAX_MESSAGE - fixed) / each ? session_count : (MAX_MESSAGE - fixed) / each;
	unsigned char *request = malloc(fixed + count * each), *at = request;
	uint64_t left = count;

	if (request == NULL)
		return NULL;
	at = (unsigned char *)memcpy(at, &number, sizeof number) + sizeof number;
	*at++ = args != NULL;
	at = (unsigned char *)memcpy(at, &flags, sizeof flags) + sizeof flags;
	at = (unsigned char *)memcpy(at, &count, sizeof count) + sizeof count;
	for (int i = 0; i < BUCKETS; i++)
		for (const struct session *s = sessions[i]; s != NULL && left > 0; s = s->next, left--) {
			const uint64_t numbers[] = {s->handle, s->slot, s->flags};

			at = (unsigned char *)memcpy(at, numbers, sizeof numbers) + sizeof numbers;
		}
	*length = at - request;
	return request;
}

void replay_clear(void)
{
	close_sessions(NULL);
}

void replay_abandon(void)
{
	for (int i = 0; i < BUCKETS; i++)
		sessions[i] = NULL;
	session_count = 0;
}
