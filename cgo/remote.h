/* Calls that another process answers: a helper, or a server on a socket. */
#ifndef REMOTE_H
#define REMOTE_H

#include <stdbool.h>
#include <stddef.h>

#include "cryptoki.h"
#include "settings.h"

/* Connects, and initialises the other side. The settings must stay. Neither this nor remote_close may be cancelled. */
CK_RV remote_open(const struct settings *settings, const CK_C_INITIALIZE_ARGS *args);

/* Finalises the other side and leaves it. Calls of other threads come back. */
void remote_close(void);

/* Sends a request and gives its malloc'ed response, over a new connection if need be: there the sessions are opened again, and the
   operation that the request belongs to is begun again. A request that may have been acted on is sent a second time at most, and not
   at all if that could do harm. CKR_DEVICE_REMOVED if nobody answers. */
CK_RV remote_exchange(const unsigned char *request, size_t request_length, unsigned char **response, size_t *response_length);

/* In a forked child: what the parent had is left to it. Safe in a signal handler. */
void remote_after_fork_in_child(void);

#endif
