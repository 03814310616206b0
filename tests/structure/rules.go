package structure

import (
	"fmt"
	"slices"
	"strings"
)

// pkg is what `go list -json` tells of a package.
type pkg struct {
	ImportPath                         string
	Imports, TestImports, XTestImports []string
	Deps                               []string
}

// violations lists every import that breaks a rule.
func violations(all []pkg) []string {
	var found []string
	complain := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	for _, p := range all {
		name := strings.TrimPrefix(p.ImportPath, module)
		test := matchesAny(name, testOnly)
		level, line := layerOf(name)
		if level < 0 && !test {
			complain("%s is in no layer: add it to layers.go", name)
		}
		tested := slices.Concat(p.TestImports, p.XTestImports)
		for _, imported := range slices.Concat(p.Imports, tested) {
			if unsafeImport(imported) && !under(name, unsafeIn) {
				complain("%s imports %q, which only %s may", name, imported, unsafeIn)
			}
			below, own := strings.CutPrefix(imported, module)
			if !own || test || matchesAny(below, testOnly) {
				continue
			}
			if to, toLine := layerOf(below); to >= level && below != name && toLine != line {
				complain("%s imports %s, which is not below it", name, below)
			}
		}
		if test {
			continue
		}
		for _, dep := range p.Deps {
			if below, own := strings.CutPrefix(dep, module); own && matchesAny(below, testOnly) || withinAny(dep, testOnlyModules) {
				complain("%s links %s, which is for tests", name, dep)
			}
			if withinAny(dep, apart[name]) {
				complain("%s links %s, which is none of its business", name, dep)
			}
		}
	}
	return found
}

func unsafeImport(path string) bool { return path == "C" || path == "unsafe" }

// layerOf is a package's height and the pattern that says so; -1 for none.
func layerOf(name string) (height int, pattern string) {
	for height, line := range layers {
		for _, pattern := range line {
			if matches(name, pattern) {
				return height, pattern
			}
		}
	}
	return -1, ""
}

func matches(name, pattern string) bool {
	if tree, ok := strings.CutSuffix(pattern, "/..."); ok {
		return under(name, tree)
	}
	return name == pattern
}

func matchesAny(name string, patterns []string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return matches(name, p) })
}

func withinAny(path string, trees []string) bool {
	return slices.ContainsFunc(trees, func(tree string) bool { return under(path, tree) })
}

func under(path, tree string) bool { return path == tree || strings.HasPrefix(path, tree+"/") }
