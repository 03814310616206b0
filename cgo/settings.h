/* What C must know of the configuration, to serve a process in which Go cannot run. */
#ifndef SETTINGS_H
#define SETTINGS_H

#include <stdbool.h>

struct settings {
	const char *socket; /* of a running server, "" for none */
	const char *helper; /* the command that serves forked children, "" for none */
	bool keep_stderr;   /* the log goes there */
	char **environment; /* the helper's */
};

#endif
