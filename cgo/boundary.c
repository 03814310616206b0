#include "boundary.h"

#include <dlfcn.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "call.h"
#include "helper.h"
#include "remote.h"
#include "settings.h"

/* Transports. All carry the same bytes, and have one way in: boundary_exchange.

   In process is the Go runtime inside this library. It started when the library was loaded, and its threads do not survive fork():
   a forked child must never enter it, it would wait for them forever. A child, and a grandchild, therefore has no transport at
   first, as the standard wants it: it answers CKR_CRYPTOKI_NOT_INITIALIZED.

   Remote is another process: the server whose socket the configuration names, or in a forked child the helper. */
enum transport { TRANSPORT_NONE, TRANSPORT_IN_PROCESS, TRANSPORT_REMOTE };

/* What C_Initialize answers where nobody can be reached: the call is right, and cannot be done. */
#define CKR_NOBODY_ANSWERS CKR_FUNCTION_FAILED

static _Atomic enum transport transport = TRANSPORT_NONE;
static atomic_bool forked = false; /* this process has no Go runtime */

/* Held while what follows changes, by C_Initialize and C_Finalize, and over a fork. */
static pthread_mutex_t changing = PTHREAD_MUTEX_INITIALIZER;
static const struct settings *settings; /* NULL before they were needed; never freed, since a call may still use them */
static bool wanted;                     /* this process or one that it was forked from has initialised the module */
static bool holding;                    /* the TPMs are kept idle */
static int cancelability;               /* of the thread that holds the lock, before it did */
static char module_path[PATH_MAX];

/* Implemented in Go (export.go). */
extern void tpm2p11Dispatch(void *request, size_t request_length, void **response, size_t *response_length);
extern void tpm2p11Release(void);
extern void tpm2p11Settings(char *module, void **settings, size_t *length);
extern void tpm2p11Hold(int helped);
extern void tpm2p11Resume(void);

/* A thread that were cancelled in the midst of a change would take the locks with it. */
static void begin_change(void)
{
	int before;

	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before);
	pthread_mutex_lock(&changing);
	cancelability = before;
}

static void end_change(void)
{
	int before = cancelability;

	pthread_mutex_unlock(&changing);
	pthread_setcancelstate(before, NULL);
}

/* Takes the settings apart: socket, helper, log, and the helper's environment, each ended by a NUL. */
static struct settings *parse_settings(char *text, size_t length)
{
	struct settings *parsed = calloc(1, sizeof *parsed);
	const char *fields[3] = {"", "", ""};
	size_t count = 0, variables = 0;

	for (size_t i = 0; i < length; i++)
		count += text[i] == '\0';
	if (parsed != NULL)
		parsed->environment = calloc(count + 1, sizeof *parsed->environment);
	if (parsed == NULL || parsed->environment == NULL) {
		free(parsed);
		return NULL;
	}
	count = 0;
	for (char *at = text; at < text + length; at += strlen(at) + 1, count++)
		if (count < 3)
			fields[count] = at;
		else
			parsed->environment[variables++] = at;
	parsed->socket = fields[0];
	parsed->helper = fields[1];
	parsed->log = fields[2];
	return parsed;
}

/* Reads the settings in a process in which Go runs. What is the same as before is not kept twice. */
static void read_settings(void)
{
	static char *known;
	static size_t known_length;
	struct settings *parsed;
	void *text = NULL;
	size_t length = 0;

	tpm2p11Settings(module_path, &text, &length);
	if (text == NULL)
		return;
	if (known != NULL && known_length == length && memcmp(known, text, length) == 0) {
		free(text);
		return;
	}
	parsed = parse_settings(text, length);
	if (parsed == NULL) {
		free(text);
		return;
	}
	known = text;
	known_length = length;
	settings = parsed;
}

/* The last moment at which this process is whole. What children will need is got ready: the settings, a helper if they may want one,
   and TPMs that no descriptor of this process is connected to, since a child would keep the connection open. */
static void before_fork(void)
{
	bool in_process;

	begin_change();
	in_process = atomic_load(&transport) == TRANSPORT_IN_PROCESS;
	if (!atomic_load(&forked) && settings == NULL)
		read_settings();
	helper_before_fork(wanted && settings != NULL && settings->socket[0] == '\0' ? settings : NULL);
	if (in_process)
		tpm2p11Hold(wanted);
	holding = in_process;
}

static void after_fork_in_parent(void)
{
	if (holding)
		tpm2p11Resume();
	helper_after_fork_in_parent();
	end_change();
}

/* Only what is safe in a signal handler may be done here. */
static void after_fork_in_child(void)
{
	atomic_store(&forked, true);
	atomic_store(&transport, TRANSPORT_NONE);
	changing = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
	helper_after_fork_in_child();
	remote_after_fork_in_child();
	pthread_setcancelstate(cancelability, NULL);
}

/* Where this library is, as long as the current folder is what the host's path is relative to. */
static void find_module(void)
{
	Dl_info info;

	if (dladdr((void *)&function_list, &info) == 0 || info.dli_fname == NULL || realpath(info.dli_fname, module_path) == NULL)
		module_path[0] = '\0';
}

__attribute__((constructor)) static void watch_forks(void)
{
	find_module();
	/* Without the handlers a child would hang: then it is better to have no transport anywhere. */
	if (pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child) != 0)
		atomic_store(&forked, true);
}

/* A host may end without C_Finalize; sessions kept in a TPM that has no resource manager would outlive it. */
__attribute__((destructor)) static void release_at_exit(void)
{
	if (atomic_load(&transport) == TRANSPORT_IN_PROCESS)
		tpm2p11Release();
}

CK_RV boundary_ready(void)
{
	return atomic_load(&transport) == TRANSPORT_NONE ? CKR_CRYPTOKI_NOT_INITIALIZED : CKR_OK;
}

CK_RV boundary_exchange(const unsigned char *request, size_t request_length, unsigned char **response, size_t *response_length)
{
	void *answer = NULL;

	*response = NULL;
	*response_length = 0;
	switch (atomic_load(&transport)) {
	case TRANSPORT_IN_PROCESS:
		tpm2p11Dispatch((void *)request, request_length, &answer, response_length);
		*response = answer;
		return answer == NULL ? CKR_HOST_MEMORY : CKR_OK;
	case TRANSPORT_REMOTE:
		return remote_exchange(request, request_length, response, response_length);
	case TRANSPORT_NONE:
		break;
	}
	return CKR_CRYPTOKI_NOT_INITIALIZED;
}

/* PKCS #11 section 5.4: the four callbacks come together, and can only be left alone where the caller allows the system's locks. */
static CK_RV check_initialize_args(const CK_C_INITIALIZE_ARGS *args)
{
	int callbacks;

	if (args == NULL)
		return CKR_OK;
	if (args->pReserved != NULL)
		return CKR_ARGUMENTS_BAD;
	callbacks = (args->CreateMutex != NULL) + (args->DestroyMutex != NULL) + (args->LockMutex != NULL) + (args->UnlockMutex != NULL);
	if (callbacks != 0 && callbacks != 4)
		return CKR_ARGUMENTS_BAD;
	if (callbacks == 4 && !(args->flags & CKF_OS_LOCKING_OK))
		return CKR_CANT_LOCK;
	return CKR_OK;
}

static CK_RV initialize_in_process(const CK_C_INITIALIZE_ARGS *args)
{
	struct call call;
	CK_RV rv;

	atomic_store(&transport, TRANSPORT_IN_PROCESS);
	call_begin(&call, CALL_C_Initialize);
	put_bool(&call, args != NULL);
	put_ulong(&call, args != NULL ? args->flags : 0);
	call_send(&call);
	rv = call_end(&call);
	if (rv != CKR_OK)
		atomic_store(&transport, TRANSPORT_NONE);
	return rv;
}

static CK_RV initialize_remotely(const CK_C_INITIALIZE_ARGS *args)
{
	CK_RV rv = settings != NULL ? remote_open(settings, args) : CKR_NOBODY_ANSWERS;

	if (rv == CKR_OK)
		atomic_store(&transport, TRANSPORT_REMOTE);
	/* The server turns this user away: an answer that C_Initialize does not have. */
	return rv == CKR_DEVICE_REMOVED || rv == CKR_FUNCTION_REJECTED ? CKR_NOBODY_ANSWERS : rv;
}

static CK_RV initialize(const CK_C_INITIALIZE_ARGS *args)
{
	CK_RV rv;

	if (atomic_load(&transport) != TRANSPORT_NONE)
		return CKR_CRYPTOKI_ALREADY_INITIALIZED;
	if (!atomic_load(&forked))
		read_settings();
	if (atomic_load(&forked) || (settings != NULL && settings->socket[0] != '\0'))
		rv = initialize_remotely(args);
	else
		rv = initialize_in_process(args);
	wanted = wanted || rv == CKR_OK;
	return rv;
}

CK_RV C_Initialize(CK_VOID_PTR pInitArgs)
{
	CK_RV rv = check_initialize_args(pInitArgs);

	if (rv != CKR_OK)
		return rv;
	begin_change();
	rv = initialize(pInitArgs);
	end_change();
	return rv;
}

static CK_RV finalize_in_process(void)
{
	struct call call;

	call_begin(&call, CALL_C_Finalize);
	call_send(&call);
	/* Also after a failure: nothing is left that could be finalised once more, and C_Initialize must be possible. */
	atomic_store(&transport, TRANSPORT_NONE);
	wanted = false;
	/* Children that have begun keep the helper. */
	helper_release();
	return call_end(&call);
}

static CK_RV finalize(void)
{
	switch (atomic_load(&transport)) {
	case TRANSPORT_IN_PROCESS:
		return finalize_in_process();
	case TRANSPORT_REMOTE:
		atomic_store(&transport, TRANSPORT_NONE);
		remote_close();
		return CKR_OK;
	case TRANSPORT_NONE:
		break;
	}
	return CKR_CRYPTOKI_NOT_INITIALIZED;
}

CK_RV C_Finalize(CK_VOID_PTR pReserved)
{
	CK_RV rv = boundary_ready();

	if (rv != CKR_OK)
		return rv;
	if (pReserved != NULL)
		return CKR_ARGUMENTS_BAD;
	begin_change();
	rv = finalize();
	end_change();
	return rv;
}
