package attest_test

import (
	"crypto/x509/pkix"
	"encoding/asn1"
)

// criticalExtension is one that no verifier knows.
var criticalExtension = pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 1}, Critical: true, Value: []byte{5, 0}}
