package config

import "fmt"

// Error is what is wrong with a configuration, and where.
type Error struct {
	Path string // the file
	Line int    // counted from 1; 0 when the whole file is meant
	Err  error
}

// Error: `tpm2-p11.conf:12: unknown key "stroe": did you mean "store"?`.
func (e *Error) Error() string {
	if e.Line == 0 {
		return fmt.Sprintf("%s: %v", e.Path, e.Err)
	}
	return fmt.Sprintf("%s:%d: %v", e.Path, e.Line, e.Err)
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }
