#include "notice.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syslog.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define FILE_LOG "file:"
#define LINE 1024 /* bytes, of which a longer text keeps the beginning */

static int days_of(int year) { return 365 + (year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)); }

/* The time as RFC 3339 has it. Not by gmtime_r(3): that takes a lock, which a thread may have held when this process was forked. */
static void as_date(char *text, size_t size)
{
	static const char lengths[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
	const long now = time(NULL);
	const int second = now % 86400;
	int year = 1970, month = 0, day = now / 86400, length;

	for (; day >= days_of(year); year++)
		day -= days_of(year);
	for (; day >= (length = lengths[month] + (month == 1 ? days_of(year) - 365 : 0)); month++)
		day -= length;
	snprintf(text, size, "%04d-%02d-%02dT%02d:%02d:%02dZ", year, month + 1, day + 1, second / 3600, second / 60 % 60, second % 60);
}

/* The line as package slog would write it. */
static size_t as_line(char *line, const char *text)
{
	char when[64];
	int n;

	as_date(when, sizeof when);
	n = snprintf(line, LINE, "time=%s level=WARN msg=\"%s\" pid=%ld\n", when, text, (long)getpid());
	return n < LINE ? n : LINE - 1;
}

static int to_file(const char *path, const char *text)
{
	char line[LINE];
	size_t n = as_line(line, text);
	int fd = open(path, O_WRONLY | O_APPEND | O_NOFOLLOW | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	int written;

	if (fd < 0)
		return 0;
	written = write(fd, line, n) == (ssize_t)n;
	close(fd);
	return written;
}

/* Not by syslog(3), which is the host's. */
static void to_system(const char *text)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "/dev/log"};
	char line[LINE];
	int n = snprintf(line, sizeof line, "<%d>tpm2-p11[%ld]: msg=\"%s\"", LOG_DAEMON | LOG_WARNING, (long)getpid(), text);
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return;
	sendto(fd, line, n < LINE ? n : LINE - 1, MSG_NOSIGNAL, (struct sockaddr *)&address, sizeof address);
	close(fd);
}

void notice(const struct settings *settings, const char *text)
{
	const char *log = settings->log;
	char line[LINE];

	if (strcmp(log, "stderr") == 0) {
		if (write(STDERR_FILENO, line, as_line(line, text)) < 0)
			return;
	} else if (strcmp(log, "syslog") == 0)
		to_system(text);
	else if (strncmp(log, FILE_LOG, strlen(FILE_LOG)) == 0 && !to_file(log + strlen(FILE_LOG), text))
		to_system(text);
}
