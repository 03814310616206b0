// Package version holds the version that the build stamped into the binary.
package version

// Version is what `git describe` said at build time, or "unknown".
var Version = "unknown"
