package provider

// PretendFork makes a TPM believe that another process opened its connection.
func PretendFork(t *TPM) { t.pid = -1 }

// CpHash is the hash that authorises NitroTPM's command for an NV index with a Name.
func CpHash(name Name) []byte {
	cmd := command{code: ccNSMRequest, in: []entity{{name: name}, {name: name}}}
	return cmd.cpHash(nsmHash)
}

// DirectAddress is where a TPM's commands go that its resource manager refuses, "" for nowhere.
func DirectAddress(t *TPM) string {
	if d := t.directDialer(); d != nil {
		return d.String()
	}
	return ""
}
