/* What the C applications share: the module loaded, one session, signatures by an EC key. */
#ifndef HOST_H
#define HOST_H

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../cgo/cryptoki.h"
#include "../../cgo/testdata/check.h"

#define CKA_CLASS 0x00UL
#define CKA_LABEL 0x03UL
#define CKO_PUBLIC_KEY 2UL
#define CKO_PRIVATE_KEY 3UL
#define CKM_SHA256 0x250UL
#define CKM_ECDSA_SHA256 0x1044UL

#define CKR_SESSION_HANDLE_INVALID 0xB3UL
#define CKR_OPERATION_NOT_INITIALIZED 0x91UL

#define P256_SIGNATURE 64
#define CALL_PATIENCE 60 /* seconds, after which a call hangs, on a busy machine too */

static CK_FUNCTION_LIST_PTR p11;
static CK_BYTE message[] = "the contract";
static CK_MECHANISM ecdsa = {CKM_ECDSA_SHA256, NULL, 0};

static inline void *load(const char *path)
{
	CK_RV (*get_list)(CK_FUNCTION_LIST_PTR_PTR);
	void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);

	if (library == NULL) {
		fprintf(stderr, "%s\n", dlerror());
		exit(1);
	}
	*(void **)&get_list = dlsym(library, "C_GetFunctionList");
	CHECK_RV(get_list(&p11), CKR_OK);
	return library;
}

static inline CK_SESSION_HANDLE open_session(void)
{
	CK_SESSION_HANDLE session = 0;

	CHECK_RV(p11->C_OpenSession(0, CKF_SERIAL_SESSION, NULL, NULL, &session), CKR_OK);
	return session;
}

/* The only object of a class with a label. */
static inline CK_OBJECT_HANDLE find(CK_SESSION_HANDLE session, CK_ULONG class, const char *label)
{
	CK_ATTRIBUTE wanted[] = {{CKA_CLASS, &class, sizeof class}, {CKA_LABEL, (void *)label, strlen(label)}};
	CK_OBJECT_HANDLE found[2] = {0, 0};
	CK_ULONG n = 0;

	CHECK_RV(p11->C_FindObjectsInit(session, wanted, 2), CKR_OK);
	CHECK_RV(p11->C_FindObjects(session, found, 2, &n), CKR_OK);
	CHECK_RV(p11->C_FindObjectsFinal(session), CKR_OK);
	CHECK(n == 1);
	return found[0];
}

/* Signs and verifies. */
static inline void sign(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE private, CK_OBJECT_HANDLE public)
{
	CK_BYTE signature[P256_SIGNATURE];
	CK_ULONG n = sizeof signature;

	CHECK_RV(p11->C_SignInit(session, &ecdsa, private), CKR_OK);
	CHECK_RV(p11->C_Sign(session, message, sizeof message, signature, &n), CKR_OK);
	CHECK(n == P256_SIGNATURE);
	CHECK_RV(p11->C_VerifyInit(session, &ecdsa, public), CKR_OK);
	CHECK_RV(p11->C_Verify(session, message, sizeof message, signature, n), CKR_OK);
}

#endif
