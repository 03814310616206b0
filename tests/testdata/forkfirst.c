/* Preloaded into an application, it makes that a forked child: of a process that has loaded and initialised the module, as a server's
   worker is. FORK_FIRST names the module. */
#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static void fail(const char *what)
{
	fprintf(stderr, "forkfirst: %s\n", what);
	_exit(3);
}

__attribute__((constructor)) static void fork_first(void)
{
	const char *module = getenv("FORK_FIRST");
	unsigned long (*initialize)(void *);
	unsigned long (*finalize)(void *);
	void *library;
	int status;
	pid_t child;

	if (module == NULL)
		return;
	library = dlopen(module, RTLD_NOW | RTLD_LOCAL);
	if (library == NULL)
		fail(dlerror());
	*(void **)&initialize = dlsym(library, "C_Initialize");
	*(void **)&finalize = dlsym(library, "C_Finalize");
	if (initialize == NULL || finalize == NULL || initialize(NULL) != 0)
		fail("the module cannot be initialised");
	child = fork();
	if (child < 0)
		fail("fork");
	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		return; /* to the application's main */
	}
	while (waitpid(child, &status, 0) != child)
		continue;
	if (finalize(NULL) != 0)
		fail("the server was disturbed");
	_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 4);
}
