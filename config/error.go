package config

import "github.com/tpm2-p11/tpm2-p11/internal/place"

// Error is what is wrong with a configuration, and where.
type Error = place.Error
