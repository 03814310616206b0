/* The helper: another process, with the rights of the one that started it, that answers for it in forked children. It lives as
   long as anybody has the socket through which connections are passed to it. Forked children inherit that socket. */
#ifndef HELPER_H
#define HELPER_H

#include "descriptor.h"
#include "settings.h"

enum dialled { DIALLED, DIAL_AGAIN, DIAL_NEVER };

/* A new connection to the helper, which is started if there is none. DIAL_NEVER if that is impossible, and why: a forked process starts
   none with other rights than the one had that it would replace. */
enum dialled helper_dial(const struct settings *settings, struct descriptor *connection, const char **why);

/* Lets go of the helper. */
void helper_release(void);

/* Around a fork. Before it the helper is started if it is wanted (settings are not NULL) and there is none. */
void helper_before_fork(const struct settings *settings);
void helper_after_fork_in_parent(void);
void helper_after_fork_in_child(void);

#endif
