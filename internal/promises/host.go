package promises

var (
	wrongPIN = Row{Module: "CKR_PIN_INCORRECT", Signer: "ErrPIN", Command: Command{"1", []string{"wrong PIN", "lockout show"}}}
	locked   = Row{Module: "CKR_PIN_LOCKED", Signer: "ErrLockout", Command: Command{"1", []string{"lockout", "lockout reset"}}}
	unmet    = Row{Module: "CKR_FUNCTION_REJECTED", Signer: "ErrPolicy", Command: Command{"1", []string{"sha256 PCR8", "pcr read"}}}
	crowded  = Row{Module: "CKR_DEVICE_MEMORY", Signer: "ErrNoMemory", Command: Command{"1", []string{"no room", "/dev/tpmrm0"}}}
	full     = Row{Module: "CKR_DEVICE_MEMORY", Command: Command{"1", []string{"no room in its NV memory", "tpm2-p11 handles"}}}
	usurped  = Row{Module: "CKR_DEVICE_ERROR", Signer: "ErrParentChanged", Command: Command{"1", []string{"storage root key", "init --force"}}}
)

var machine = Section{
	Title: "What happens to the machine and its TPM",
	Rows: []Row{
		Row{
			Fault: "a PCR that the key is bound to has another value", Name: "bound PCR differs", Use: bound, Apart: true,
			Begin: func(m *Machine) { m.TPM.Extend(m.TB, "sha256", BoundPCR, []byte("another loader")) }, End: restart,
			After: "it works once the PCRs have the approved values, as after another boot",
			Shown: []string{"TestBoundKeyRefuses", "TestRefusalsLeaveNothing"},
		}.as(unmet),
		Row{
			Fault: "another PCR changes", Name: "another PCR changes", Use: bound,
			Begin: func(m *Machine) { m.TPM.Extend(m.TB, "sha256", 10, []byte("a program was run")) },
		}.as(unseen),
		Row{
			Fault: "a wrong PIN", Name: "wrong PIN", Token: Guarded, Use: Use{Key: "web", PIN: WrongPIN}, Apart: true,
			After: "it was counted once, and never tried again",
			Shown: []string{"TestWrongPINsCountOnce", "TestAPINIsGuessedOnceAlthoughTheConnectionIsLost"},
		}.as(wrongPIN),
		Row{
			Fault: "the TPM is in lockout after too many wrong PINs", Name: "lockout", Token: Guarded, Use: Use{Key: "web", PIN: PIN}, Apart: true,
			Begin: lockOut, End: endLockout,
			After: "keys without a PIN, and those of who is logged in, sign on; the PIN is taken when the lockout is over",
			Shown: []string{"TestLockout"},
		}.as(locked),
		Row{
			Fault: "the TPM is reset under a running process", Name: "reset", Use: Use{Key: "wrapped"}, Begin: restart,
			Shown: []string{"TestATPMThatRestartsUnderUs"},
		}.as(unseen),
		Row{
			Fault: "the same, with a PIN and a session", Name: "reset, with a PIN", Token: Guarded, Use: web, Begin: restart,
			Shown: []string{"TestATPMThatRestartsUnderUs"},
		}.as(unseen),
		Row{
			Fault: "the TPM is gone", Name: "gone", Use: web,
			Begin: func(m *Machine) { m.TPM.Stop(m.TB) }, End: restart,
			After: "it works once the TPM is back, without C_Finalize, and without another login where there is no PIN",
		}.as(removed),
		Row{
			Fault: "the same, with a PIN", Name: "gone, with a PIN", Token: Guarded, Use: web,
			Begin: func(m *Machine) { m.TPM.Stop(m.TB) }, End: restart,
		}.as(removed),
		Row{
			Fault: "other programs left no room for another loaded object", Name: "no room for objects", Use: web, Begin: fillObjects,
			After: "it works once they unload something",
		}.as(crowded),
		Row{
			Fault: "other programs left no room for another session", Name: "no room for sessions", Token: Guarded, Use: web, Begin: fillSessions,
		}.as(crowded),
		Row{
			Fault: "other programs took every session's handle", Name: "no handles", Token: Guarded, Use: web, Begin: fillHandles,
		}.as(crowded),
		Row{
			Fault: "the TPM's NV memory is full, and a key is to be made persistent", Name: "NV full", Use: Use{Verb: Create, Key: "web"}, Begin: fillNV, Apart: true,
			After: "nothing of the key is left; keys sign on",
			Shown: []string{"TestAKeyThatHasNoRoomInTheTPMLeavesNothingBehind"},
		}.as(full),
		Row{
			Fault: "another storage root key is at the place of the token's: a PIN is given", Name: "another SRK", Token: Guarded, Use: Use{Key: "web", PIN: PIN},
			Begin: replaceSRK, Apart: true, Lost: true,
			After: "it is refused before the PIN or anything else that is secret is sent; `tpm2-p11 init` brings the token's own back, keys and PINs are as they were",
			Shown: []string{"TestAnotherSRKIsRefusedBeforeAnySecretIsSent", "TestARemovedStorageRootKeyComesBack"},
		}.as(usurped),
		Row{
			Fault: "the same: a wrapped key signs", Name: "another SRK, wrapped key", Use: Use{Key: "wrapped"}, Begin: replaceSRK, Apart: true, Lost: true,
		}.as(usurped),
		Row{
			Fault: "TPM2_Clear: a persistent key signs", Name: "clear", Use: web, Begin: clear, Apart: true, Lost: true,
			After: "the keys are lost; `tpm2-p11 init --force` begins anew",
			Shown: []string{"TestANewOwnerBeginsAnew"},
		}.as(usurped),
		Row{
			Fault: "the same: a wrapped key signs", Name: "clear, wrapped key", Use: Use{Key: "wrapped"}, Begin: clear, Apart: true, Lost: true,
		}.as(usurped),
		Row{
			Fault: "a process forks, at whatever moment", Module: "CKR_CRYPTOKI_NOT_INITIALIZED", Signer: "ErrForked",
			After: "in the child, that is, until its own C_Initialize; keys of the Go package are opened anew. The parent goes on",
			Shown: []string{"TestForkingServer", "TestForkedChildrenUseTheKeys", "TestForkedDaemon", "TestAForkedChildOpensItsOwnConnection", "TestKeyOfAnotherProcess"},
		},
		Row{
			Fault: "the process that serves forked children is killed in the midst of a call",
			Shown: []string{"TestForkedChildrenOutliveTheirHelper", "TestForkedChildrenOutliveManyHelpers", "TestForkedChildLogsInAgain"},
			After: "what changes nothing is asked again of the next one; CKR_DEVICE_REMOVED where that could do something twice, CKR_USER_NOT_LOGGED_IN where a login was lost",
		}.as(unseen),
		Row{
			Fault: "the service on a socket is killed or restarted", Module: "CKR_OK", Signer: "nil",
			Shown: []string{"TestAServiceThatIsKilledInTheMidstOfACall", "TestServersSocketServesHosts", "TestServedKeysOutliveTheServer"},
			After: "likewise",
		},
		Row{
			Fault: "the TPM's clock goes forward beyond a policy's term", Module: "CKR_FUNCTION_REJECTED", Signer: "ErrPolicy", Command: Command{Exit: "1"},
			Shown: []string{"TestSealedDataThatExpires", "TestAKeyOfOneBoot"},
			After: "it cannot go back",
		},
	},
}
