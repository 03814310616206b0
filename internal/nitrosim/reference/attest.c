//go:build nitrosim

#include <setjmp.h>
#include <string.h>

#include "Tpm.h"
#include "ExecCommand_fp.h"

#include "attest.h"

#if MAX_NV_INDEX_SIZE < 8192
#error "an attestation document needs an NV index of 8192 bytes: build with make build/nitro-sim"
#endif

// Where the platform's code goes on after a fatal error in the TPM's.
extern jmp_buf s_jumpBuffer;

static COMMAND command;

// TPM2_NV_ReadLock has the shape of the vendor command: an authorised handle, an
// NV index, no parameters either way, a read of the index. The tables of the
// reference code know the vendor command by that command's index; hashes are
// over its own code.
#define SHAPE TPM_CC_NV_ReadLock

static TPM_RC parse(uint8_t *request, uint32_t size)
{
    UINT32 announced;
    TPM_RC result;

    memset(&command, 0, sizeof(command));
    command.parameterBuffer = request;
    command.parameterSize = (INT32)size;
    result = TPMI_ST_COMMAND_TAG_Unmarshal(&command.tag, &command.parameterBuffer, &command.parameterSize);
    if (result != TPM_RC_SUCCESS)
        return result;
    result = UINT32_Unmarshal(&announced, &command.parameterBuffer, &command.parameterSize);
    if (result != TPM_RC_SUCCESS)
        return result;
    if (announced != size || size > MAX_COMMAND_SIZE)
        return TPM_RC_COMMAND_SIZE;
    result = TPM_CC_Unmarshal(&command.code, &command.parameterBuffer, &command.parameterSize);
    if (result != TPM_RC_SUCCESS)
        return result;
    command.index = CommandCodeToCommandIndex(SHAPE);
    if (!TPMIsStarted())
        return TPM_RC_INITIALIZE;
    NvIndexCacheInit();
    result = ParseHandleBuffer(&command);
    if (result != TPM_RC_SUCCESS)
        return result;
    return EntityGetLoadStatus(&command);
}

static TPM_RC authorize(void)
{
    TPM_RC result;

    ClearCpRpHashes(&command);
    if (command.tag != TPM_ST_SESSIONS) {
        command.authSize = 0;
        return CheckAuthNoSession(&command);
    }
    result = UINT32_Unmarshal((UINT32 *)&command.authSize, &command.parameterBuffer, &command.parameterSize);
    if (result != TPM_RC_SUCCESS)
        return result;
    if (command.authSize < 9 || command.authSize > command.parameterSize)
        return TPM_RC_SIZE;
    command.parameterSize -= command.authSize;
    result = ParseSessionBuffer(&command);
    if (result != TPM_RC_SUCCESS)
        return result;
    return command.parameterSize == 0 ? TPM_RC_SUCCESS : TPM_RC_SIZE;
}

// readIndex applies what TPM2_NV_Read and TPM2_NV_Write would refuse.
static TPM_RC readIndex(uint8_t *data, uint32_t *size)
{
    NV_REF locator;
    NV_INDEX *index = NvGetIndexInfo(command.handles[1], &locator);
    TPMA_NV attributes = index->publicArea.attributes;
    TPM_RC result = NvReadAccessChecks(command.handles[0], command.handles[1], attributes);

    if (result != TPM_RC_SUCCESS)
        return result;
    result = NvWriteAccessChecks(command.handles[0], command.handles[1], attributes);
    if (result != TPM_RC_SUCCESS)
        return result;
    if (!IsNvOrdinaryIndex(attributes))
        return TPM_RC_ATTRIBUTES;
    *size = index->publicArea.dataSize;
    NvGetIndexData(index, locator, 0, index->publicArea.dataSize, data);
    return TPM_RC_SUCCESS;
}

uint32_t attest_begin(uint8_t *request, uint32_t request_size, uint8_t *data, uint32_t *data_size)
{
    TPM_RC result;

    if (setjmp(s_jumpBuffer) != 0)
        return TPM_RC_FAILURE;
    // The state that the reference code's dispatcher sets before each command.
    g_updateNV = UT_NONE;
    g_clearOrderly = FALSE;
    NvCheckState();
    TimeUpdateToCurrent();
    if (g_DRTMHandle != TPM_RH_UNASSIGNED)
        ObjectTerminateEvent();

    *data_size = 0;
    result = parse(request, request_size);
    if (result == TPM_RC_SUCCESS)
        result = authorize();
    if (result == TPM_RC_SUCCESS)
        result = readIndex(data, data_size);
    return result;
}

void attest_end(uint32_t result, uint8_t *answer, uint32_t answer_size, uint8_t *response, uint32_t *response_size)
{
    if (setjmp(s_jumpBuffer) != 0 || g_inFailureMode) {
        command.parameterSize = 0;
        BuildResponseHeader(&command, response, TPM_RC_FAILURE);
        *response_size = (uint32_t)command.parameterSize;
        return;
    }
    if (result == TPM_RC_SUCCESS)
        result = NvWriteIndexData(NvGetIndexInfo(command.handles[1], NULL), 0, answer_size, answer);
    if (result == TPM_RC_SUCCESS) {
        command.handleNum = 0;
        command.parameterSize = 0;
        command.authSize = 0;
        command.responseBuffer = response + STD_RESPONSE_HEADER;
        if (command.tag == TPM_ST_SESSIONS)
            command.responseBuffer += sizeof(UINT32);
        BuildResponseSession(&command);
    }
    if (g_clearOrderly == TRUE && NV_IS_ORDERLY) {
        gp.orderlyState = SU_NONE_VALUE;
        NV_SYNC_PERSISTENT(orderlyState);
    }
    ObjectCleanupEvict();
    BuildResponseHeader(&command, response, result);
    if (g_updateNV != UT_NONE) {
        if (g_updateNV == UT_ORDERLY)
            NvUpdateIndexOrderlyData();
        if (!NvCommit())
            FAIL(FATAL_ERROR_INTERNAL);
        g_updateNV = UT_NONE;
    }
    *response_size = (uint32_t)command.parameterSize;
}

int attest_failed(void)
{
    return g_inFailureMode;
}
