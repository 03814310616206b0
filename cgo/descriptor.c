#include "descriptor.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

struct descriptor descriptor_take(int fd)
{
	struct descriptor d = NO_DESCRIPTOR;
	struct stat is;
	int taken = fd;

	if (fd >= 0 && fd <= STDERR_FILENO) {
		taken = fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
		close(fd);
	}
	if (taken < 0)
		return d;
	if (fstat(taken, &is) != 0) {
		close(taken);
		return d;
	}
	d.fd = taken;
	d.device = is.st_dev;
	d.inode = is.st_ino;
	return d;
}

bool descriptor_holds(const struct descriptor *d)
{
	struct stat is;

	return d->fd >= 0 && fstat(d->fd, &is) == 0 && is.st_dev == d->device && is.st_ino == d->inode;
}

void descriptor_close(struct descriptor *d)
{
	if (descriptor_holds(d))
		close(d->fd);
	d->fd = -1;
}
