/* Logs in, signs and logs out, and looks for the PIN and for its SHA-256, which is the authValue of what it opens, in its own memory:
   they are never in what a core dump holds, and in the end nowhere.
   Usage: memory /path/to/tpm2-p11.so FILE-WITH-PIN SHA-256-IN-HEX */
#include "host.h"

#include <fcntl.h>
#include <stdint.h>

#define CKU_USER 1UL
#define SHA256_SIZE 32

/* A secret that is looked for; inverted, so that it is not found here. */
struct wanted {
	const char *name;
	size_t length;
	uint8_t inverted[64];
};

static struct wanted pin = {.name = "the PIN"}, digest = {.name = "its hash"};

static int is(const volatile uint8_t *at, const struct wanted *w)
{
	for (size_t i = 0; i < w->length; i++)
		if ((at[i] ^ w->inverted[i]) != 0xff)
			return 0;
	return 1;
}

static int found(const char *when, const struct wanted *w, uintptr_t from, uintptr_t to, const char *mapping)
{
	int n = 0;

	for (uintptr_t at = from; at + w->length <= to; at++)
		if (is((const volatile uint8_t *)at, w)) {
			fprintf(stderr, "%s, %s is at %lx in %s", when, w->name, (unsigned long)at, mapping);
			n++;
		}
	return n;
}

/* Looks through all memory that this process can write to, or through that part which a dump would hold. */
static int search(const char *when, int dumped_only)
{
	static char line[512], mapping[512];
	unsigned long from = 0, to = 0;
	int n = 0, writable = 0;
	FILE *maps = fopen("/proc/self/smaps", "r");

	CHECK(maps != NULL);
	while (fgets(line, sizeof line, maps) != NULL) {
		char mode[5];
		unsigned long a, b;

		if (sscanf(line, "%lx-%lx %4s", &a, &b, mode) == 3) {
			from = a;
			to = b;
			writable = strncmp(mode, "rw", 2) == 0;
			strcpy(mapping, line);
		} else if (strncmp(line, "VmFlags:", 8) == 0 && writable && !(dumped_only && strstr(line, " dd") != NULL)) {
			n += found(when, &pin, from, to, mapping);
			n += found(when, &digest, from, to, mapping);
		}
	}
	fclose(maps);
	return n;
}

/* Reads the PIN, logs in, and forgets it. */
static void login(CK_SESSION_HANDLE session, const char *file)
{
	CK_BYTE text[sizeof pin.inverted];
	int fd = open(file, O_RDONLY);
	ssize_t n = read(fd, text, sizeof text);

	CHECK(fd >= 0 && n > 0);
	close(fd);
	pin.length = n;
	for (ssize_t i = 0; i < n; i++)
		pin.inverted[i] = ~text[i];
	CHECK_RV(p11->C_Login(session, CKU_USER, text, n), CKR_OK);
	CHECK(search("with the PIN in the application's own hands", 1) > 0);
	explicit_bzero(text, sizeof text);
}

int main(int argc, char **argv)
{
	CHECK(argc == 4 && strlen(argv[3]) == 2 * SHA256_SIZE);
	digest.length = SHA256_SIZE;
	for (int i = 0; i < SHA256_SIZE; i++) {
		unsigned int byte;

		CHECK(sscanf(argv[3] + 2 * i, "%2x", &byte) == 1);
		digest.inverted[i] = ~byte;
	}
	load(argv[1]);
	CHECK_RV(p11->C_Initialize(NULL), CKR_OK);

	CK_SESSION_HANDLE session = open_session();

	login(session, argv[2]);
	CHECK(search("after the login", 1) == 0);
	sign(session, find(session, CKO_PRIVATE_KEY, "web"), find(session, CKO_PUBLIC_KEY, "web"));
	CHECK(search("after a signature", 1) == 0);
	CHECK_RV(p11->C_Logout(session), CKR_OK);
	CHECK(search("after the logout", 0) == 0);
	CHECK_RV(p11->C_Finalize(NULL), CKR_OK);
	CHECK(search("in the end", 0) == 0);
	return failures != 0;
}
