/* The C half of the boundary against a Cryptoki that is played: what it sends, and what it does with any answer.
   Built with the address and undefined behaviour sanitizers. */
#include <malloc.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../call.h"
#include "check.h"

/* The player: it keeps the last request, and answers with what was set. */
static unsigned char request[MAX_MESSAGE + 1], answer[MAX_MESSAGE + 1];
static size_t request_length, answer_length;
static unsigned long requests;
static size_t request_bytes; /* of all requests */

void tpm2p11Dispatch(void *bytes, size_t length, void **response, size_t *response_length);
void tpm2p11Release(void);

void tpm2p11Settings(char *module, void **settings, size_t *length);
void tpm2p11Hold(int helped);
void tpm2p11Resume(void);

/* The program ends without C_Finalize: there is nothing to let go of. */
void tpm2p11Release(void)
{
}

/* No socket, no helper, no environment. */
void tpm2p11Settings(char *module, void **settings, size_t *length)
{
	(void)module;
	*settings = calloc(1, 3);
	*length = 3;
}

/* It does not fork. */
void tpm2p11Hold(int helped)
{
	CHECK(helped != helped);
}

void tpm2p11Resume(void)
{
}

void tpm2p11Dispatch(void *bytes, size_t length, void **response, size_t *response_length)
{
	CHECK(length <= MAX_MESSAGE);
	memcpy(request, bytes, length);
	request_length = length;
	requests++;
	request_bytes += length;
	*response = malloc(answer_length ? answer_length : 1);
	memcpy(*response, answer, answer_length);
	*response_length = answer_length;
}

/* Every block is looked at when it is freed: no secret may be left in it. */
#define CANARY "canary-7f3a"

void __real_free(void *block);
void __wrap_free(void *block);

void __wrap_free(void *block)
{
	CHECK(block == NULL || memmem(block, malloc_usable_size(block), CANARY, strlen(CANARY)) == NULL);
	__real_free(block);
}

static void add(unsigned char *to, size_t *length, const void *bytes, size_t n)
{
	memcpy(to + *length, bytes, n);
	*length += n;
}

static void answer_u64(uint64_t n) { add(answer, &answer_length, &n, sizeof n); }
static void answer_u8(uint8_t n) { add(answer, &answer_length, &n, sizeof n); }
static void answer_bytes(const char *s)
{
	answer_u64(strlen(s));
	add(answer, &answer_length, s, strlen(s));
}
static void answer_rv(CK_RV rv)
{
	answer_length = 0;
	answer_u64(rv);
}

/* What the last request must have been. */
static unsigned char expected[MAX_MESSAGE];
static size_t expected_length;

static void expect(uint32_t number)
{
	expected_length = 0;
	add(expected, &expected_length, &number, sizeof number);
}
static void expect_u64(uint64_t n) { add(expected, &expected_length, &n, sizeof n); }
static void expect_u8(uint8_t n) { add(expected, &expected_length, &n, sizeof n); }
static void expect_bytes(const char *s)
{
	expect_u64(strlen(s));
	add(expected, &expected_length, s, strlen(s));
}

#define CHECK_REQUEST() CHECK(request_length == expected_length && memcmp(request, expected, expected_length) == 0)

static bool told_of_a_refusal(void)
{
	uint32_t number;

	memcpy(&number, request, sizeof number);
	return number == CALL_REFUSED && request_length == 2 * sizeof number + sizeof(uint64_t);
}

/* A call that must be refused before anything of it is sent. That there was one is told where it ends an operation. */
#define CHECK_REFUSED(expression, want) \
	do { \
		unsigned long before_ = requests; \
		CHECK_RV(expression, want); \
		CHECK(requests == before_ || (requests == before_ + 1 && told_of_a_refusal())); \
	} while (0)

static CK_RV some_mutex(CK_VOID_PTR mutex) { return mutex == NULL; }
static CK_RV some_create(CK_VOID_PTR_PTR mutex) { return mutex == NULL; }

typedef CK_RV (*any_function)(CK_ULONG, CK_ULONG, CK_ULONG, CK_ULONG, CK_ULONG, CK_ULONG, CK_ULONG, CK_ULONG);

static void nothing_is_sent_before_initialize(void)
{
	CK_FUNCTION_LIST_PTR list = NULL;
	any_function *functions;
	size_t count = (sizeof *list - offsetof(CK_FUNCTION_LIST, C_Initialize)) / sizeof *functions;

	CHECK_RV(C_GetFunctionList(NULL), CKR_ARGUMENTS_BAD);
	CHECK_RV(C_GetFunctionList(&list), CKR_OK);
	CHECK(list->version.major == 2 && list->version.minor == 40);
	functions = (any_function *)&list->C_Initialize;
	for (size_t i = 1; i < count; i++)
		if ((void *)functions[i] != (void *)C_GetFunctionList)
			CHECK_REFUSED(functions[i](0, 0, 0, 0, 0, 0, 0, 0), CKR_CRYPTOKI_NOT_INITIALIZED);
}

static void initialize_checks_its_arguments(void)
{
	CK_C_INITIALIZE_ARGS args = {0};

	args.pReserved = &args;
	CHECK_REFUSED(C_Initialize(&args), CKR_ARGUMENTS_BAD);
	args.pReserved = NULL;
	args.CreateMutex = some_create;
	args.flags = CKF_OS_LOCKING_OK;
	CHECK_REFUSED(C_Initialize(&args), CKR_ARGUMENTS_BAD);
	args.DestroyMutex = args.LockMutex = args.UnlockMutex = some_mutex;
	args.flags = 0;
	CHECK_REFUSED(C_Initialize(&args), CKR_CANT_LOCK);

	args.flags = CKF_OS_LOCKING_OK;
	answer_rv(CKR_HOST_MEMORY);
	CHECK_RV(C_Initialize(&args), CKR_HOST_MEMORY);
	expect(1), expect_u8(1), expect_u64(CKF_OS_LOCKING_OK);
	CHECK_REQUEST();
	CHECK_REFUSED(C_Finalize(NULL), CKR_CRYPTOKI_NOT_INITIALIZED);

	answer_rv(CKR_OK);
	CHECK_RV(C_Initialize(NULL), CKR_OK);
	expect(1), expect_u8(0), expect_u64(0);
	CHECK_REQUEST();
	CHECK_REFUSED(C_Initialize(NULL), CKR_CRYPTOKI_ALREADY_INITIALIZED);
	CHECK_REFUSED(C_Finalize(&args), CKR_ARGUMENTS_BAD);
	CHECK_RV(C_Finalize(NULL), CKR_OK);
	CHECK_REFUSED(C_Finalize(NULL), CKR_CRYPTOKI_NOT_INITIALIZED);
	CHECK_RV(C_Initialize(NULL), CKR_OK);
}

static void null_pointers_are_refused(void)
{
	CK_BYTE byte = 0;
	CK_ULONG n = 1;
	CK_MECHANISM mechanism = {1, NULL, 0};

	answer_rv(CKR_OK);
	CHECK_REFUSED(C_GetInfo(NULL), CKR_ARGUMENTS_BAD);
	CHECK_REFUSED(C_GetSlotList(CK_TRUE, NULL, NULL), CKR_ARGUMENTS_BAD);
	CHECK_REFUSED(C_GetSlotInfo(0, NULL), CKR_ARGUMENTS_BAD);
	CHECK_REFUSED(C_GetMechanismList(0, NULL, NULL), CKR_ARGUMENTS_BAD);
	CHECK_REFUSED(C_OpenSession(0, CKF_SERIAL_SESSION, NULL, NULL, NULL), CKR_ARGUMENTS_BAD);
	CHECK_REFUSED(C_InitToken(0, &byte, 1, NULL), CKR_ARGUMENTS_BAD);
	CHECK_REFUSED(C_Login(1, 1, NULL, 4), CKR_ARGUMENTS_BAD);
	CHECK_REFUSED(C_MessageSignInit(1, NULL, 1), CKR_ARGUMENTS_BAD);
	CHECK_REFUSED(C_Sign(1, NULL, 1, &byte, &n), CKR_ARGUMENTS_BAD);
	CHECK_REFUSED(C_Sign(1, &byte, 1, &byte, NULL), CKR_ARGUMENTS_BAD);
	CHECK_REFUSED(C_SignUpdate(1, NULL, 1), CKR_ARGUMENTS_BAD);
	CHECK_REFUSED(C_FindObjectsInit(1, NULL, 1), CKR_ARGUMENTS_BAD);
	CHECK_REFUSED(C_FindObjects(1, NULL, 1, &n), CKR_ARGUMENTS_BAD);
	CHECK_REFUSED(C_FindObjects(1, &n, 1, NULL), CKR_ARGUMENTS_BAD);
	CHECK_REFUSED(C_GetAttributeValue(1, 1, NULL, 1), CKR_ARGUMENTS_BAD);
	CHECK_REFUSED(C_GenerateRandom(1, NULL, 1), CKR_ARGUMENTS_BAD);
	CHECK_REFUSED(C_GenerateKeyPair(1, &mechanism, NULL, 0, NULL, 0, NULL, &n), CKR_ARGUMENTS_BAD);
	CHECK_REFUSED(C_GenerateKeyPair(1, &mechanism, NULL, 0, NULL, 0, &n, NULL), CKR_ARGUMENTS_BAD);
}

static void absurd_lengths_are_refused(void)
{
	static CK_BYTE bytes[2 * MAX_MESSAGE];
	CK_BYTE byte = 0;
	CK_ULONG n = 1, object;
	CK_ATTRIBUTE attribute = {3, &byte, ~0UL};

	answer_rv(CKR_OK);
	CHECK_REFUSED(C_Sign(1, &byte, ~0UL, &byte, &n), CKR_DATA_LEN_RANGE);
	CHECK_REFUSED(C_Sign(1, bytes, MAX_MESSAGE, &byte, &n), CKR_DATA_LEN_RANGE);
	CHECK_REFUSED(C_Decrypt(1, bytes, sizeof bytes, &byte, &n), CKR_ENCRYPTED_DATA_LEN_RANGE);
	CHECK_REFUSED(C_Verify(1, &byte, 1, bytes, sizeof bytes), CKR_SIGNATURE_LEN_RANGE);
	CHECK_REFUSED(C_Login(1, 1, &byte, ~0UL), CKR_PIN_LEN_RANGE);
	CHECK_REFUSED(C_SignUpdate(1, &byte, ~0UL), CKR_ARGUMENTS_BAD);
	CHECK_REFUSED(C_GenerateRandom(1, &byte, ~0UL), CKR_ARGUMENTS_BAD);
	CHECK_REFUSED(C_FindObjectsInit(1, &attribute, ~0UL / 8), CKR_ARGUMENTS_BAD);
	CHECK_REFUSED(C_GetAttributeValue(1, 1, &attribute, 1UL << 61), CKR_ARGUMENTS_BAD);
	CHECK_REFUSED(C_FindObjectsInit(1, &attribute, 1), CKR_ATTRIBUTE_VALUE_INVALID);
	attribute.pValue = NULL, attribute.ulValueLen = 1;
	CHECK_REFUSED(C_CreateObject(1, &attribute, 1, &object), CKR_ATTRIBUTE_VALUE_INVALID);
}

static void nested_attributes_are_refused(void)
{
	CK_ATTRIBUTE inner = {0, NULL, 0}, outer = {CKF_ARRAY_ATTRIBUTE | 0x211, &inner, sizeof inner};
	CK_ULONG mechanisms[] = {1, 2};

	answer_rv(CKR_OK);
	CHECK_REFUSED(C_FindObjectsInit(1, &outer, 1), CKR_ATTRIBUTE_VALUE_INVALID);
	outer = (CK_ATTRIBUTE){CKA_ALLOWED_MECHANISMS, mechanisms, sizeof mechanisms};
	CHECK_RV(C_FindObjectsInit(1, &outer, 1), CKR_OK);
	outer = (CK_ATTRIBUTE){CKA_VENDOR_DEFINED | CKF_ARRAY_ATTRIBUTE | 1, mechanisms, sizeof mechanisms};
	CHECK_RV(C_FindObjectsInit(1, &outer, 1), CKR_OK);
	expect(27), expect_u64(1), expect_u64(1), expect_u64(outer.type), expect_u64(16), expect_u64(1), expect_u64(2);
	CHECK_REQUEST();
}

static void mechanism_parameters_are_flattened(void)
{
	CK_RSA_PKCS_PSS_PARAMS pss = {0x250, 2, 32};
	CK_RSA_PKCS_OAEP_PARAMS oaep = {0x250, 2, 1, "label", 5};
	CK_GCM_PARAMS gcm = {(CK_BYTE_PTR) "iv", 2, 16, (CK_BYTE_PTR) "aad", 3, 128};
	CK_MECHANISM mechanism = {CKM_SHA256_RSA_PKCS_PSS, &pss, sizeof pss};

	answer_rv(CKR_OK);
	CHECK_RV(C_SignInit(5, &mechanism, 6), CKR_OK);
	expect(43), expect_u64(5), expect_u64(mechanism.mechanism), expect_u64(24), expect_u64(0x250), expect_u64(2), expect_u64(32), expect_u64(6);
	CHECK_REQUEST();
	mechanism.ulParameterLen--;
	CHECK_REFUSED(C_SignInit(5, &mechanism, 6), CKR_MECHANISM_PARAM_INVALID);

	mechanism = (CK_MECHANISM){CKM_RSA_PKCS_OAEP, &oaep, sizeof oaep};
	CHECK_RV(C_DecryptInit(5, &mechanism, 6), CKR_OK);
	expect(34), expect_u64(5), expect_u64(CKM_RSA_PKCS_OAEP), expect_u64(8 * 4 + 5), expect_u64(0x250), expect_u64(2), expect_u64(1), expect_bytes("label"), expect_u64(6);
	CHECK_REQUEST();
	oaep.pSourceData = NULL;
	CHECK_REFUSED(C_DecryptInit(5, &mechanism, 6), CKR_MECHANISM_PARAM_INVALID);
	oaep.ulSourceDataLen = 0;
	CHECK_RV(C_DecryptInit(5, &mechanism, 6), CKR_OK);
	expect(34), expect_u64(5), expect_u64(CKM_RSA_PKCS_OAEP), expect_u64(8 * 4), expect_u64(0x250), expect_u64(2), expect_u64(1), expect_u64(~0UL), expect_u64(6);
	CHECK_REQUEST();

	mechanism = (CK_MECHANISM){CKM_AES_GCM, &gcm, sizeof gcm};
	CHECK_RV(C_EncryptInit(5, &mechanism, 6), CKR_OK);
	expect(30), expect_u64(5), expect_u64(CKM_AES_GCM), expect_u64(8 * 4 + 2 + 3), expect_bytes("iv"), expect_u64(16), expect_bytes("aad"), expect_u64(128), expect_u64(6);
	CHECK_REQUEST();
	gcm.pAAD = NULL;
	CHECK_REFUSED(C_EncryptInit(5, &mechanism, 6), CKR_MECHANISM_PARAM_INVALID);
	mechanism.ulParameterLen -= sizeof gcm.ulIvBits; /* as a header of before the correction of 2.40 has it */
	CHECK_REFUSED(C_EncryptInit(5, &mechanism, 6), CKR_MECHANISM_PARAM_INVALID);

	mechanism = (CK_MECHANISM){0x80001234, "raw", 3};
	CHECK_RV(C_DigestInit(5, &mechanism), CKR_OK);
	expect(38), expect_u64(5), expect_u64(0x80001234), expect_bytes("raw");
	CHECK_REQUEST();
	mechanism.pParameter = NULL;
	CHECK_REFUSED(C_DigestInit(5, &mechanism), CKR_MECHANISM_PARAM_INVALID);
	mechanism.ulParameterLen = 0;
	CHECK_RV(C_DigestInit(5, &mechanism), CKR_OK);
	expect(38), expect_u64(5), expect_u64(0x80001234), expect_u64(~0UL);
	CHECK_REQUEST();
	mechanism.mechanism = CK_UNAVAILABLE_INFORMATION; /* which stands for no mechanism in a message, and would end an operation */
	CHECK_REFUSED(C_DigestInit(5, &mechanism), CKR_MECHANISM_INVALID);
}

static void output_follows_the_size_convention(void)
{
	CK_BYTE buffer[8] = "-------";
	CK_ULONG length = 99;

	answer_rv(CKR_OK), answer_u64(6), answer_u64(~0UL);
	CHECK_RV(C_Sign(1, (CK_BYTE *)"data", 4, NULL, &length), CKR_OK);
	CHECK(length == 6);
	expect(44), expect_u64(1), expect_bytes("data"), expect_u8(1), expect_u64(0);
	CHECK_REQUEST();

	length = 5;
	answer_rv(CKR_BUFFER_TOO_SMALL), answer_u64(6), answer_u64(~0UL);
	CHECK_RV(C_Sign(1, (CK_BYTE *)"data", 4, buffer, &length), CKR_BUFFER_TOO_SMALL);
	CHECK(length == 6 && buffer[0] == '-');
	expect(44), expect_u64(1), expect_bytes("data"), expect_u8(0), expect_u64(5);
	CHECK_REQUEST();

	length = sizeof buffer;
	answer_rv(CKR_OK), answer_u64(6), answer_bytes("signed");
	CHECK_RV(C_Sign(1, (CK_BYTE *)"data", 4, buffer, &length), CKR_OK);
	CHECK(length == 6 && memcmp(buffer, "signed-", 7) == 0);

	length = 5;
	CHECK_RV(C_Sign(1, (CK_BYTE *)"data", 4, buffer, &length), CKR_GENERAL_ERROR); /* more than there is room for */

	length = 5;
	answer_rv(CKR_FUNCTION_FAILED);
	CHECK_RV(C_Sign(1, (CK_BYTE *)"data", 4, buffer, &length), CKR_FUNCTION_FAILED);
	CHECK(length == 5);
}

static void lists_follow_the_count_convention(void)
{
	CK_ULONG list[3] = {9, 9, 9}, count = 77;

	answer_rv(CKR_OK), answer_u64(2), answer_u64(4), answer_u64(5);
	CHECK_RV(C_GetSlotList(7, NULL, &count), CKR_OK);
	CHECK(count == 2);
	expect(5), expect_u8(1);
	CHECK_REQUEST();
	count = 1;
	CHECK_RV(C_GetSlotList(CK_FALSE, list, &count), CKR_BUFFER_TOO_SMALL);
	CHECK(count == 2 && list[0] == 9);
	count = 3;
	CHECK_RV(C_GetMechanismList(0, list, &count), CKR_OK);
	CHECK(count == 2 && list[0] == 4 && list[1] == 5 && list[2] == 9);

	count = 0;
	CHECK_RV(C_FindObjects(1, list, 3, &count), CKR_OK);
	CHECK(count == 2);
	CHECK_RV(C_FindObjects(1, list, 1, &count), CKR_GENERAL_ERROR); /* more than was asked for */
}

static void attributes_come_back_one_by_one(void)
{
	char label[4] = "----";
	CK_ATTRIBUTE attributes[] = {{3, label, sizeof label}, {0x102, NULL, 5}, {0x11, label, 1}};

	answer_rv(CKR_ATTRIBUTE_SENSITIVE), answer_u64(3);
	answer_u8(0), answer_u64(3), answer_bytes("key");
	answer_u8(0), answer_u64(20), answer_u64(~0UL);
	answer_u8(1), answer_u64(0), answer_u64(~0UL);
	CHECK_RV(C_GetAttributeValue(1, 2, attributes, 3), CKR_ATTRIBUTE_SENSITIVE);
	CHECK(attributes[0].ulValueLen == 3 && memcmp(label, "key-", 4) == 0);
	CHECK(attributes[1].ulValueLen == 20 && attributes[1].pValue == NULL);
	CHECK(attributes[2].ulValueLen == CK_UNAVAILABLE_INFORMATION);
	expect(25), expect_u64(1), expect_u64(2), expect_u64(3);
	expect_u64(3), expect_u8(0), expect_u64(4), expect_u64(0x102), expect_u8(1), expect_u64(0), expect_u64(0x11), expect_u8(0), expect_u64(1);
	CHECK_REQUEST();

	attributes[0].ulValueLen = 2;
	answer_rv(CKR_OK), answer_u64(1), answer_u8(0), answer_u64(3), answer_bytes("key");
	CHECK_RV(C_GetAttributeValue(1, 2, attributes, 1), CKR_GENERAL_ERROR); /* more than there is room for */
	CHECK_RV(C_GetAttributeValue(1, 2, attributes, 2), CKR_GENERAL_ERROR); /* other than was asked for */
}

/* Answers of a broken or hostile other side. */
static void contradictions_are_no_answers(void)
{
	char label[8];
	CK_ATTRIBUTE place = {3, label, sizeof label}, query = {3, NULL, sizeof label}, array = {CKF_ARRAY_ATTRIBUTE | 0x211, label, sizeof label};
	CK_BYTE buffer[8];
	CK_ULONG length = sizeof buffer;

	answer_rv(CKR_OK), answer_u64(7), answer_bytes("signed");
	CHECK_RV(C_Sign(1, (CK_BYTE *)"data", 4, buffer, &length), CKR_GENERAL_ERROR); /* 7 bytes that are 6 */
	answer_rv(CKR_OK), answer_u64(1UL << 61);
	CHECK_RV(C_GetSlotList(CK_TRUE, NULL, &length), CKR_GENERAL_ERROR); /* 2^61 numbers in no bytes */
	CHECK(length == sizeof buffer);

	answer_rv(CKR_OK), answer_u64(1), answer_u8(0), answer_u64(3), answer_bytes("key");
	CHECK_RV(C_GetAttributeValue(1, 2, &place, 1), CKR_OK);
	CHECK_RV(C_GetAttributeValue(1, 2, &query, 1), CKR_GENERAL_ERROR); /* a value without a place */
	CHECK_RV(C_GetAttributeValue(1, 2, &array, 1), CKR_GENERAL_ERROR); /* bytes where pointers belong */
	place.ulValueLen = sizeof label;
	answer_rv(CKR_OK), answer_u64(1), answer_u8(0), answer_u64(4), answer_bytes("key");
	CHECK_RV(C_GetAttributeValue(1, 2, &place, 1), CKR_GENERAL_ERROR); /* 4 bytes that are 3 */
	answer_rv(CKR_OK), answer_u64(1), answer_u8(0), answer_u64(3), answer_u64(~0UL);
	CHECK_RV(C_GetAttributeValue(1, 2, &place, 1), CKR_GENERAL_ERROR); /* a length without a value */
	CHECK(place.ulValueLen == sizeof label);
}

static void long_buffers_go_in_parts(void)
{
	static CK_BYTE bytes[2 * PART_SIZE + 3];
	unsigned long before = requests;

	memset(bytes, 'x', sizeof bytes);
	answer_rv(CKR_OK);
	request_bytes = 0;
	CHECK_RV(C_DigestUpdate(1, bytes, sizeof bytes), CKR_OK);
	CHECK(requests == before + 3 && request_bytes == sizeof bytes + 3 * (4 + 8 + 8));
	expect(40), expect_u64(1), expect_bytes("xxx");
	CHECK_REQUEST();

	before = requests;
	answer_rv(CKR_FUNCTION_FAILED);
	CHECK_RV(C_DigestUpdate(1, bytes, sizeof bytes), CKR_FUNCTION_FAILED);
	CHECK(requests == before + 1);

	before = requests;
	answer_rv(CKR_OK);
	CHECK_RV(C_DigestUpdate(1, NULL, 0), CKR_OK);
	CHECK(requests == before + 1);
}

static void what_is_not_there_says_so(void)
{
	CK_MECHANISM mechanism = {CKM_RSA_PKCS_OAEP, NULL, 0};

	CHECK_REFUSED(C_MessageEncryptInit(1, &mechanism, 1), CKR_FUNCTION_NOT_SUPPORTED);
	CHECK_REFUSED(C_GetFunctionStatus(1), CKR_FUNCTION_NOT_PARALLEL);
	CHECK_REFUSED(C_CancelFunction(1), CKR_FUNCTION_NOT_PARALLEL);
}

static void strings_and_labels_have_their_size(void)
{
	CK_UTF8CHAR label[32], pin[] = CANARY;
	CK_SESSION_INFO info;

	memset(label, ' ', sizeof label);
	memcpy(label, "token", 5);
	answer_rv(CKR_OK);
	CHECK_RV(C_InitToken(3, pin, 4, label), CKR_OK);
	expect(10), expect_u64(3), expect_bytes("cana");
	add(expected, &expected_length, label, sizeof label);
	CHECK_REQUEST();

	answer_rv(CKR_OK), answer_u64(1), answer_u64(2), answer_u64(3), answer_u64(4);
	CHECK_RV(C_GetSessionInfo(1, &info), CKR_OK);
	CHECK(info.slotID == 1 && info.state == 2 && info.flags == 3 && info.ulDeviceError == 4);
	answer_u8(0);
	CHECK_RV(C_GetSessionInfo(1, &info), CKR_GENERAL_ERROR); /* bytes left over */
}

static void secrets_are_wiped(void)
{
	CK_UTF8CHAR pin[400] = CANARY;
	CK_BYTE buffer[16];
	CK_ULONG length = sizeof buffer;

	answer_rv(CKR_OK);
	CHECK_RV(C_Login(1, 1, pin, strlen(CANARY)), CKR_OK);
	CHECK_RV(C_SetPIN(1, pin, strlen(CANARY), pin, sizeof pin), CKR_OK); /* the request grows after the first */
	CHECK_REFUSED(C_Sign(1, pin, sizeof pin, NULL, NULL), CKR_ARGUMENTS_BAD);
	answer_rv(CKR_OK), answer_u64(strlen(CANARY)), answer_bytes(CANARY);
	CHECK_RV(C_Decrypt(1, (CK_BYTE *)"x", 1, buffer, &length), CKR_OK);
	CHECK(memcmp(buffer, CANARY, strlen(CANARY)) == 0);
	length = 2;
	CHECK_RV(C_Decrypt(1, (CK_BYTE *)"x", 1, buffer, &length), CKR_GENERAL_ERROR);
}

/* Small numbers more often than large ones: they are the lengths that nearly fit. */
static void answer_at_random(void)
{
	static const CK_RV rvs[] = {CKR_OK, CKR_OK, CKR_OK, CKR_BUFFER_TOO_SMALL, CKR_ATTRIBUTE_SENSITIVE, CKR_GENERAL_ERROR};
	size_t length = rand() % 64;

	answer_rv(rvs[rand() % (sizeof rvs / sizeof *rvs)]);
	while (answer_length < length) {
		switch (rand() % 5) {
		case 0: answer_u64(rand() % 8); break;
		case 1: answer_u64(~0UL - rand() % 3); break;
		case 2: answer_u64((uint64_t)rand() << 32 | (uint64_t)rand()); break;
		case 3: answer_u8(rand() % 3); break;
		case 4: answer_bytes("abcdef" + rand() % 7); break;
		}
	}
	answer_length -= rand() % 4 ? 0 : rand() % answer_length;
}

/* No answer may make the boundary write where it should not: buffers are exactly as long as they are said to be. */
static void any_answer_is_survived(void)
{
	srand(1);
	for (int i = 0; i < 200000; i++) {
		CK_ULONG room = rand() % 8, length = room, handle;
		CK_BYTE *buffer = malloc(room);
		CK_ULONG *list = malloc(room * sizeof *list);
		CK_ATTRIBUTE attributes[2] = {{3, buffer, room}, {0x102, rand() % 2 ? NULL : list, room}};
		CK_TOKEN_INFO info;

		answer_at_random();
		switch (rand() % 9) {
		case 0: C_Sign(1, buffer, room, rand() % 4 ? buffer : NULL, &length); break;
		case 1: C_GetSlotList(1, rand() % 4 ? list : NULL, &length); break;
		case 2: C_FindObjects(1, list, room, &length); break;
		case 3: C_GetAttributeValue(1, 1, attributes, 2); break;
		case 4: C_GenerateRandom(1, buffer, room); break;
		case 5: C_OpenSession(1, CKF_SERIAL_SESSION, NULL, NULL, &handle); break;
		case 6: C_GetTokenInfo(1, &info); break;
		case 7: C_Login(1, 1, buffer, room); break;
		case 8: C_SignFinal(1, buffer, &length); break;
		}
		free(buffer);
		free(list);
	}
}

int main(void)
{
	nothing_is_sent_before_initialize();
	initialize_checks_its_arguments();
	null_pointers_are_refused();
	absurd_lengths_are_refused();
	nested_attributes_are_refused();
	mechanism_parameters_are_flattened();
	output_follows_the_size_convention();
	lists_follow_the_count_convention();
	attributes_come_back_one_by_one();
	contradictions_are_no_answers();
	long_buffers_go_in_parts();
	what_is_not_there_says_so();
	strings_and_labels_have_their_size();
	secrets_are_wiped();
	any_answer_is_survived();
	return failures != 0;
}
