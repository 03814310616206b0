#ifndef NITROSIM_ATTEST_H
#define NITROSIM_ATTEST_H

#include <stdint.h>

// One vendor command in two steps: between them the caller makes the answer. No
// other command may run in between.

// attest_begin parses the command, checks its handles and authorisations, and
// copies the NV index's data out. data has room for MAX_NV_INDEX_SIZE bytes. It
// returns a TPM_RC. request has to stay until attest_end returns.
uint32_t attest_begin(uint8_t *request, uint32_t request_size, uint8_t *data, uint32_t *data_size);

// attest_end writes the answer at the start of the index, if result is
// TPM_RC_SUCCESS, and builds the response, of at most MAX_RESPONSE_SIZE bytes.
// It has to follow every attest_begin.
void attest_end(uint32_t result, uint8_t *answer, uint32_t answer_size, uint8_t *response, uint32_t *response_size);

// attest_failed says whether the TPM is in failure mode.
int attest_failed(void);

#endif
