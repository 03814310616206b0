/* What C must know of the configuration, to serve a process in which Go cannot run. */
#ifndef SETTINGS_H
#define SETTINGS_H

struct settings {
	const char *socket; /* of a running server, "" for none */
	const char *helper; /* the command that serves forked children, "" for none */
	const char *log;    /* where it goes, as the configuration says: "syslog", "stderr", "file:" and a path, "off" */
	char **environment; /* the helper's */
};

#endif
