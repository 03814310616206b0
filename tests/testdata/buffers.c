/* Buffers that are too small, lengths that cannot be, pointers that are NULL.
   Usage: buffers /path/to/tpm2-p11.so; the token has the keys "web" (P-256) and "mail" (RSA-2048, decrypts). */
#include "host.h"

#define RSA_2048_SIZE 256
#define CKG_MGF1_SHA256 2UL
#define CKZ_DATA_SPECIFIED 1UL
#define CKU_USER 1UL
#define ABSURD (~0UL)
#define UNTOUCHED 0xA5

static CK_OBJECT_HANDLE web, web_public, mail, mail_public;

/* A buffer whose every byte tells whether it was written to. */
static CK_BYTE buffer[1024];

static void refill(void) { memset(buffer, UNTOUCHED, sizeof buffer); }

static int untouched_from(size_t at)
{
	for (; at < sizeof buffer; at++)
		if (buffer[at] != UNTOUCHED)
			return 0;
	return 1;
}

/* One function that gives length bytes: asked for the length, given too little, given enough. */
#define CHECK_BUFFER(length, call) \
	do { \
		CK_ULONG n = 0; \
		CK_BYTE *out = NULL; \
		CHECK_RV(call, CKR_OK); \
		CHECK(n == (length)); \
		CHECK_RV(call, CKR_OK); \
		out = buffer; \
		for (CK_ULONG room = 0; room < (length); room += (length)-1) { \
			refill(); \
			n = room; \
			CHECK_RV(call, CKR_BUFFER_TOO_SMALL); \
			CHECK(n == (length)); \
			CHECK(untouched_from(0)); \
		} \
		refill(); \
		n = sizeof buffer; \
		CHECK_RV(call, CKR_OK); \
		CHECK(n == (length)); \
		CHECK(untouched_from(n) && !untouched_from(0)); \
		CHECK_RV(call, CKR_OPERATION_NOT_INITIALIZED); \
	} while (0)

static void small_buffers_keep_the_operation(CK_SESSION_HANDLE s)
{
	CK_MECHANISM sha256 = {CKM_SHA256, NULL, 0};

	CHECK_RV(p11->C_SignInit(s, &ecdsa, web), CKR_OK);
	CHECK_BUFFER(P256_SIGNATURE, p11->C_Sign(s, message, sizeof message, out, &n));
	CHECK_RV(p11->C_SignInit(s, &ecdsa, web), CKR_OK);
	CHECK_RV(p11->C_SignUpdate(s, message, sizeof message), CKR_OK);
	CHECK_BUFFER(P256_SIGNATURE, p11->C_SignFinal(s, out, &n));
	CHECK_RV(p11->C_VerifyInit(s, &ecdsa, web_public), CKR_OK);
	CHECK_RV(p11->C_Verify(s, message, sizeof message, buffer, P256_SIGNATURE), CKR_OK);
	CHECK_RV(p11->C_DigestInit(s, &sha256), CKR_OK);
	CHECK_BUFFER(32, p11->C_Digest(s, message, sizeof message, out, &n));
	CHECK_RV(p11->C_DigestInit(s, &sha256), CKR_OK);
	CHECK_RV(p11->C_DigestUpdate(s, message, sizeof message), CKR_OK);
	CHECK_BUFFER(32, p11->C_DigestFinal(s, out, &n));
}

/* The length of a plaintext is known only when it is decrypted: what is told before may be more. */
static void small_buffers_keep_the_decryption(CK_SESSION_HANDLE s)
{
	CK_RSA_PKCS_OAEP_PARAMS parameters = {CKM_SHA256, CKG_MGF1_SHA256, CKZ_DATA_SPECIFIED, NULL, 0};
	CK_MECHANISM oaep = {CKM_RSA_PKCS_OAEP, &parameters, sizeof parameters};
	CK_BYTE ciphertext[RSA_2048_SIZE];
	CK_ULONG n = sizeof ciphertext;

	CHECK_RV(p11->C_EncryptInit(s, &oaep, mail_public), CKR_OK);
	CHECK_RV(p11->C_Encrypt(s, message, sizeof message, ciphertext, &n), CKR_OK);
	CHECK(n == sizeof ciphertext);

	CHECK_RV(p11->C_DecryptInit(s, &oaep, mail), CKR_OK);
	CHECK_RV(p11->C_Decrypt(s, ciphertext, n, NULL, &n), CKR_OK);
	CHECK(n >= sizeof message && n <= sizeof ciphertext);
	for (CK_ULONG room = 0; room < sizeof message; room += sizeof message - 1) {
		refill();
		n = room;
		CHECK_RV(p11->C_Decrypt(s, ciphertext, sizeof ciphertext, buffer, &n), CKR_BUFFER_TOO_SMALL);
		CHECK(n >= sizeof message);
		CHECK(untouched_from(0));
	}
	refill();
	n = sizeof message; /* exactly */
	CHECK_RV(p11->C_Decrypt(s, ciphertext, sizeof ciphertext, buffer, &n), CKR_OK);
	CHECK(n == sizeof message && memcmp(buffer, message, n) == 0 && untouched_from(n));
	CHECK_RV(p11->C_Decrypt(s, ciphertext, sizeof ciphertext, buffer, &n), CKR_OPERATION_NOT_INITIALIZED);
}

static void small_buffers_for_attributes(CK_SESSION_HANDLE s)
{
	CK_ULONG class = 0;
	CK_BYTE label[3];
	CK_ATTRIBUTE wanted[] = {{CKA_LABEL, NULL, 0}, {0x7000UL, NULL, 0}, {CKA_CLASS, &class, sizeof class}};

	CHECK_RV(p11->C_GetAttributeValue(s, web, wanted, 3), CKR_ATTRIBUTE_TYPE_INVALID);
	CHECK(wanted[0].ulValueLen == 3 && wanted[1].ulValueLen == CK_UNAVAILABLE_INFORMATION && class == CKO_PRIVATE_KEY);
	class = 0;
	wanted[0] = (CK_ATTRIBUTE){CKA_LABEL, label, 2};
	CHECK_RV(p11->C_GetAttributeValue(s, web, wanted, 1), CKR_BUFFER_TOO_SMALL);
	CHECK(wanted[0].ulValueLen == CK_UNAVAILABLE_INFORMATION);
	wanted[0].ulValueLen = ABSURD;
	CHECK_RV(p11->C_GetAttributeValue(s, web, wanted, 1), CKR_OK);
	CHECK(wanted[0].ulValueLen == 3 && memcmp(label, "web", 3) == 0);
}

/* Each refusal, with the operation it needs, in a session that ends after it. */
#define CHECK_REFUSED(init, call, want) \
	do { \
		CK_SESSION_HANDLE s = open_session(); \
		CHECK_RV(init, CKR_OK); \
		CHECK_RV(call, want); \
		CHECK_RV(p11->C_CloseSession(s), CKR_OK); \
		s = open_session(); \
		sign(s, web, web_public); \
		CHECK_RV(p11->C_CloseSession(s), CKR_OK); \
	} while (0)

/* A call that fails ends its operation, also one that is not even looked at. A search goes on. */
#define CHECK_ENDED(init, call, want, next) \
	do { \
		CK_SESSION_HANDLE s = open_session(); \
		CHECK_RV(init, CKR_OK); \
		CHECK_RV(call, want); \
		CHECK_RV(next, CKR_OPERATION_NOT_INITIALIZED); \
		CHECK_RV(init, CKR_OK); \
		CHECK_RV(p11->C_CloseSession(s), CKR_OK); \
	} while (0)

static void absurd_calls_end_their_operation(void)
{
	CK_BYTE out[RSA_2048_SIZE] = {0};
	CK_ULONG n = sizeof out;
	CK_OBJECT_HANDLE found[1];
	CK_MECHANISM sha256 = {CKM_SHA256, NULL, 0};
	CK_RSA_PKCS_OAEP_PARAMS parameters = {CKM_SHA256, CKG_MGF1_SHA256, CKZ_DATA_SPECIFIED, NULL, 0};
	CK_MECHANISM oaep = {CKM_RSA_PKCS_OAEP, &parameters, sizeof parameters};
	CK_SESSION_HANDLE searching = open_session();

	CHECK_ENDED(p11->C_SignInit(s, &ecdsa, web), p11->C_Sign(s, NULL, 5, out, &n), CKR_ARGUMENTS_BAD, p11->C_Sign(s, message, 5, NULL, &n));
	CHECK_ENDED(p11->C_SignInit(s, &ecdsa, web), p11->C_Sign(s, message, ABSURD, out, &n), CKR_DATA_LEN_RANGE, p11->C_Sign(s, message, 5, NULL, &n));
	CHECK_ENDED(p11->C_SignInit(s, &ecdsa, web), p11->C_Sign(s, message, 5, out, NULL), CKR_ARGUMENTS_BAD, p11->C_Sign(s, message, 5, NULL, &n));
	CHECK_ENDED(p11->C_SignInit(s, &ecdsa, web), p11->C_SignUpdate(s, NULL, 5), CKR_ARGUMENTS_BAD, p11->C_SignFinal(s, NULL, &n));
	CHECK_ENDED(p11->C_VerifyInit(s, &ecdsa, web_public), p11->C_Verify(s, message, 5, NULL, 64), CKR_ARGUMENTS_BAD, p11->C_Verify(s, message, 5, out, 64));
	CHECK_ENDED(p11->C_DigestInit(s, &sha256), p11->C_Digest(s, NULL, 5, out, &n), CKR_ARGUMENTS_BAD, p11->C_Digest(s, message, 5, NULL, &n));
	CHECK_ENDED(p11->C_EncryptInit(s, &oaep, mail_public), p11->C_Encrypt(s, NULL, 5, out, &n), CKR_ARGUMENTS_BAD, p11->C_Encrypt(s, message, 5, NULL, &n));
	CHECK_ENDED(p11->C_DecryptInit(s, &oaep, mail), p11->C_Decrypt(s, out, ABSURD, out, &n), CKR_ENCRYPTED_DATA_LEN_RANGE, p11->C_Decrypt(s, out, sizeof out, NULL, &n));

	CHECK_RV(p11->C_FindObjectsInit(searching, NULL, 0), CKR_OK);
	CHECK_RV(p11->C_FindObjects(searching, NULL, 5, &n), CKR_ARGUMENTS_BAD);
	CHECK_RV(p11->C_FindObjects(searching, found, 1, &n), CKR_OK);
	CHECK(n == 1);
	CHECK_RV(p11->C_CloseSession(searching), CKR_OK);
}

static void absurd_calls_are_refused(void)
{
	CK_BYTE signature[P256_SIGNATURE] = {0};
	CK_ULONG n = sizeof signature;
	CK_OBJECT_HANDLE found[1];
	CK_ATTRIBUTE absurd = {CKA_LABEL, message, ABSURD}, null = {CKA_LABEL, NULL, 5};
	CK_RSA_PKCS_OAEP_PARAMS parameters = {CKM_SHA256, CKG_MGF1_SHA256, CKZ_DATA_SPECIFIED, message, ABSURD};
	CK_MECHANISM endless = {CKM_ECDSA_SHA256, message, ABSURD}, cut = {CKM_RSA_PKCS_OAEP, &parameters, 4},
		label = {CKM_RSA_PKCS_OAEP, &parameters, sizeof parameters};

	CHECK_REFUSED(CKR_OK, p11->C_SignInit(s, NULL, web), CKR_ARGUMENTS_BAD);
	CHECK_REFUSED(CKR_OK, p11->C_SignInit(s, &endless, web), CKR_MECHANISM_PARAM_INVALID);
	CHECK_REFUSED(CKR_OK, p11->C_DecryptInit(s, &cut, mail), CKR_MECHANISM_PARAM_INVALID);
	CHECK_REFUSED(CKR_OK, p11->C_DecryptInit(s, &label, mail), CKR_MECHANISM_PARAM_INVALID);
	CHECK_REFUSED(p11->C_SignInit(s, &ecdsa, web), p11->C_Sign(s, NULL, 5, signature, &n), CKR_ARGUMENTS_BAD);
	CHECK_REFUSED(p11->C_SignInit(s, &ecdsa, web), p11->C_Sign(s, message, sizeof message, signature, NULL), CKR_ARGUMENTS_BAD);
	CHECK_REFUSED(p11->C_SignInit(s, &ecdsa, web), p11->C_Sign(s, message, ABSURD, signature, &n), CKR_DATA_LEN_RANGE);
	CHECK_REFUSED(p11->C_SignInit(s, &ecdsa, web), p11->C_SignUpdate(s, NULL, 5), CKR_ARGUMENTS_BAD);
	CHECK_REFUSED(p11->C_VerifyInit(s, &ecdsa, web_public), p11->C_Verify(s, message, 5, signature, ABSURD), CKR_SIGNATURE_LEN_RANGE);
	CHECK_REFUSED(p11->C_VerifyInit(s, &ecdsa, web_public), p11->C_Verify(s, message, 5, NULL, sizeof signature), CKR_ARGUMENTS_BAD);
	CHECK_REFUSED(CKR_OK, p11->C_FindObjectsInit(s, &absurd, 1), CKR_ATTRIBUTE_VALUE_INVALID);
	CHECK_REFUSED(CKR_OK, p11->C_FindObjectsInit(s, &null, 1), CKR_ATTRIBUTE_VALUE_INVALID);
	CHECK_REFUSED(CKR_OK, p11->C_FindObjectsInit(s, &absurd, ABSURD), CKR_ARGUMENTS_BAD);
	CHECK_REFUSED(CKR_OK, p11->C_FindObjectsInit(s, NULL, 1), CKR_ARGUMENTS_BAD);
	CHECK_REFUSED(p11->C_FindObjectsInit(s, NULL, 0), p11->C_FindObjects(s, found, ABSURD, &n), CKR_ARGUMENTS_BAD);
	CHECK_REFUSED(CKR_OK, p11->C_GetAttributeValue(s, web, &absurd, ABSURD), CKR_ARGUMENTS_BAD);
	CHECK_REFUSED(CKR_OK, p11->C_GenerateRandom(s, signature, ABSURD), CKR_ARGUMENTS_BAD);
	CHECK_REFUSED(CKR_OK, p11->C_GenerateRandom(s, NULL, 5), CKR_ARGUMENTS_BAD);
	CHECK_REFUSED(CKR_OK, p11->C_Login(s, CKU_USER, message, ABSURD), CKR_PIN_LEN_RANGE);
	CHECK_REFUSED(CKR_OK, p11->C_Login(s, CKU_USER, NULL, 5), CKR_ARGUMENTS_BAD);
	CHECK_REFUSED(CKR_OK, p11->C_GetMechanismList(0, NULL, NULL), CKR_ARGUMENTS_BAD);
}

int main(int argc, char **argv)
{
	CK_SESSION_HANDLE session;

	if (argc != 2)
		return 2;
	load(argv[1]);
	CHECK_RV(p11->C_Initialize(NULL), CKR_OK);
	session = open_session();
	web = find(session, CKO_PRIVATE_KEY, "web");
	web_public = find(session, CKO_PUBLIC_KEY, "web");
	mail = find(session, CKO_PRIVATE_KEY, "mail");
	mail_public = find(session, CKO_PUBLIC_KEY, "mail");
	small_buffers_keep_the_operation(session);
	small_buffers_keep_the_decryption(session);
	small_buffers_for_attributes(session);
	absurd_calls_are_refused();
	absurd_calls_end_their_operation();
	CHECK_RV(p11->C_Finalize(NULL), CKR_OK);
	return failures != 0;
}
