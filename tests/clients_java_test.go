package tests

import (
	"strings"
	"testing"
)

// Java signs with keys behind a PIN, is refused with a wrong one, and when the PCRs changed.
func TestJavaSigns(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	m.prepare("java.md")
	m.write("pkcs11.cfg", "name = tpm\nlibrary = "+module+"\nslotListIndex = 0\n")
	m.tpm2p11("init", "--label", "web", "--pin-file", "pin", "--so-pin-file", "so-pin")
	for _, kind := range []string{"rsa2048", "p384"} {
		m.tpm2p11("key", "create", kind, "--type", kind, "--pcr", "sha256:7", "--pin-file", "pin")
		m.tpm2p11("key", "self-sign", kind, "--subject", "CN="+kind, "--pin-file", "pin")
	}
	m.run("javac", "-d", ".", "examples/java/Sign.java")
	sign := []string{"-cp", ".", "Sign", "pkcs11.cfg", "contract.txt"}
	signed := m.run("java", append(sign, "pin")...).stdout
	for _, want := range []string{"rsa2048: SHA256withRSA", "rsa2048: RSASSA-PSS", "p384: SHA384withECDSA", "p384: NONEwithECDSA"} {
		if !strings.Contains(signed, want+", verified") {
			t.Errorf("%s is missing:\n%s", want, signed)
		}
	}
	m.write("wrong", "another-pin\n")
	m.refused([]string{"CKR_PIN_INCORRECT"}, "java", append(sign, "wrong")...)
	m.tpm.Extend(t, "sha256", 7, []byte("another loader"))
	m.refused([]string{"CKR_FUNCTION_REJECTED", "PCR7"}, "java", append(sign, "pin")...)
}
