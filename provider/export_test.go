package provider

// PretendFork makes a TPM believe that another process opened its connection.
func PretendFork(t *TPM) { t.pid = -1 }
