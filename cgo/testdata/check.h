/* Checks for the test programs: a failed one is told with its line, and makes the exit code 1. */
#ifndef CHECK_H
#define CHECK_H

#include <stdio.h>

static int failures;

#define CHECK(condition) \
	do { \
		if (!(condition)) { \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
			failures++; \
		} \
	} while (0)

#define CHECK_RV(expression, want) \
	do { \
		CK_RV got_ = (expression), want_ = (want); \
		if (got_ != want_) { \
			fprintf(stderr, "%s:%d: %s: 0x%lx, want 0x%lx (%s)\n", __FILE__, __LINE__, #expression, got_, want_, #want); \
			failures++; \
		} \
	} while (0)

#endif
