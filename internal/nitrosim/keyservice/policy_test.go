package keyservice_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	awskms "github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/tpm2-p11/tpm2-p11/internal/nitrosim/keyservice"
	"github.com/tpm2-p11/tpm2-p11/internal/nitrosim/simtest"
)

type object = map[string]any

// conditions make a Condition from operator, key, value.
func conditions(operator, key string, value any) object { return object{operator: object{key: value}} }

// Who asks for a data key, how, and whether the policy lets him.
func TestWhatPoliciesDecide(t *testing.T) {
	t.Parallel()
	user := keyservice.Principal{ARN: "arn:aws:iam::" + simtest.Account + ":user/ops/ann", AccessKeyID: "AKIDANN", SecretAccessKey: "secret of ann"}
	session := keyservice.Principal{ARN: "arn:aws:sts::" + simtest.Account + ":assumed-role/web/i-1", AccessKeyID: "ASIAWEB", SecretAccessKey: "secret of a session", SessionToken: "t"}
	abroad := keyservice.Principal{ARN: "arn:aws:iam::444455556666:role/web", AccessKeyID: "AKIDABROAD", SecretAccessKey: "secret abroad"}
	m := newMachine(t, func(o *keyservice.Options) {
		o.Principals = []keyservice.Principal{simtest.MachineRole, simtest.KeysRole, user, session, abroad}
	})
	web, root := simtest.MachineRole, "arn:aws:iam::"+simtest.Account+":root"
	pcr := func(i int) string { return fmt.Sprint("kms:RecipientAttestation:NitroTPMPCR", i) }
	value := func(i int) string { return fmt.Sprintf("%096x", m.pcrs[i]) }
	allow := func(who string, action any, condition object) object {
		return statement("Allow", who, action, condition)
	}
	deny := func(who string, action any, condition object) object {
		return statement("Deny", who, action, condition)
	}
	data := "kms:GenerateDataKey"
	for name, c := range map[string]struct {
		statements []object
		who        keyservice.Principal
		plain      bool // without a document
		context    map[string]string
		want       bool
	}{
		"nothing is allowed by default":             {nil, web, false, nil, false},
		"a role":                                    {[]object{allow(web.ARN, data, nil)}, web, false, nil, true},
		"another role":                              {[]object{allow(web.ARN, data, nil)}, simtest.KeysRole, false, nil, false},
		"a user":                                    {[]object{allow(user.ARN, data, nil)}, user, false, nil, true},
		"a session of the role":                     {[]object{allow(web.ARN, data, nil)}, session, false, nil, true},
		"this session alone":                        {[]object{allow(session.ARN, data, nil)}, web, false, nil, false},
		"the account":                               {[]object{allow(root, data, nil)}, user, false, nil, true},
		"the account by number":                     {[]object{allow(simtest.Account, data, nil)}, user, false, nil, true},
		"another account":                           {[]object{allow("arn:aws:iam::444455556666:root", data, nil)}, web, false, nil, false},
		"another account's role":                    {[]object{allow(web.ARN, data, nil)}, abroad, false, nil, false},
		"everybody":                                 {[]object{allow("*", data, nil)}, abroad, false, nil, true},
		"an action by a pattern":                    {[]object{allow(web.ARN, "kms:GenerateDataKey*", nil)}, web, false, nil, true},
		"an action in capitals":                     {[]object{allow(web.ARN, "KMS:generatedatakey", nil)}, web, false, nil, true},
		"one of several actions":                    {[]object{allow(web.ARN, []string{"kms:Decrypt", data}, nil)}, web, false, nil, true},
		"another action":                            {[]object{allow(web.ARN, "kms:GenerateDataKey?*", nil)}, web, false, nil, false},
		"another service's action":                  {[]object{allow(web.ARN, "s3:*", nil)}, web, false, nil, false},
		"a Deny wins, though it comes first":        {[]object{deny("*", data, nil), allow(web.ARN, "*", nil)}, web, false, nil, false},
		"a Deny wins, though it comes last":         {[]object{allow(web.ARN, "*", nil), deny(root, "kms:*", nil)}, web, false, nil, false},
		"a Deny of something else":                  {[]object{allow(web.ARN, "*", nil), deny(root, "kms:Decrypt", nil)}, web, false, nil, true},
		"the PCR":                                   {[]object{allow(web.ARN, data, conditions("StringEquals", pcr(4), value(4)))}, web, false, nil, true},
		"the last PCR":                              {[]object{allow(web.ARN, data, conditions("StringEquals", pcr(23), value(23)))}, web, false, nil, true},
		"the PCR in capitals":                       {[]object{allow(web.ARN, data, conditions("StringEqualsIgnoreCase", pcr(12), strings.ToUpper(value(12))))}, web, false, nil, true},
		"the PCR in capitals, which has case":       {[]object{allow(web.ARN, data, conditions("StringEquals", pcr(12), strings.ToUpper(value(12))))}, web, false, nil, false},
		"the key in capitals":                       {[]object{allow(web.ARN, data, conditions("StringEquals", strings.ToUpper(pcr(4)), value(4)))}, web, false, nil, true},
		"one of several values":                     {[]object{allow(web.ARN, data, conditions("StringEquals", pcr(4), []string{value(5), value(4)}))}, web, false, nil, true},
		"another PCR's value":                       {[]object{allow(web.ARN, data, conditions("StringEquals", pcr(4), value(5)))}, web, false, nil, false},
		"two PCRs":                                  {[]object{allow(web.ARN, data, object{"StringEquals": object{pcr(4): value(4), pcr(7): value(7)}})}, web, false, nil, true},
		"two PCRs, one of which is wrong":           {[]object{allow(web.ARN, data, object{"StringEquals": object{pcr(4): value(4), pcr(7): value(4)}})}, web, false, nil, false},
		"two operators, one of which fails":         {[]object{allow(web.ARN, data, object{"StringEquals": object{pcr(4): value(4)}, "Null": object{pcr(4): "true"}})}, web, false, nil, false},
		"the PCR, without a document":               {[]object{allow(web.ARN, data, conditions("StringEquals", pcr(4), value(4)))}, web, true, nil, false},
		"Null true, with a document":                {[]object{allow(web.ARN, data, conditions("Null", pcr(4), true))}, web, false, nil, false},
		"Null true, without":                        {[]object{allow(web.ARN, data, conditions("Null", pcr(4), "true"))}, web, true, nil, true},
		"Null false, with a document":               {[]object{allow(web.ARN, data, conditions("Null", pcr(4), "false"))}, web, false, nil, true},
		"Null false, without":                       {[]object{allow(web.ARN, data, conditions("Null", pcr(4), false))}, web, true, nil, false},
		"a Deny without a document, with one":       {[]object{allow(web.ARN, data, nil), deny("*", data, conditions("Null", pcr(4), "true"))}, web, false, nil, true},
		"a Deny without a document, without":        {[]object{allow(web.ARN, data, nil), deny("*", data, conditions("Null", pcr(4), "true"))}, web, true, nil, false},
		"a Deny of other images, of this one":       {[]object{allow(web.ARN, data, nil), deny("*", data, conditions("StringNotEqualsIgnoreCase", pcr(4), strings.ToUpper(value(4))))}, web, false, nil, true},
		"a Deny of other images, of another":        {[]object{allow(web.ARN, data, nil), deny("*", data, conditions("StringNotEquals", pcr(4), value(5)))}, web, false, nil, false},
		"a Deny of other images, without any":       {[]object{allow(web.ARN, data, nil), deny("*", data, conditions("StringNotEquals", pcr(4), value(4)))}, web, true, nil, false},
		"an enclave's PCR":                          {[]object{allow(web.ARN, data, conditions("StringEquals", "kms:RecipientAttestation:PCR4", value(4)))}, web, false, nil, false},
		"an enclave's image":                        {[]object{allow(web.ARN, data, conditions("StringEquals", "kms:RecipientAttestation:ImageSha384", value(0)))}, web, false, nil, false},
		"no enclave":                                {[]object{allow(web.ARN, data, conditions("Null", "kms:RecipientAttestation:ImageSha384", "true"))}, web, false, nil, true},
		"the encryption context":                    {[]object{allow(web.ARN, data, conditions("StringEquals", "kms:EncryptionContext:service", "payroll"))}, web, false, purpose, true},
		"another encryption context":                {[]object{allow(web.ARN, data, conditions("StringEquals", "kms:EncryptionContext:service", "payments"))}, web, false, purpose, false},
		"no encryption context":                     {[]object{allow(web.ARN, data, conditions("StringEquals", "kms:EncryptionContext:service", "payroll"))}, web, false, nil, false},
		"the encryption context must be given":      {[]object{allow(web.ARN, data, conditions("Null", "kms:EncryptionContext:stage", "false"))}, web, false, purpose, true},
		"the encryption context must be given, but": {[]object{allow(web.ARN, data, conditions("Null", "kms:EncryptionContext:stage", "false"))}, web, false, nil, false},
	} {
		key := m.kms.Key(t, statements(c.statements...))
		request := &awskms.GenerateDataKeyInput{KeyId: &key, KeySpec: types.DataKeySpecAes256, EncryptionContext: c.context}
		if !c.plain {
			request.Recipient = m.recipient()
		}
		out, err := m.kms.Client(c.who).GenerateDataKey(t.Context(), request)
		if c.want && (err != nil || (len(out.Plaintext) == 32) != c.plain) {
			t.Errorf("%s: %v", name, err)
		} else if !c.want {
			refused(t, name, err, "AccessDeniedException")
		}
	}
}

// A key policy is about its own key, whatever others it names.
func TestAStatementForAnotherKeyDoesNotApply(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	for resource, want := range map[string]bool{
		"*": true, "arn:aws:kms:*:" + simtest.Account + ":key/*": true, "arn:aws:kms:*:444455556666:key/*": false,
	} {
		s := statement("Allow", simtest.MachineRole.ARN, "kms:DescribeKey", nil)
		s["Resource"] = resource
		key := m.kms.Key(t, statements(s))
		if _, err := m.kms.Client(simtest.MachineRole).DescribeKey(t.Context(), &awskms.DescribeKeyInput{KeyId: &key}); (err == nil) != want {
			t.Errorf("%s: %v", resource, err)
		}
	}
}

func TestTheRefusalSaysWhoAndWhat(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	quiet := m.kms.Key(t, statements())
	loud := m.kms.Key(t, statements(statement("Deny", "*", "kms:Decrypt*", nil), statement("Deny", "*", "kms:Encrypt", nil)))
	for key, says := range map[string]string{quiet: "because no resource-based policy allows the kms:Encrypt action", loud: "with an explicit deny in a resource-based policy"} {
		_, err := m.kms.Client(simtest.MachineRole).Encrypt(t.Context(), &awskms.EncryptInput{KeyId: &key, Plaintext: []byte("x")})
		message := refused(t, says, err, "AccessDeniedException").ErrorMessage()
		for _, part := range []string{simtest.MachineRole.ARN, "kms:Encrypt", key, says} {
			if !strings.Contains(message, part) {
				t.Errorf("%q does not name %s", message, part)
			}
		}
	}
}

func TestPoliciesThatAreNotUnderstoodAreRefused(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	keys := m.kms.Client(simtest.KeysRole)
	key := m.kms.Key(t, statements())
	with := func(change func(s object)) string {
		s := statement("Allow", simtest.MachineRole.ARN, "kms:Decrypt", nil)
		change(s)
		return statements(s)
	}
	condition := func(c object) string { return with(func(s object) { s["Condition"] = c }) }
	for name, policy := range map[string]string{
		"no JSON":                     "Allow",
		"a list":                      "[]",
		"empty":                       "{}",
		"two conditions in one":       strings.Replace(condition(conditions("Null", "kms:RecipientAttestation:NitroTPMPCR4", "false")), `"Condition":`, `"Condition":{},"Condition":`, 1),
		"no statements":               `{"Version":"2012-10-17","Statement":[]}`,
		"another version":             strings.Replace(statements(), "2012-10-17", "2026-01-01", 1),
		"another element":             strings.Replace(statements(), `"Version"`, `"Versions"`, 1),
		"an element in small letters": strings.Replace(statements(), `"Effect"`, `"effect"`, 1),
		"another effect":              with(func(s object) { s["Effect"] = "Permit" }),
		"no principal":                with(func(s object) { delete(s, "Principal") }),
		"no action":                   with(func(s object) { delete(s, "Action") }),
		"no resource":                 with(func(s object) { delete(s, "Resource") }),
		"NotPrincipal":                with(func(s object) { s["NotPrincipal"] = s["Principal"] }),
		"NotAction":                   with(func(s object) { s["NotAction"] = "kms:Decrypt" }),
		"an action of no service":     with(func(s object) { s["Action"] = "Decrypt" }),
		"an action that is a number":  with(func(s object) { s["Action"] = 1 }),
		"a principal that is a name":  with(func(s object) { s["Principal"] = object{"AWS": "web"} }),
		"a pattern of principals":     with(func(s object) { s["Principal"] = object{"AWS": "arn:aws:iam::111122223333:role/*"} }),
		"a principal of another kind": with(func(s object) { s["Principal"] = object{"Federated": "cognito"} }),
		"a principal without a kind":  with(func(s object) { s["Principal"] = simtest.MachineRole.ARN }),
		"another operator":            condition(conditions("StringLike", "kms:RecipientAttestation:NitroTPMPCR4", "*")),
		"IfExists":                    condition(conditions("StringEqualsIfExists", "kms:RecipientAttestation:NitroTPMPCR4", "00")),
		"ForAllValues":                condition(conditions("ForAllValues:StringEquals", "kms:RecipientAttestation:NitroTPMPCR4", "00")),
		"a PCR that does not exist":   condition(conditions("StringEquals", "kms:RecipientAttestation:NitroTPMPCR24", "00")),
		"another condition key":       condition(conditions("StringEquals", "aws:SourceIp", "127.0.0.1")),
		"no value":                    condition(conditions("StringEquals", "kms:RecipientAttestation:NitroTPMPCR4", []string{})),
		"Null that is neither":        condition(conditions("Null", "kms:RecipientAttestation:NitroTPMPCR4", "maybe")),
	} {
		_, err := keys.PutKeyPolicy(t.Context(), &awskms.PutKeyPolicyInput{KeyId: &key, Policy: &policy})
		refused(t, name, err, "MalformedPolicyDocumentException")
		_, err = keys.CreateKey(t.Context(), &awskms.CreateKeyInput{Policy: &policy})
		if policy != "" {
			refused(t, name+", for a new key", err, "MalformedPolicyDocumentException")
		}
	}
	long := statements(named(strings.Repeat("x", 32<<10)))
	_, err := keys.PutKeyPolicy(t.Context(), &awskms.PutKeyPolicyInput{KeyId: &key, Policy: &long})
	refused(t, "too long", err, "LimitExceededException")

	// What was refused changed nothing.
	out, err := keys.GetKeyPolicy(t.Context(), &awskms.GetKeyPolicyInput{KeyId: &key})
	if err != nil || aws.ToString(out.Policy) != statements() {
		t.Errorf("the policy is %s, error %v", aws.ToString(out.Policy), err)
	}
}

// named is a statement with a long name.
func named(sid string) object {
	s := statement("Allow", simtest.MachineRole.ARN, "kms:Decrypt", nil)
	s["Sid"] = sid
	return s
}

func TestNobodyLocksHimselfOut(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	keys := m.kms.Client(simtest.KeysRole)
	locked := `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Principal":{"AWS":"` + simtest.MachineRole.ARN + `"},"Action":"kms:*","Resource":"*"}}`
	_, err := keys.CreateKey(t.Context(), &awskms.CreateKeyInput{Policy: &locked})
	refused(t, "a new key", err, "MalformedPolicyDocumentException")
	key := m.kms.Key(t, statements())
	_, err = keys.PutKeyPolicy(t.Context(), &awskms.PutKeyPolicyInput{KeyId: &key, Policy: &locked})
	refused(t, "a new policy", err, "MalformedPolicyDocumentException")
	if _, err = keys.PutKeyPolicy(t.Context(), &awskms.PutKeyPolicyInput{KeyId: &key, Policy: &locked, BypassPolicyLockoutSafetyCheck: true}); err != nil {
		t.Error(err)
	}
	_, err = keys.GetKeyPolicy(t.Context(), &awskms.GetKeyPolicyInput{KeyId: &key})
	refused(t, "afterwards", err, "AccessDeniedException")
	if _, err := m.kms.Client(simtest.MachineRole).GetKeyPolicy(t.Context(), &awskms.GetKeyPolicyInput{KeyId: &key}); err != nil {
		t.Error(err)
	}
	if err := m.kms.SetPolicy(key, statements()); err != nil {
		t.Error(err)
	}
	if _, err = keys.GetKeyPolicy(t.Context(), &awskms.GetKeyPolicyInput{KeyId: &key}); err != nil {
		t.Errorf("after the emulator's owner helped: %v", err)
	}
}
