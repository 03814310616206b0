#include "rights.h"

#include <linux/capability.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* FNV-1a of the supplementary groups, in the kernel's order. */
static uint64_t hash_groups(void)
{
	uint64_t hash = 0xcbf29ce484222325;
	int count = getgroups(0, NULL);
	gid_t *groups = count > 0 ? calloc(count, sizeof *groups) : NULL;
	const unsigned char *bytes = (const unsigned char *)groups;

	count = groups != NULL ? getgroups(count, groups) : 0;
	for (size_t i = 0; count > 0 && i < count * sizeof *groups; i++)
		hash = (hash ^ bytes[i]) * 0x100000001b3;
	free(groups);
	return hash;
}

void rights_now(struct rights *rights)
{
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct sets[2] = {0};
	struct stat root;

	memset(rights, 0, sizeof *rights);
	rights->user = geteuid();
	rights->group = getegid();
	rights->groups = hash_groups();
	if (syscall(SYS_capget, &header, sets) == 0)
		rights->capabilities = (uint64_t)sets[1].effective << 32 | sets[0].effective;
	if (stat("/", &root) == 0) {
		rights->root_device = root.st_dev;
		rights->root = root.st_ino;
	}
}

bool rights_equal(const struct rights *one, const struct rights *other)
{
	return one->user == other->user && one->group == other->group && one->groups == other->groups &&
	       one->capabilities == other->capabilities && one->root_device == other->root_device && one->root == other->root;
}
