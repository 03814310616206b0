/* Every function of Cryptoki 3.2, misused in every way that the table of functions tells of, and what that table cannot tell.
   Usage: conformance /path/to/tpm2-p11.so; the token has the key "web" (P-256). */
#include "host.h"

#define CKF_DONT_BLOCK 1UL
#define CKF_INTERFACE_FORK_SAFE 1UL
#define CKA_WRAP_TEMPLATE (CKF_ARRAY_ATTRIBUTE | 0x211UL)
#define CKR_SLOT_ID_INVALID 0x03UL
#define CKR_NO_EVENT 0x08UL
#define CKR_OPERATION_ACTIVE 0x90UL
#define CKR_KEY_HANDLE_INVALID 0x60UL
#define CKR_OBJECT_HANDLE_INVALID 0x82UL
#define CKA_ENCRYPT 0x104UL
#define CKA_DECRYPT 0x105UL
#define CKA_VALUE_LEN 0x161UL
#define CKM_AES_KEY_GEN 0x1080UL
#define CKM_AES_CBC_PAD 0x1085UL
#define ABSURD (~0UL)
#define CLOSED 1UL /* the first session */
#define NOT_TRIED (~0UL)
#define BUFFER_LENGTH (sizeof buffer)
#define LIST_LENGTH (sizeof list / sizeof *list)
#define MOST_PARAMETERS 12

union argument {
	CK_ULONG number;
	void *pointer;
};

struct function {
	const char *name;
	CK_RV (*call)(const union argument *);
	void (*usual)(union argument *);
	CK_RV uninitialised; /* what it answers outside of C_Initialize and C_Finalize */
	CK_RV usually;       /* and to the usual arguments, where that is a refusal */
};

struct misuse {
	size_t function;
	const char *what;
	size_t at;
	union argument value;
	CK_RV want;
};

/* The usual arguments. */
static CK_FUNCTION_LIST_3_2_PTR all;
static CK_SESSION_HANDLE session;
static CK_OBJECT_HANDLE key;
static CK_BYTE buffer[256];
static CK_ULONG list[64], length = sizeof buffer, count = 64, number;
static CK_MECHANISM mechanism = {CKM_ECDSA_SHA256, NULL, 0};
static CK_ATTRIBUTE attribute = {CKA_LABEL, message, sizeof message};

/* And those that are wrong. */
static CK_MECHANISM null_mechanism = {CKM_ECDSA_SHA256, NULL, 5}, absurd_mechanism = {CKM_ECDSA_SHA256, message, ABSURD};
static CK_ATTRIBUTE null_attribute = {CKA_LABEL, NULL, 5}, absurd_attribute = {CKA_LABEL, message, ABSURD},
	nested_attribute = {CKA_WRAP_TEMPLATE, &attribute, sizeof attribute};

#include "conformance_gen.h"

#define FUNCTIONS (sizeof functions / sizeof *functions)
#define MISUSES (sizeof misuses / sizeof *misuses)

static void expect(const struct function *f, const char *what, const union argument *arguments, CK_RV want)
{
	CK_RV got;

	alarm(CALL_PATIENCE);
	got = f->call(arguments);
	alarm(0);
	if (got != want) {
		fprintf(stderr, "%s, %s: 0x%lx, want 0x%lx\n", f->name, what, got, want);
		failures++;
	}
}

static void nothing_is_done_uninitialised(void)
{
	for (size_t i = 0; i < FUNCTIONS; i++) {
		union argument arguments[MOST_PARAMETERS];

		functions[i].usual(arguments);
		if (functions[i].uninitialised != NOT_TRIED)
			expect(&functions[i], "uninitialised", arguments, functions[i].uninitialised);
	}
}

/* Functions that are not there, and those whose operation was not begun. */
static void usual_refusals(void)
{
	for (size_t i = 0; i < FUNCTIONS; i++) {
		union argument arguments[MOST_PARAMETERS];

		functions[i].usual(arguments);
		if (functions[i].usually != NOT_TRIED)
			expect(&functions[i], "as usual", arguments, functions[i].usually);
	}
}

static void each_misuse_has_its_answer(void)
{
	CK_SESSION_INFO info;

	for (size_t i = 0; i < MISUSES; i++) {
		const struct misuse *m = &misuses[i];
		union argument arguments[MOST_PARAMETERS];

		length = sizeof buffer;
		count = LIST_LENGTH;
		functions[m->function].usual(arguments);
		arguments[m->at] = m->value;
		expect(&functions[m->function], m->what, arguments, m->want);
		CHECK_RV(all->C_GetSessionInfo(session, &info), CKR_OK);
	}
}

static void interfaces_are_the_three(void *library)
{
	CK_RV (*get_list)(CK_INTERFACE_PTR, CK_ULONG_PTR);
	CK_RV (*get)(CK_UTF8CHAR_PTR, CK_VERSION_PTR, CK_INTERFACE_PTR_PTR, CK_FLAGS);
	static CK_UTF8CHAR name[] = "PKCS 11", other[] = "Vendor";
	static const CK_VERSION versions[] = {{3, 2}, {3, 0}, {2, 40}};
	CK_VERSION none = {3, 7};
	CK_INTERFACE interfaces[4];
	CK_INTERFACE_PTR interface = NULL;
	CK_ULONG n = 0;

	*(void **)&get_list = dlsym(library, "C_GetInterfaceList");
	*(void **)&get = dlsym(library, "C_GetInterface");
	CHECK_RV(get_list(NULL, NULL), CKR_ARGUMENTS_BAD);
	CHECK_RV(get_list(NULL, &n), CKR_OK);
	CHECK(n == 3);
	n = 2;
	CHECK_RV(get_list(interfaces, &n), CKR_BUFFER_TOO_SMALL);
	CHECK(n == 3);
	n = 4;
	CHECK_RV(get_list(interfaces, &n), CKR_OK);
	CHECK(n == 3);
	for (CK_ULONG i = 0; i < n; i++) {
		CK_VERSION wanted = versions[i];

		CHECK(strcmp((char *)interfaces[i].pInterfaceName, "PKCS 11") == 0 && interfaces[i].flags == 0);
		CHECK(memcmp(interfaces[i].pFunctionList, &versions[i], sizeof versions[i]) == 0);
		CHECK_RV(get(name, &wanted, &interface, 0), CKR_OK);
		CHECK(interface->pFunctionList == interfaces[i].pFunctionList);
	}
	CHECK_RV(get(NULL, NULL, NULL, 0), CKR_ARGUMENTS_BAD);
	CHECK_RV(get(other, NULL, &interface, 0), CKR_ARGUMENTS_BAD);
	CHECK_RV(get(name, &none, &interface, 0), CKR_ARGUMENTS_BAD);
	CHECK_RV(get(name, NULL, &interface, CKF_INTERFACE_FORK_SAFE), CKR_ARGUMENTS_BAD);
	CHECK_RV(get(NULL, NULL, &interface, 0), CKR_OK);
	all = interface->pFunctionList;
	CHECK(all->version.major == 3 && all->version.minor == 2);
}

static CK_RV create(CK_VOID_PTR_PTR mutex) { return mutex == NULL; }
static CK_RV other(CK_VOID_PTR mutex) { return mutex == NULL; }

static void initialisation_has_rules(void)
{
	CK_C_INITIALIZE_ARGS args = {NULL, NULL, NULL, NULL, CKF_OS_LOCKING_OK, message};

	CHECK_RV(all->C_Initialize(&args), CKR_ARGUMENTS_BAD);
	args = (CK_C_INITIALIZE_ARGS){create, other, NULL, other, CKF_OS_LOCKING_OK, NULL};
	CHECK_RV(all->C_Initialize(&args), CKR_ARGUMENTS_BAD);
	args = (CK_C_INITIALIZE_ARGS){create, other, other, other, 0, NULL};
	CHECK_RV(all->C_Initialize(&args), CKR_CANT_LOCK);
	args.flags = CKF_OS_LOCKING_OK;
	CHECK_RV(all->C_Initialize(&args), CKR_OK);
	CHECK_RV(all->C_Initialize(NULL), CKR_CRYPTOKI_ALREADY_INITIALIZED);
	CHECK_RV(all->C_Finalize(message), CKR_ARGUMENTS_BAD);
	CHECK_RV(all->C_Finalize(NULL), CKR_OK);
	CHECK_RV(all->C_Finalize(NULL), CKR_CRYPTOKI_NOT_INITIALIZED);
}

/* A call that begins an operation: once more it is refused, a NULL mechanism ends it, and C_SessionCancel does. */
#define CHECK_BEGINS(flag, begin, cancel, step) \
	do { \
		CHECK_RV(begin, CKR_OK); \
		CHECK_RV(begin, CKR_OPERATION_ACTIVE); \
		CHECK_RV(cancel, CKR_OK); \
		CHECK_RV(step, CKR_OPERATION_NOT_INITIALIZED); \
		CHECK_RV(begin, CKR_OK); \
		CHECK_RV(all->C_SessionCancel(session, flag), CKR_OK); \
		CHECK_RV(step, CKR_OPERATION_NOT_INITIALIZED); \
	} while (0)

static void operations_begin_and_end(void)
{
	CK_MECHANISM sha256 = {CKM_SHA256, NULL, 0};
	CK_OBJECT_HANDLE public = find(session, CKO_PUBLIC_KEY, "web");

	CHECK_BEGINS(0x400UL, all->C_DigestInit(session, &sha256), all->C_DigestInit(session, NULL), all->C_DigestUpdate(session, message, 1));
	CHECK_BEGINS(0x800UL, all->C_SignInit(session, &mechanism, key), all->C_SignInit(session, NULL, key), all->C_SignUpdate(session, message, 1));
	CHECK_BEGINS(0x2000UL, all->C_VerifyInit(session, &mechanism, public), all->C_VerifyInit(session, NULL, 0), all->C_VerifyUpdate(session, message, 1));
	CHECK_BEGINS(0x2000UL, all->C_VerifySignatureInit(session, &mechanism, public, buffer, P256_SIGNATURE),
		all->C_VerifySignatureInit(session, NULL, 0, NULL, 0), all->C_VerifySignatureUpdate(session, message, 1));
	CHECK_BEGINS(0x08UL, all->C_MessageSignInit(session, &mechanism, key), all->C_MessageSignFinal(session), all->C_SignMessageBegin(session, NULL, 0));
	CHECK_BEGINS(0x10UL, all->C_MessageVerifyInit(session, &mechanism, public), all->C_MessageVerifyFinal(session), all->C_VerifyMessageBegin(session, NULL, 0));
	CHECK_BEGINS(0x40UL, all->C_FindObjectsInit(session, NULL, 0), all->C_FindObjectsFinal(session), all->C_FindObjects(session, list, 1, &count));
}

static void messages_are_signed(void)
{
	CK_OBJECT_HANDLE public = find(session, CKO_PUBLIC_KEY, "web");
	CK_ULONG n = 0;

	CHECK_RV(all->C_MessageSignInit(session, &mechanism, key), CKR_OK);
	CHECK_RV(all->C_MessageVerifyInit(session, &mechanism, public), CKR_OK);
	for (int i = 0; i < 2; i++) {
		CHECK_RV(all->C_SignMessageBegin(session, NULL, 0), CKR_OK);
		CHECK_RV(all->C_SignMessageNext(session, NULL, 0, message, 4, NULL, NULL), CKR_OK);
		CHECK_RV(all->C_SignMessageNext(session, NULL, 0, message + 4, sizeof message - 4, NULL, &n), CKR_OK);
		CHECK(n == P256_SIGNATURE);
		n--;
		CHECK_RV(all->C_SignMessageNext(session, NULL, 0, message + 4, sizeof message - 4, buffer, &n), CKR_BUFFER_TOO_SMALL);
		CHECK(n == P256_SIGNATURE);
		CHECK_RV(all->C_SignMessageNext(session, NULL, 0, message + 4, sizeof message - 4, buffer, &n), CKR_OK);
		CHECK_RV(all->C_VerifyMessage(session, NULL, 0, message, sizeof message, buffer, n), CKR_OK);
		CHECK_RV(all->C_VerifySignatureInit(session, &mechanism, public, buffer, n), CKR_OK);
		CHECK_RV(all->C_VerifySignature(session, message, sizeof message), CKR_OK);
	}
	CHECK_RV(all->C_MessageSignFinal(session), CKR_OK);
	CHECK_RV(all->C_MessageVerifyFinal(session), CKR_OK);
}

/* Digest and encryption of the same data, and back; the same with a signature. In place, since a buffer may be both. */
static void two_operations_on_the_same_data(void)
{
	static CK_BYTE iv[16], data[48], sum[32], again[32], out[64];
	CK_ULONG bytes = 16, n, m, total;
	CK_BBOOL yes = CK_TRUE;
	CK_ATTRIBUTE wanted[] = {{CKA_VALUE_LEN, &bytes, sizeof bytes}, {CKA_ENCRYPT, &yes, sizeof yes}, {CKA_DECRYPT, &yes, sizeof yes}};
	CK_MECHANISM generate = {CKM_AES_KEY_GEN, NULL, 0}, cbc = {CKM_AES_CBC_PAD, iv, sizeof iv}, sha256 = {CKM_SHA256, NULL, 0};
	CK_OBJECT_HANDLE aes = 0, public = find(session, CKO_PUBLIC_KEY, "web");

	CHECK_RV(all->C_GenerateKey(session, &generate, wanted, 3, &aes), CKR_OK);
	n = sizeof sum;
	CHECK_RV(all->C_DigestInit(session, &sha256), CKR_OK);
	CHECK_RV(all->C_Digest(session, data, sizeof data, sum, &n), CKR_OK);

	CHECK_RV(all->C_DigestInit(session, &sha256), CKR_OK);
	n = sizeof out;
	CHECK_RV(all->C_DigestEncryptUpdate(session, data, sizeof data, out, &n), CKR_OPERATION_NOT_INITIALIZED);
	CHECK_RV(all->C_EncryptInit(session, &cbc, aes), CKR_OK);
	CHECK_RV(all->C_DigestEncryptUpdate(session, data, sizeof data, NULL, &n), CKR_OK);
	CHECK(n == sizeof data);
	n--;
	CHECK_RV(all->C_DigestEncryptUpdate(session, data, sizeof data, out, &n), CKR_BUFFER_TOO_SMALL);
	CHECK(n == sizeof data);
	/* Neither has begun a digest in several parts. */
	n = sizeof again;
	CHECK_RV(all->C_Digest(session, data, sizeof data, again, &n), CKR_OK);
	CHECK(memcmp(sum, again, sizeof sum) == 0);
	CHECK_RV(all->C_DigestInit(session, &sha256), CKR_OK);
	n = sizeof data;
	memcpy(out, data, sizeof data);
	CHECK_RV(all->C_DigestEncryptUpdate(session, out, sizeof data, out, &n), CKR_OK);
	m = sizeof out - n;
	CHECK_RV(all->C_EncryptFinal(session, out + n, &m), CKR_OK);
	total = n + m;
	n = sizeof again;
	CHECK_RV(all->C_DigestFinal(session, again, &n), CKR_OK);
	CHECK(memcmp(sum, again, sizeof sum) == 0 && memcmp(out, data, sizeof data) != 0);

	CHECK_RV(all->C_DigestInit(session, &sha256), CKR_OK);
	CHECK_RV(all->C_DecryptInit(session, &cbc, aes), CKR_OK);
	n = sizeof out;
	CHECK_RV(all->C_DecryptDigestUpdate(session, out, total, out, &n), CKR_OK);
	CHECK(n == sizeof data && memcmp(out, data, n) == 0);
	m = sizeof out - n;
	CHECK_RV(all->C_DecryptFinal(session, out + n, &m), CKR_OK);
	CHECK(m == 0);
	n = sizeof again;
	CHECK_RV(all->C_DigestFinal(session, again, &n), CKR_OK);
	CHECK(memcmp(sum, again, sizeof sum) == 0);

	CHECK_RV(all->C_SignInit(session, &mechanism, key), CKR_OK);
	CHECK_RV(all->C_EncryptInit(session, &cbc, aes), CKR_OK);
	n = sizeof out;
	CHECK_RV(all->C_SignEncryptUpdate(session, data, sizeof data, out, &n), CKR_OK);
	m = sizeof out - n;
	CHECK_RV(all->C_EncryptFinal(session, out + n, &m), CKR_OK);
	total = n + m;
	n = sizeof buffer;
	CHECK_RV(all->C_SignFinal(session, buffer, &n), CKR_OK);
	CHECK_RV(all->C_VerifyInit(session, &mechanism, public), CKR_OK);
	CHECK_RV(all->C_DecryptInit(session, &cbc, aes), CKR_OK);
	m = sizeof out;
	CHECK_RV(all->C_DecryptVerifyUpdate(session, out, total, out, &m), CKR_OK);
	CHECK_RV(all->C_VerifyFinal(session, buffer, n), CKR_OK);
	CHECK_RV(all->C_DecryptDigestUpdate(session, out, 16, out, &m), CKR_OPERATION_NOT_INITIALIZED);
	CHECK_RV(all->C_DestroyObject(session, aes), CKR_OK);
	CHECK_RV(all->C_EncryptInit(session, &cbc, aes), CKR_KEY_HANDLE_INVALID);
	CHECK_RV(all->C_GetObjectSize(session, aes, &n), CKR_OBJECT_HANDLE_INVALID);
	CHECK_RV(all->C_SessionCancel(session, ~0UL), CKR_OK);
}

int main(int argc, char **argv)
{
	void *library;

	if (argc != 2)
		return 2;
	load(argv[1]);
	library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
	interfaces_are_the_three(library);
	nothing_is_done_uninitialised();
	initialisation_has_rules();
	CHECK_RV(all->C_Initialize(NULL), CKR_OK);
	CHECK(open_session() == CLOSED);
	session = open_session();
	CHECK_RV(all->C_CloseSession(CLOSED), CKR_OK);
	key = find(session, CKO_PRIVATE_KEY, "web");
	usual_refusals();
	each_misuse_has_its_answer();
	operations_begin_and_end();
	messages_are_signed();
	two_operations_on_the_same_data();
	CHECK_RV(all->C_WaitForSlotEvent(CKF_DONT_BLOCK, &number, NULL), CKR_NO_EVENT);
	CHECK_RV(all->C_Finalize(NULL), CKR_OK);
	nothing_is_done_uninitialised();
	return failures != 0;
}
