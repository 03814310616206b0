/* Functions that do two things to the same data (PKCS #11 v3.2, section 5.16). They are two of the others each, so that what those know of
   buffers, and what a transport keeps of them, holds here too. */
#include "boundary.h"

typedef CK_RV (*transform_function)(CK_SESSION_HANDLE, CK_BYTE_PTR, CK_ULONG, CK_BYTE_PTR, CK_ULONG_PTR);
typedef CK_RV (*observe_function)(CK_SESSION_HANDLE, CK_BYTE_PTR, CK_ULONG);

/* What goes through one operation, and which of its sides the other one sees. */
struct dual {
	transform_function transform;
	observe_function observe;
	CK_BBOOL result; /* the other sees what comes out, not what goes in */
	CK_FLAGS operations;
};

static CK_RV both(const struct dual *d, CK_SESSION_HANDLE session, CK_BYTE_PTR part, CK_ULONG length, CK_BYTE_PTR out, CK_ULONG_PTR room)
{
	CK_ULONG needed = 0;
	/* A query of the length checks the arguments, and takes nothing in. So does no data at all. */
	CK_RV rv = d->transform(session, part, length, NULL, room == NULL ? NULL : &needed);

	if (rv == CKR_OK)
		rv = d->observe(session, NULL, 0);
	if (rv != CKR_OK)
		return rv;
	if (out == NULL || *room < needed) {
		*room = needed;
		return out == NULL ? CKR_OK : CKR_BUFFER_TOO_SMALL;
	}
	/* What is seen first may lie where the result goes. */
	if (!d->result)
		rv = d->observe(session, part, length);
	if (rv == CKR_OK)
		rv = d->transform(session, part, length, out, room);
	if (rv == CKR_OK && d->result)
		rv = d->observe(session, out, *room);
	if (rv != CKR_OK)
		C_SessionCancel(session, d->operations); /* one may have seen what the other has not */
	return rv;
}

#define CKF_ENCRYPT 0x100UL
#define CKF_DECRYPT 0x200UL
#define CKF_DIGEST 0x400UL
#define CKF_SIGN 0x800UL
#define CKF_VERIFY 0x2000UL

CK_RV C_DigestEncryptUpdate(CK_SESSION_HANDLE hSession, CK_BYTE_PTR pPart, CK_ULONG ulPartLen, CK_BYTE_PTR pEncryptedPart, CK_ULONG_PTR pulEncryptedPartLen)
{
	static const struct dual d = {C_EncryptUpdate, C_DigestUpdate, CK_FALSE, CKF_ENCRYPT | CKF_DIGEST};

	return both(&d, hSession, pPart, ulPartLen, pEncryptedPart, pulEncryptedPartLen);
}

CK_RV C_DecryptDigestUpdate(CK_SESSION_HANDLE hSession, CK_BYTE_PTR pEncryptedPart, CK_ULONG ulEncryptedPartLen, CK_BYTE_PTR pPart, CK_ULONG_PTR pulPartLen)
{
	static const struct dual d = {C_DecryptUpdate, C_DigestUpdate, CK_TRUE, CKF_DECRYPT | CKF_DIGEST};

	return both(&d, hSession, pEncryptedPart, ulEncryptedPartLen, pPart, pulPartLen);
}

CK_RV C_SignEncryptUpdate(CK_SESSION_HANDLE hSession, CK_BYTE_PTR pPart, CK_ULONG ulPartLen, CK_BYTE_PTR pEncryptedPart, CK_ULONG_PTR pulEncryptedPartLen)
{
	static const struct dual d = {C_EncryptUpdate, C_SignUpdate, CK_FALSE, CKF_ENCRYPT | CKF_SIGN};

	return both(&d, hSession, pPart, ulPartLen, pEncryptedPart, pulEncryptedPartLen);
}

CK_RV C_DecryptVerifyUpdate(CK_SESSION_HANDLE hSession, CK_BYTE_PTR pEncryptedPart, CK_ULONG ulEncryptedPartLen, CK_BYTE_PTR pPart, CK_ULONG_PTR pulPartLen)
{
	static const struct dual d = {C_DecryptUpdate, C_VerifyUpdate, CK_TRUE, CKF_DECRYPT | CKF_VERIFY};

	return both(&d, hSession, pEncryptedPart, ulEncryptedPartLen, pPart, pulPartLen);
}
