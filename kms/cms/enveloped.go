package cms

import (
	"crypto/aes"
	"crypto/sha256"
)

// Contents of object identifiers.
var (
	oidEnvelopedData = []byte("\x2a\x86\x48\x86\xf7\x0d\x01\x07\x03") // 1.2.840.113549.1.7.3
	oidData          = []byte("\x2a\x86\x48\x86\xf7\x0d\x01\x07\x01") // 1.2.840.113549.1.7.1
	oidRSAESOAEP     = []byte("\x2a\x86\x48\x86\xf7\x0d\x01\x01\x07") // 1.2.840.113549.1.1.7
	oidMGF1          = []byte("\x2a\x86\x48\x86\xf7\x0d\x01\x01\x08") // 1.2.840.113549.1.1.8
	oidSHA256        = []byte("\x60\x86\x48\x01\x65\x03\x04\x02\x01") // 2.16.840.1.101.3.4.2.1
	oidAES256CBC     = []byte("\x60\x86\x48\x01\x65\x03\x04\x01\x2a") // 2.16.840.1.101.3.4.1.42
	version2         = []byte{2}
)

// enveloped is what an EnvelopedData says. The slices lie in the message, the
// ciphertext only where the message has it in one piece.
type enveloped struct {
	recipient    []byte // subjectKeyIdentifier
	encryptedKey []byte
	iv           []byte
	ciphertext   []byte
}

// parse reads a ContentInfo with an EnvelopedData (RFC 5652, sections 3 and
// 6.1) for one recipient.
func parse(message []byte) (e enveloped, err error) {
	root, err := parseBER(message) // after whose error the fields take nothing
	top := &fields{of: "message", left: []element{root}, err: &err}
	info := top.in(tagSequence, "ContentInfo")
	info.is(tagOID, "contentType", oidEnvelopedData)
	content := info.in(tagContext0|constructed, "content")
	info.end()
	data := content.in(tagSequence, "EnvelopedData")
	content.end()

	data.is(tagInteger, "version", version2)
	recipients := data.in(tagSet, "recipientInfos")
	e.parseRecipient(recipients.in(tagSequence, "KeyTransRecipientInfo"))
	recipients.end()
	e.parseContent(data.in(tagSequence, "encryptedContentInfo"))
	data.end()
	return e, err
}

// parseRecipient reads a KeyTransRecipientInfo (RFC 5652, section 6.2.1) with
// id-RSAES-OAEP, SHA-256 and MGF1 with SHA-256 (RFC 4055, section 4.1). A label
// (pSourceFunc) is refused.
func (e *enveloped) parseRecipient(f *fields) {
	f.is(tagInteger, "version", version2)
	e.recipient = f.bytes(tagContext0, "subjectKeyIdentifier", sha256.Size)

	algorithm := f.in(tagSequence, "keyEncryptionAlgorithm")
	algorithm.is(tagOID, "algorithm", oidRSAESOAEP)
	oaep := algorithm.in(tagSequence, "RSAES-OAEP-params")
	algorithm.end()
	hash := oaep.in(tagContext0|constructed, "hashFunc")
	hash.sha256("hash algorithm")
	hash.end()
	mask := oaep.in(tagContext1|constructed, "maskGenFunc")
	mgf1 := mask.in(tagSequence, "mask generation algorithm")
	mask.end()
	mgf1.is(tagOID, "algorithm", oidMGF1)
	mgf1.sha256("hash algorithm of MGF1")
	mgf1.end()
	oaep.end()

	e.encryptedKey = f.next(tagOctetString, "encryptedKey").content
	f.end()
}

// parseContent reads an EncryptedContentInfo (RFC 5652, section 6.1). Its
// encryptedContent is [0] with the bytes themselves, or constructed of OCTET STRINGs.
func (e *enveloped) parseContent(f *fields) {
	f.is(tagOID, "contentType", oidData)
	algorithm := f.in(tagSequence, "contentEncryptionAlgorithm")
	algorithm.is(tagOID, "algorithm", oidAES256CBC)
	e.iv = algorithm.bytes(tagOctetString, "parameters", aes.BlockSize)
	algorithm.end()

	if len(f.left) > 0 && f.left[0].tag == tagContext0|constructed {
		parts := f.in(tagContext0|constructed, "encryptedContent")
		for len(parts.left) > 0 && *parts.err == nil {
			e.ciphertext = append(e.ciphertext, parts.next(tagOctetString, "OCTET STRING").content...)
		}
	} else {
		e.ciphertext = f.next(tagContext0, "encryptedContent").content
	}
	f.end()
}
