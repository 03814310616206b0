/* A thousand lives of the library in one process, which has no more files, threads and memory at the end than after the first ones.
   Usage: rounds /path/to/tpm2-p11.so; the token has the key "web" (P-256). */
#include <dirent.h>

#include "host.h"

#define ROUNDS 1000
#define FIRST 100       /* rounds until the runtime has what it keeps */
#define MORE_MEMORY 8192 /* KiB: less than 10 a round */

static long open_files(void)
{
	long n = 0;
	DIR *open = opendir("/proc/self/fd");

	while (readdir(open) != NULL)
		n++;
	closedir(open);
	return n;
}

/* A number of /proc/self/status. */
static long status(const char *name)
{
	char line[256];
	long n = -1;
	FILE *file = fopen("/proc/self/status", "r");

	while (fgets(line, sizeof line, file) != NULL)
		if (strncmp(line, name, strlen(name)) == 0)
			n = strtol(line + strlen(name), NULL, 10);
	fclose(file);
	return n;
}

/* Half of the lives use the TPM, half of those end as applications should not: with sessions and an operation open. */
static void live(int round)
{
	CK_SESSION_HANDLE session;

	CHECK_RV(p11->C_Initialize(NULL), CKR_OK);
	session = open_session();
	if (round % 2 == 0)
		sign(session, find(session, CKO_PRIVATE_KEY, "web"), find(session, CKO_PUBLIC_KEY, "web"));
	if (round % 4 == 0)
		CHECK_RV(p11->C_SignInit(session, &ecdsa, find(session, CKO_PRIVATE_KEY, "web")), CKR_OK);
	else
		CHECK_RV(p11->C_CloseSession(session), CKR_OK);
	CHECK_RV(p11->C_Finalize(NULL), CKR_OK);
}

int main(int argc, char **argv)
{
	long files = 0, threads = 0, memory = 0;
	void *library;

	if (argc != 2)
		return 2;
	for (int round = 0; round < ROUNDS && failures == 0; round++) {
		alarm(CALL_PATIENCE);
		library = load(argv[1]);
		live(round);
		CHECK(dlclose(library) == 0);
		if (round == FIRST) {
			files = open_files();
			threads = status("Threads:");
			memory = status("VmRSS:");
		}
	}
	printf("files %ld -> %ld, threads %ld -> %ld, memory %ld -> %ld KiB\n", files, open_files(), threads, status("Threads:"), memory, status("VmRSS:"));
	CHECK(open_files() == files);
	CHECK(status("Threads:") <= threads + 4); /* the runtime starts some when it sees fit */
	CHECK(status("VmRSS:") <= memory + MORE_MEMORY);
	return failures != 0;
}
