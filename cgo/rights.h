/* What a process may do. */
#ifndef RIGHTS_H
#define RIGHTS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct rights {
	uid_t user;
	gid_t group;
	uint64_t groups; /* a hash of the others */
	uint64_t capabilities;
	dev_t root_device; /* of the folder that it sees as / */
	ino_t root;
};

/* Those of this process. */
void rights_now(struct rights *rights);

bool rights_equal(const struct rights *one, const struct rights *other);

#endif
