package tss2

import (
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// statement is a TPMPolicy: one policy command and its parameters (draft-bottomley-tpm2-keys, "Key Policy Specification").
type statement struct {
	command uint32
	body    []byte
}

var (
	tagCommandCode   = explicit(0)
	tagCommandPolicy = explicit(1)
)

func addStatements(b *cryptobyte.Builder, list []statement) {
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		for _, s := range list {
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1(tagCommandCode, func(b *cryptobyte.Builder) { b.AddASN1Uint64(uint64(s.command)) })
				b.AddASN1(tagCommandPolicy, func(b *cryptobyte.Builder) { b.AddASN1OctetString(s.body) })
			})
		}
	})
}

func readStatements(in cryptobyte.String, out *[]statement) bool {
	var list cryptobyte.String
	if !in.ReadASN1(&list, asn1.SEQUENCE) || !in.Empty() {
		return false
	}
	for !list.Empty() {
		var item, code, body, octets cryptobyte.String
		var command uint32
		if !list.ReadASN1(&item, asn1.SEQUENCE) ||
			!item.ReadASN1(&code, tagCommandCode) || !code.ReadASN1Integer(&command) || !code.Empty() ||
			!item.ReadASN1(&body, tagCommandPolicy) || !body.ReadASN1(&octets, asn1.OCTET_STRING) || !body.Empty() ||
			!item.Empty() {
			return false
		}
		*out = append(*out, statement{command: command, body: octets})
	}
	return true
}

// alternative is a TPMAuthPolicy: one of several ways to satisfy a key's policy.
type alternative struct {
	name       string
	statements []statement
}

var (
	tagAlternativeName   = explicit(0)
	tagAlternativePolicy = explicit(1)
)

func addAlternatives(b *cryptobyte.Builder, list []alternative) {
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		for _, a := range list {
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1(tagAlternativeName, func(b *cryptobyte.Builder) {
					b.AddASN1(asn1.UTF8String, func(b *cryptobyte.Builder) { b.AddBytes([]byte(a.name)) })
				})
				b.AddASN1(tagAlternativePolicy, func(b *cryptobyte.Builder) { addStatements(b, a.statements) })
			})
		}
	})
}

func readAlternatives(in cryptobyte.String, out *[]alternative) bool {
	var list cryptobyte.String
	if !in.ReadASN1(&list, asn1.SEQUENCE) || !in.Empty() {
		return false
	}
	for !list.Empty() {
		var item, wrapped, name, body cryptobyte.String
		var named bool
		var a alternative
		if !list.ReadASN1(&item, asn1.SEQUENCE) || !item.ReadOptionalASN1(&wrapped, &named, tagAlternativeName) ||
			named && (!wrapped.ReadASN1(&name, asn1.UTF8String) || !wrapped.Empty()) ||
			!item.ReadASN1(&body, tagAlternativePolicy) || !readStatements(body, &a.statements) || !item.Empty() {
			return false
		}
		a.name = string(name)
		*out = append(*out, a)
	}
	return true
}

// commandNames are the policy commands (TPM 2.0 Part 2, "TPM_CC").
var commandNames = map[uint32]string{
	0x149: "PolicyNV",
	0x151: "PolicySecret",
	0x160: "PolicySigned",
	0x16A: "PolicyAuthorize",
	0x16B: "PolicyAuthValue",
	0x16C: "PolicyCommandCode",
	0x16D: "PolicyCounterTimer",
	0x16E: "PolicyCpHash",
	0x16F: "PolicyLocality",
	0x170: "PolicyNameHash",
	0x171: "PolicyOR",
	0x172: "PolicyTicket",
	0x17F: "PolicyPCR",
	0x187: "PolicyPhysicalPresence",
	0x188: "PolicyDuplicationSelect",
	0x18C: "PolicyPassword",
	0x18F: "PolicyNvWritten",
	0x190: "PolicyTemplate",
	0x192: "PolicyAuthorizeNV",
}

func commandName(code uint32) string {
	if name, ok := commandNames[code]; ok {
		return fmt.Sprintf("%s (command code %#x)", name, code)
	}
	return fmt.Sprintf("the policy command with code %#x", code)
}
