// Package version holds the version that the build stamped into the binary.
package version

import (
	"strconv"
	"strings"
)

// Version is what `git describe` said at build time, or "unknown".
var Version = "unknown"

// MajorMinor is the first two numbers of Version, such as 0 and 3 of "v0.3.1-4-gabcdef0"; 0 and 0 when it does not begin
// with two numbers up to 255.
func MajorMinor() (major, minor byte) { return parse(Version) }

func parse(version string) (major, minor byte) {
	release, _, _ := strings.Cut(strings.TrimPrefix(version, "v"), "-")
	first, rest, found := strings.Cut(release, ".")
	second, _, _ := strings.Cut(rest, ".")
	a, err := strconv.ParseUint(first, 10, 8)
	if err != nil || !found {
		return 0, 0
	}
	b, err := strconv.ParseUint(second, 10, 8)
	if err != nil {
		return 0, 0
	}
	return byte(a), byte(b)
}
