package provider

import (
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// ResponseError is a TPM response code other than success (TPM 2.0 Part 2, section 6.6). It wraps the sentinel
// error the code stands for, if there is one.
type ResponseError struct {
	Command string // "TPM2_Sign"
	Code    uint32 // as the TPM sent it
}

// Error names the command, the meaning and the code.
func (e *ResponseError) Error() string {
	known, ok := responseCodes[baseCode(e.Code)]
	switch {
	case !ok:
		return fmt.Sprintf("%s: TPM response code 0x%X", e.Command, e.Code)
	case known.means == nil:
		return fmt.Sprintf("%s: TPM response code 0x%X (%s)", e.Command, e.Code, known.name)
	}
	return fmt.Sprintf("%s: %v (%s, 0x%X)", e.Command, known.means, known.name, e.Code)
}

// Unwrap gives the sentinel error.
func (e *ResponseError) Unwrap() error { return responseCodes[baseCode(e.Code)].means }

const (
	rcFormat1       = 0x080
	rcParameter     = 0x040
	rcNumberMask    = 0xF00
	rcFormat1Number = 0x03F
)

type responseCode struct {
	name  string
	means error
}

// responseCodes is the one place where response codes get a meaning.
var responseCodes = map[tpm2.TPMRC]responseCode{
	tpm2.TPMRCInitialize:      {"TPM_RC_INITIALIZE, the TPM was not started", ErrUnavailable},
	tpm2.TPMRCFailure:         {"TPM_RC_FAILURE", ErrFailure},
	tpm2.TPMRCDisabled:        {"TPM_RC_DISABLED", ErrUnsupported},
	tpm2.TPMRCAuthType:        {"TPM_RC_AUTH_TYPE", ErrPolicy},
	tpm2.TPMRCAuthMissing:     {"TPM_RC_AUTH_MISSING", ErrAuth},
	tpm2.TPMRCPolicy:          {"TPM_RC_POLICY", ErrPolicy},
	tpm2.TPMRCPCRChanged:      {"TPM_RC_PCR_CHANGED", ErrPolicy},
	tpm2.TPMRCUpgrade:         {"TPM_RC_UPGRADE", ErrUnavailable},
	tpm2.TPMRCTooManyContexts: {"TPM_RC_TOO_MANY_CONTEXTS", ErrNoMemory},
	tpm2.TPMRCAuthUnavailable: {"TPM_RC_AUTH_UNAVAILABLE", ErrPolicy},
	tpm2.TPMRCReboot:          {"TPM_RC_REBOOT", ErrUnavailable},
	tpm2.TPMRCCommandCode:     {"TPM_RC_COMMAND_CODE", ErrUnsupported},
	tpm2.TPMRCNVUninitialized: {"TPM_RC_NV_UNINITIALIZED", nil},
	tpm2.TPMRCNVSpace:         {"TPM_RC_NV_SPACE", ErrNoNV},
	tpm2.TPMRCNVDefined:       {"TPM_RC_NV_DEFINED", ErrHandleTaken},

	tpm2.TPMRCAsymmetric: {"TPM_RC_ASYMMETRIC", ErrUnsupported},
	tpm2.TPMRCAttributes: {"TPM_RC_ATTRIBUTES", ErrWrongUse},
	tpm2.TPMRCHash:       {"TPM_RC_HASH", ErrUnsupported},
	tpm2.TPMRCValue:      {"TPM_RC_VALUE", nil},
	tpm2.TPMRCHierarchy:  {"TPM_RC_HIERARCHY", nil},
	tpm2.TPMRCKeySize:    {"TPM_RC_KEY_SIZE", ErrUnsupported},
	tpm2.TPMRCMGF:        {"TPM_RC_MGF", ErrUnsupported},
	tpm2.TPMRCMode:       {"TPM_RC_MODE", ErrUnsupported},
	tpm2.TPMRCType:       {"TPM_RC_TYPE", ErrUnsupported},
	tpm2.TPMRCHandle:     {"TPM_RC_HANDLE", ErrNoObject},
	tpm2.TPMRCKDF:        {"TPM_RC_KDF", ErrUnsupported},
	tpm2.TPMRCRange:      {"TPM_RC_RANGE", nil},
	tpm2.TPMRCAuthFail:   {"TPM_RC_AUTH_FAIL", ErrAuth},
	tpm2.TPMRCNonce:      {"TPM_RC_NONCE", ErrIntegrity},
	tpm2.TPMRCScheme:     {"TPM_RC_SCHEME", ErrWrongUse},
	tpm2.TPMRCSize:       {"TPM_RC_SIZE", nil},
	tpm2.TPMRCSymmetric:  {"TPM_RC_SYMMETRIC", ErrUnsupported},
	tpm2.TPMRCKey:        {"TPM_RC_KEY", ErrWrongUse},
	tpm2.TPMRCPolicyFail: {"TPM_RC_POLICY_FAIL", ErrPolicy},
	tpm2.TPMRCIntegrity:  {"TPM_RC_INTEGRITY", ErrWrongTPM},
	tpm2.TPMRCBadAuth:    {"TPM_RC_BAD_AUTH", ErrAuth},
	tpm2.TPMRCExpired:    {"TPM_RC_EXPIRED", ErrPolicy},
	tpm2.TPMRCPolicyCC:   {"TPM_RC_POLICY_CC", ErrPolicy},
	tpm2.TPMRCBinding:    {"TPM_RC_BINDING", ErrWrongTPM},
	tpm2.TPMRCCurve:      {"TPM_RC_CURVE", ErrUnsupported},

	tpm2.TPMRCContextGap:     {"TPM_RC_CONTEXT_GAP", ErrNoMemory},
	tpm2.TPMRCObjectMemory:   {"TPM_RC_OBJECT_MEMORY", ErrNoMemory},
	tpm2.TPMRCSessionMemory:  {"TPM_RC_SESSION_MEMORY", ErrNoMemory},
	tpm2.TPMRCMemory:         {"TPM_RC_MEMORY", ErrNoMemory},
	tpm2.TPMRCSessionHandles: {"TPM_RC_SESSION_HANDLES", ErrNoMemory},
	tpm2.TPMRCObjectHandles:  {"TPM_RC_OBJECT_HANDLES", ErrNoMemory},
	tpm2.TPMRCYielded:        {"TPM_RC_YIELDED", ErrBusy},
	tpm2.TPMRCCanceled:       {"TPM_RC_CANCELED", ErrUnavailable},
	tpm2.TPMRCTesting:        {"TPM_RC_TESTING", ErrBusy},
	tpm2.TPMRCNVRate:         {"TPM_RC_NV_RATE", ErrBusy},
	tpm2.TPMRCLockout:        {"TPM_RC_LOCKOUT", ErrLockout},
	tpm2.TPMRCRetry:          {"TPM_RC_RETRY", ErrBusy},
	tpm2.TPMRCNVUnavailable:  {"TPM_RC_NV_UNAVAILABLE", ErrUnavailable},
}

// baseCode takes away who answered (the resource manager's layer) and which handle, session or parameter was meant.
func baseCode(rc uint32) tpm2.TPMRC {
	rc &= 0xFFF
	if rc&rcFormat1 != 0 {
		rc &= rcFormat1 | rcFormat1Number
	}
	return tpm2.TPMRC(rc)
}

// isParameter tells a format-1 code about the n-th parameter.
func isParameter(rc uint32, base tpm2.TPMRC, n uint32) bool {
	return baseCode(rc) == base && rc&rcParameter != 0 && (rc&rcNumberMask)>>8 == n
}

// codeOf is the response code an error carries, 0 for none.
func codeOf(err error) uint32 {
	if err == nil {
		return 0
	}
	var re *ResponseError
	if errors.As(err, &re) {
		return re.Code
	}
	return 0
}

// isCode tells whether an error carries a response code.
func isCode(err error, base tpm2.TPMRC) bool {
	return codeOf(err) != 0 && baseCode(codeOf(err)) == base
}

// isStale tells the codes for handles that the TPM no longer knows: it was reset under us.
func isStale(err error) bool {
	rc := baseCode(codeOf(err))
	return rc >= tpm2.TPMRCReferenceH0 && rc <= tpm2.TPMRCReferenceS6
}

// isResend tells the codes that ask for the same command again.
func isResend(rc uint32) bool {
	switch baseCode(rc) {
	case tpm2.TPMRCRetry, tpm2.TPMRCYielded, tpm2.TPMRCTesting, tpm2.TPMRCNVRate:
		return true
	}
	return false
}

var commandNames = map[tpm2.TPMCC]string{
	ccNSMRequest:                        "the attestation command of NitroTPM",
	tpm2.TPMCCActivateCredential:        "TPM2_ActivateCredential",
	tpm2.TPMCCCertify:                   "TPM2_Certify",
	tpm2.TPMCCCreate:                    "TPM2_Create",
	tpm2.TPMCCCreatePrimary:             "TPM2_CreatePrimary",
	tpm2.TPMCCDictionaryAttackLockReset: "TPM2_DictionaryAttackLockReset",
	tpm2.TPMCCEvictControl:              "TPM2_EvictControl",
	tpm2.TPMCCFlushContext:              "TPM2_FlushContext",
	tpm2.TPMCCGetCapability:             "TPM2_GetCapability",
	tpm2.TPMCCGetRandom:                 "TPM2_GetRandom",
	tpm2.TPMCCGetTestResult:             "TPM2_GetTestResult",
	tpm2.TPMCCGetSessionAuditDigest:     "TPM2_GetSessionAuditDigest",
	tpm2.TPMCCHMAC:                      "TPM2_HMAC",
	tpm2.TPMCCImport:                    "TPM2_Import",
	tpm2.TPMCCLoad:                      "TPM2_Load",
	tpm2.TPMCCNVDefineSpace:             "TPM2_NV_DefineSpace",
	tpm2.TPMCCLoadExternal:              "TPM2_LoadExternal",
	tpm2.TPMCCNVIncrement:               "TPM2_NV_Increment",
	tpm2.TPMCCNVRead:                    "TPM2_NV_Read",
	tpm2.TPMCCNVReadPublic:              "TPM2_NV_ReadPublic",
	tpm2.TPMCCNVUndefineSpace:           "TPM2_NV_UndefineSpace",
	tpm2.TPMCCNVWrite:                   "TPM2_NV_Write",
	tpm2.TPMCCObjectChangeAuth:          "TPM2_ObjectChangeAuth",
	tpm2.TPMCCPCRRead:                   "TPM2_PCR_Read",
	tpm2.TPMCCPolicyAuthorize:           "TPM2_PolicyAuthorize",
	tpm2.TPMCCPolicyAuthorizeNV:         "TPM2_PolicyAuthorizeNV",
	tpm2.TPMCCPolicyCommandCode:         "TPM2_PolicyCommandCode",
	tpm2.TPMCCPolicyNV:                  "TPM2_PolicyNV",
	tpm2.TPMCCPolicyAuthValue:           "TPM2_PolicyAuthValue",
	tpm2.TPMCCPolicyCounterTimer:        "TPM2_PolicyCounterTimer",
	tpm2.TPMCCPolicyOR:                  "TPM2_PolicyOR",
	tpm2.TPMCCPolicyPCR:                 "TPM2_PolicyPCR",
	tpm2.TPMCCPolicyRestart:             "TPM2_PolicyRestart",
	tpm2.TPMCCPolicySecret:              "TPM2_PolicySecret",
	tpm2.TPMCCQuote:                     "TPM2_Quote",
	tpm2.TPMCCReadClock:                 "TPM2_ReadClock",
	tpm2.TPMCCReadPublic:                "TPM2_ReadPublic",
	tpm2.TPMCCRSADecrypt:                "TPM2_RSA_Decrypt",
	tpm2.TPMCCSign:                      "TPM2_Sign",
	tpm2.TPMCCStartAuthSession:          "TPM2_StartAuthSession",
	tpm2.TPMCCTestParms:                 "TPM2_TestParms",
	tpm2.TPMCCVerifySignature:           "TPM2_VerifySignature",
	tpm2.TPMCCUnseal:                    "TPM2_Unseal",
}
