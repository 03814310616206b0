/* Descriptors that live in somebody else's process. Hosts close what they do not know, and the number is soon another file's:
   before one is used or closed it is compared with what was opened. */
#ifndef DESCRIPTOR_H
#define DESCRIPTOR_H

#include <stdbool.h>
#include <sys/types.h>

struct descriptor {
	int fd;
	dev_t device;
	ino_t inode;
};

#define NO_DESCRIPTOR {-1, 0, 0}

/* Takes fd over, under a number that is not one of the standard streams'. The result has fd -1 if that failed. */
struct descriptor descriptor_take(int fd);

/* Whether the number still means what was taken. Safe in a signal handler, as descriptor_close is. */
bool descriptor_holds(const struct descriptor *d);

/* Closes what was taken, if it is still there. */
void descriptor_close(struct descriptor *d);

#endif
