package kms

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/tpm2-p11/tpm2-p11/attest"
)

// imagePCRs are those that tell one image from another.
var imagePCRs = []int{4, 7, 12}

// errorCodes says what KMS's error codes mean.
var errorCodes = map[string]error{
	"InvalidCiphertextException":          ErrCiphertext,
	"IncorrectKeyException":               ErrWrongKey,
	"NotFoundException":                   ErrKeyNotFound,
	"InvalidArnException":                 ErrKeyNotFound,
	"DisabledException":                   ErrKeyState,
	"KMSInvalidStateException":            ErrKeyState,
	"InvalidKeyUsageException":            ErrKeyState,
	"UnsupportedOperationException":       ErrKeyState,
	"KeyUnavailableException":             ErrUnavailable,
	"DependencyTimeoutException":          ErrUnavailable,
	"KMSInternalException":                ErrUnavailable,
	"InternalFailure":                     ErrUnavailable,
	"ServiceUnavailable":                  ErrUnavailable,
	"ThrottlingException":                 ErrThrottled,
	"Throttling":                          ErrThrottled,
	"LimitExceededException":              ErrThrottled,
	"RequestLimitExceeded":                ErrThrottled,
	"TooManyRequestsException":            ErrThrottled,
	"UnrecognizedClientException":         ErrCredentials,
	"InvalidClientTokenId":                ErrCredentials,
	"InvalidSignatureException":           ErrCredentials,
	"SignatureDoesNotMatch":               ErrCredentials,
	"IncompleteSignature":                 ErrCredentials,
	"IncompleteSignatureException":        ErrCredentials,
	"MissingAuthenticationToken":          ErrCredentials,
	"MissingAuthenticationTokenException": ErrCredentials,
	"ExpiredTokenException":               ErrCredentials,
	"ExpiredToken":                        ErrCredentials,
	"RequestExpired":                      ErrCredentials,
}

// explain turns an error of the SDK into one of this package. claims may be nil.
func explain(err error, claims *attest.Claims) error {
	var api smithy.APIError
	var sent *smithyhttp.RequestSendError
	var response *smithyhttp.ResponseError
	var network net.Error
	switch {
	case errors.Is(err, ErrCredentials), errors.Is(err, context.Canceled):
		return err
	case errors.As(err, &api):
		return explainCode(api, claims)
	case errors.As(err, &sent), errors.As(err, &network), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	case errors.As(err, &response) && response.HTTPStatusCode() >= 500:
		return fmt.Errorf("%w: HTTP status %d", ErrUnavailable, response.HTTPStatusCode())
	case errors.As(err, &response):
		// What could not be read is not quoted: it may hold a plaintext.
		return fmt.Errorf("%w: it cannot be read (HTTP status %d)", ErrAnswer, response.HTTPStatusCode())
	}
	return fmt.Errorf("%w: %w", ErrRefused, err)
}

func explainCode(api smithy.APIError, claims *attest.Claims) error {
	code, message := api.ErrorCode(), api.ErrorMessage()
	lower := strings.ToLower(message)
	kind, known := errorCodes[code]
	switch {
	case code == "AccessDeniedException":
		return &AccessError{PCRs: shown(claims), Message: message}
	case code == "NotFoundException" && strings.Contains(lower, "invalid arn"):
		kind = ErrRegion // so KMS answers to an ARN of another region
	case kind == ErrCredentials && strings.Contains(lower, "region"):
		kind = ErrRegion
	case !known && claims != nil && (expired(claims) || strings.Contains(lower, "attestation") && strings.Contains(lower, "expired")):
		kind = ErrDocumentExpired
	case !known && strings.Contains(lower, "attestation"):
		kind = ErrDocument
	case !known:
		kind = ErrRefused
	}
	return fmt.Errorf("%w (KMS says %s: %q)", kind, code, message)
}

func expired(claims *attest.Claims) bool { return time.Now().After(claims.Certificate.NotAfter) }

// shown are the PCRs of a document that a refusal may be about.
func shown(claims *attest.Claims) map[int]string {
	if claims == nil {
		return nil
	}
	pcrs := map[int]string{}
	for _, i := range imagePCRs {
		pcrs[i] = hex.EncodeToString(claims.PCRs[i])
	}
	return pcrs
}
