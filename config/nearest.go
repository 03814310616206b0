package config

import "strings"

// nearest is the known name that somebody who wrote name may have meant, "" for none.
func nearest(name string, known []string) string {
	name = strings.ReplaceAll(strings.ToLower(name), "-", "_")
	best, found := 3, ""
	for _, k := range known {
		if d := distance(name, k); d < best && d < len(k) {
			best, found = d, k
		}
	}
	return found
}

// distance is the Levenshtein distance in bytes, where two that changed places count as one mistake.
func distance(a, b string) int {
	last, before := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		row := make([]int, len(b)+1)
		row[0] = i + 1
		for j := range len(b) {
			replaced := last[j]
			if a[i] != b[j] {
				replaced++
			}
			row[j+1] = min(replaced, last[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}
