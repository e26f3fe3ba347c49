package doctor

import (
	"maps"
	"slices"
	"strings"
)

// sortedKeys are the keys of m in order, so that findings come in the same order each time.
func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// sorted are the values of m in the order of their keys.
func sorted[V any](m map[string]V) []V {
	var values []V
	for _, k := range sortedKeys(m) {
		values = append(values, m[k])
	}
	return values
}

func list(names []string) string { return strings.Join(names, ", ") }

// escapeGlob makes a path match itself alone.
func escapeGlob(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}
