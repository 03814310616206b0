#include "boundary.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "call.h"

/* Transports. All carry the same bytes, and have one way in: boundary_exchange.

   In process is the Go runtime inside this library. It started when the library was loaded, and its threads do not survive fork():
   a forked child must never enter it, it would wait for them forever. A child, and a grandchild, therefore has no transport at
   first, as the standard wants it: it answers CKR_CRYPTOKI_NOT_INITIALIZED. */
enum transport { TRANSPORT_NONE, TRANSPORT_IN_PROCESS };

/* What C_Initialize answers in a forked child, which there is no transport for: the call is right, and cannot be done. */
#define CKR_NO_TRANSPORT_IN_CHILD CKR_FUNCTION_FAILED

static _Atomic enum transport transport = TRANSPORT_NONE;
static atomic_bool forked = false;

/* Held while the transport changes: by C_Initialize and C_Finalize. */
static pthread_mutex_t changing = PTHREAD_MUTEX_INITIALIZER;

/* Implemented in Go (export.go). */
extern void tpm2p11Dispatch(void *request, size_t request_length, void **response, size_t *response_length);
extern void tpm2p11Release(void);

/* Only what is safe in a signal handler may be done here: the thread that held the mutex is gone, and so is what it did. */
static void after_fork_in_child(void)
{
	atomic_store(&forked, true);
	atomic_store(&transport, TRANSPORT_NONE);
	changing = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
}

__attribute__((constructor)) static void watch_forks(void)
{
	/* Without the handler a child would hang: then it is better to have no transport anywhere. */
	if (pthread_atfork(NULL, NULL, after_fork_in_child) != 0)
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

static CK_RV send_initialize(const CK_C_INITIALIZE_ARGS *args)
{
	struct call call;

	call_begin(&call, CALL_C_Initialize);
	put_bool(&call, args != NULL);
	put_ulong(&call, args != NULL ? args->flags : 0);
	call_send(&call);
	return call_end(&call);
}

static CK_RV initialize(const CK_C_INITIALIZE_ARGS *args)
{
	CK_RV rv;

	if (atomic_load(&transport) != TRANSPORT_NONE)
		return CKR_CRYPTOKI_ALREADY_INITIALIZED;
	if (atomic_load(&forked))
		return CKR_NO_TRANSPORT_IN_CHILD;
	atomic_store(&transport, TRANSPORT_IN_PROCESS);
	rv = send_initialize(args);
	if (rv != CKR_OK)
		atomic_store(&transport, TRANSPORT_NONE);
	return rv;
}

CK_RV C_Initialize(CK_VOID_PTR pInitArgs)
{
	CK_RV rv = check_initialize_args(pInitArgs);

	if (rv != CKR_OK)
		return rv;
	pthread_mutex_lock(&changing);
	rv = initialize(pInitArgs);
	pthread_mutex_unlock(&changing);
	return rv;
}

static CK_RV finalize(void)
{
	struct call call;

	call_begin(&call, CALL_C_Finalize);
	call_send(&call);
	/* Also after a failure: nothing is left that could be finalised once more, and C_Initialize must be possible. */
	atomic_store(&transport, TRANSPORT_NONE);
	return call_end(&call);
}

CK_RV C_Finalize(CK_VOID_PTR pReserved)
{
	CK_RV rv = boundary_ready();

	if (rv != CKR_OK)
		return rv;
	if (pReserved != NULL)
		return CKR_ARGUMENTS_BAD;
	pthread_mutex_lock(&changing);
	rv = finalize();
	pthread_mutex_unlock(&changing);
	return rv;
}

CK_RV C_GetFunctionList(CK_FUNCTION_LIST_PTR_PTR ppFunctionList)
{
	if (ppFunctionList == NULL)
		return CKR_ARGUMENTS_BAD;
	/* The standard's pointer is not const; its reader may not write through it. */
	*ppFunctionList = (CK_FUNCTION_LIST_PTR)&function_list;
	return CKR_OK;
}
