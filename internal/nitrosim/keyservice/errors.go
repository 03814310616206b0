package keyservice

import (
	"errors"
	"fmt"
	"net/http"
)

// refusal is an error in AWS's shape. The message is for the caller.
type refusal struct {
	code, message string
	status        int
}

func (r *refusal) Error() string { return r.code + ": " + r.message }

// refuse makes a refusal with HTTP status 400, which nearly all have.
func refuse(code, format string, args ...any) error {
	return &refusal{code, fmt.Sprintf(format, args...), http.StatusBadRequest}
}

func invalid(format string, args ...any) error { return refuse("ValidationException", format, args...) }

// asRefusal is what a caller is told of an error.
func asRefusal(err error) *refusal {
	var r *refusal
	if errors.As(err, &r) {
		return r
	}
	return &refusal{"KMSInternalException", err.Error(), http.StatusInternalServerError}
}
