package main

import (
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"strings"
)

// attributeTypes are the short names of RFC 4514 (section 3) and the two others that certificates are asked for with.
var attributeTypes = map[string]asn1.ObjectIdentifier{
	"CN": {2, 5, 4, 3}, "SERIALNUMBER": {2, 5, 4, 5}, "C": {2, 5, 4, 6}, "L": {2, 5, 4, 7}, "ST": {2, 5, 4, 8},
	"STREET": {2, 5, 4, 9}, "O": {2, 5, 4, 10}, "OU": {2, 5, 4, 11},
	"DC": {0, 9, 2342, 19200300, 100, 1, 25}, "UID": {0, 9, 2342, 19200300, 100, 1, 1},
}

// parseSubject reads a distinguished name, "CN=www.example.com,O=Example". A backslash takes the next character as it is.
func parseSubject(s string) (name pkix.Name, err error) {
	for _, part := range splitUnescaped(s) {
		short, value, ok := strings.Cut(part, "=")
		short = strings.ToUpper(strings.TrimSpace(short))
		if !ok {
			return name, fmt.Errorf("%q is not TYPE=VALUE", part)
		}
		oid, known := attributeTypes[short]
		if !known {
			return name, fmt.Errorf("the type %q is unknown: there is CN, O, OU, C, ST, L, STREET, DC, UID, SERIALNUMBER", short)
		}
		value, err = unescape(strings.TrimSpace(value))
		if err != nil {
			return name, err
		}
		if value == "" {
			return name, fmt.Errorf("%s is empty", short)
		}
		// ExtraNames keep the order that was asked for; the fields are for those who read the Name here.
		name.ExtraNames = append(name.ExtraNames, pkix.AttributeTypeAndValue{Type: oid, Value: value})
	}
	return name, nil
}

func splitUnescaped(s string) []string {
	var parts []string
	begin := 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case ',':
			parts = append(parts, s[begin:i])
			begin = i + 1
		}
	}
	return append(parts, s[begin:])
}

func unescape(s string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' {
			if i++; i == len(s) {
				return "", errors.New("a backslash at its end")
			}
		}
		b.WriteByte(s[i])
	}
	return b.String(), nil
}
