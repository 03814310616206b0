package promises

import "syscall"

var disk = Section{
	Title: "What happens to the disk",
	Intro: "A system call's error is put in the place of each call that changes the store, one after another, while a key is made. Reads go on in all of these: keys sign.",
	Rows: []Row{
		Row{Fault: "it is full", Errno: syscall.ENOSPC}.as(noRoom),
		Row{Fault: "the user's quota is used up", Errno: syscall.EDQUOT}.as(noRoom),
		Row{Fault: "it cannot be read or written (EIO)", Errno: syscall.EIO,
			After: "a file that cannot be read is passed over, and `tpm2-p11 doctor` names it", Shown: []string{"TestAKeyThatTheDiskDoesNotGiveIsPassedOver"},
			Module: "CKR_DEVICE_ERROR", Signer: "nil", Command: Command{"1", []string{"input/output error", "dmesg"}}},
		Row{Fault: "the store is somebody else's (EACCES)", Errno: syscall.EACCES, Shown: []string{"TestAStoreThatCannotBeWrittenIsRead"}}.as(notOurs),
		Row{Fault: "it is read-only (EROFS)", Errno: syscall.EROFS, Shown: []string{"TestAStoreOnAReadOnlyFilesystem"}}.as(readOnly),
		{
			Fault: "the process is killed, before any step of: making a key, making it persistent, taking its handle away, deleting it, changing and resetting the PIN, sealing anew",
			After: "the next change, or `tpm2-p11 doctor`, finishes what was begun or takes it back: no handle without its key, no key lost, no PIN between two",
			Shown: []string{"TestAKilledCommandLeavesAWholeStore", "TestEveryInterruptedStateConverges", "TestAWriterThatIsKilledLeavesAWholeStore", "TestAnInterruptedSecretConverges"},
		},
		{
			Fault: "the TPM is lost before or after any command of these",
			After: "likewise",
			Shown: []string{"TestAKeyWhoseTPMDiesOnTheWayToItsHandleIsFinishedLater", "TestATPMThatGoesAwayLeavesNoHalfKey", "TestAnImportWhoseTPMIsLostInTheMiddle"},
		},
		{
			Fault: "a file is empty, torn, too long, not a file, or not of the store", Module: "CKR_OK", Signer: "nil", Command: Command{Exit: "0"},
			After: "that key is passed over with a warning, and `tpm2-p11 doctor` names it; the others work. A key whose sidecar is bad is what its PEM says",
			Shown: []string{"TestFilesThatCannotBeUnderstoodAreSkippedAndNamed", "TestDoctorNamesWhatIsWrongWithAStore"},
		},
		{
			Fault: "a file was written by a newer version", Module: "CKR_OK", Signer: "nil", Command: Command{Exit: "0"},
			After: "likewise; the token's own file stops the token, with “update tpm2-p11”",
			Shown: []string{"TestFilesThatCannotBeUnderstoodAreSkippedAndNamed", "TestATokenFileThatCannotBeUnderstoodIsRefused"},
		},
		{
			Fault: "a key's public and private part are of two keys", Module: "CKR_DEVICE_ERROR", Signer: "ErrWrongTPM", Command: Command{"1", []string{"another TPM or under another parent"}},
			After: "the TPM does not load them together: nothing is signed",
			Shown: []string{"TestSwappedPartsOfTwoKeys"},
		},
		{
			Fault: "several processes change the store and several read it",
			After: "a thousand creations, none lost, and no reader saw half a key or waited",
			Shown: []string{"TestManyProcessesMakeAThousandObjects", "TestTwoProcessesWriteAndOneReadsAndNothingIsLost"},
		},
		{
			Fault: "the machine's clock jumps, or files are dated in the future or the past", Module: "CKR_OK", Signer: "nil", Command: Command{Exit: "0"},
			After: "a change of the store is seen all the same; nobody's patience is measured by that clock",
			Shown: []string{"TestFilesOfAnyDateAreReadAgainWhenTheyChange"},
		},
	},
}

var (
	noRoom   = Row{Module: "CKR_DEVICE_MEMORY", Signer: "nil", Command: Command{"1", []string{"make room"}}}
	notOurs  = Row{Module: "CKR_TOKEN_WRITE_PROTECTED", Signer: "nil", Command: Command{"1", []string{"the store cannot be written", "as the store's owner"}}}
	readOnly = Row{Module: "CKR_TOKEN_WRITE_PROTECTED", Signer: "nil", Command: Command{"1", []string{"the store cannot be written", "mount it writable"}}}
)
