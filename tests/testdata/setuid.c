/* A program with more rights than who runs it: tells whether it is one, and the label of the token that it finds.
   Usage: setuid /path/to/tpm2-p11.so */
#include "host.h"

#include <sys/auxv.h>

int main(int argc, char **argv)
{
	CK_TOKEN_INFO token;
	CK_RV rv;

	CHECK(argc == 2);
	printf("secure: %lu\n", getauxval(AT_SECURE));
	load(argv[1]);
	rv = p11->C_Initialize(NULL);
	memset(&token, 0, sizeof token);
	if (rv == CKR_OK && p11->C_GetTokenInfo(0, &token) == CKR_OK)
		printf("token: %.32s\n", token.label);
	else
		printf("no token\n");
	p11->C_Finalize(NULL);
	return failures != 0;
}
