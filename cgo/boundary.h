/* Where calls go: the transport this process uses, and what fork() does to it. */
#ifndef BOUNDARY_H
#define BOUNDARY_H

#include "cryptoki.h"

/* CKR_OK if this process has a transport: if C_Initialize was called in it. CKR_CRYPTOKI_NOT_INITIALIZED otherwise. */
CK_RV boundary_ready(void);

/* Sends a request, and waits for its response: malloc'ed, the caller's to wipe and free. A result other than CKR_OK means that none came. */
CK_RV boundary_exchange(const unsigned char *request, size_t request_length, unsigned char **response, size_t *response_length);

/* What C_GetFunctionList and C_GetInterface give (functionlist_gen.c). */
extern const CK_FUNCTION_LIST function_list;
extern const CK_FUNCTION_LIST_3_0 function_list_3_0;
extern const CK_FUNCTION_LIST_3_2 function_list_3_2;

#endif
