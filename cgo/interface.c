/* What an application asks before C_Initialize: the function lists (PKCS #11 v3.2, section 5.4). */
#include <stdbool.h>
#include <string.h>

#include "boundary.h"

#define COUNT (sizeof interfaces / sizeof *interfaces)

#define NAME ((CK_UTF8CHAR_PTR) "PKCS 11")

/* The newest first, which is what an application gets that does not mind. None has CKF_INTERFACE_FORK_SAFE: a forked child begins
   with C_Initialize. The standard's pointers are not const; their readers may not write through them. */
static const CK_INTERFACE interfaces[] = {
	{NAME, (CK_VOID_PTR)&function_list_3_2, 0},
	{NAME, (CK_VOID_PTR)&function_list_3_0, 0},
	{NAME, (CK_VOID_PTR)&function_list, 0},
};

CK_RV C_GetFunctionList(CK_FUNCTION_LIST_PTR_PTR ppFunctionList)
{
	if (ppFunctionList == NULL)
		return CKR_ARGUMENTS_BAD;
	*ppFunctionList = (CK_FUNCTION_LIST_PTR)&function_list;
	return CKR_OK;
}

CK_RV C_GetInterfaceList(CK_INTERFACE_PTR pInterfacesList, CK_ULONG_PTR pulCount)
{
	CK_ULONG room;

	if (pulCount == NULL)
		return CKR_ARGUMENTS_BAD;
	room = *pulCount;
	*pulCount = COUNT;
	if (pInterfacesList == NULL)
		return CKR_OK;
	if (room < COUNT)
		return CKR_BUFFER_TOO_SMALL;
	memcpy(pInterfacesList, interfaces, sizeof interfaces);
	return CKR_OK;
}

static bool fits(const CK_INTERFACE *i, const CK_UTF8CHAR *wanted, const CK_VERSION *version, CK_FLAGS flags)
{
	const CK_VERSION *has = i->pFunctionList; /* every list begins with it */

	if (wanted != NULL && strcmp((const char *)wanted, (const char *)i->pInterfaceName) != 0)
		return false;
	if (version != NULL && (version->major != has->major || version->minor != has->minor))
		return false;
	return (flags & ~i->flags) == 0;
}

CK_RV C_GetInterface(CK_UTF8CHAR_PTR pInterfaceName, CK_VERSION_PTR pVersion, CK_INTERFACE_PTR_PTR ppInterface, CK_FLAGS flags)
{
	if (ppInterface == NULL)
		return CKR_ARGUMENTS_BAD;
	for (CK_ULONG i = 0; i < COUNT; i++)
		if (fits(&interfaces[i], pInterfaceName, pVersion, flags)) {
			*ppInterface = (CK_INTERFACE_PTR)&interfaces[i];
			return CKR_OK;
		}
	return CKR_ARGUMENTS_BAD;
}
