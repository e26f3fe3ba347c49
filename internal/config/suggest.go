package config

import (
	"slices"
	"strings"
)

// Suggest ends a message about a name that nobody knows, for those who read names from elsewhere than the file. What
// the names are is said in the plural: "routes".
func Suggest(name string, known []string, what string) string { return suggest(name, known, what) }

// suggest ends a message about a name that nobody knows: with the one that was probably meant, or with all of them
// when they are few.
func suggest(name string, known []string, what string) string {
	best, distance := "", (len([]rune(name))+2)/3+1
	low := strings.ToLower(name)
	for _, k := range known {
		d := editDistance(low, strings.ToLower(k))
		if len(low) > 2 && strings.HasPrefix(strings.ToLower(k), low) {
			d = 1
		}
		if d < distance {
			best, distance = k, d
		}
	}
	if best != "" {
		return "; did you mean " + best + "?"
	}
	if len(known) == 0 {
		return "; there are no " + what
	}
	if len(known) > 12 {
		return ""
	}
	sorted := slices.Sorted(slices.Values(known))
	return "; the " + what + " are " + strings.Join(sorted, ", ")
}

// editDistance counts the insertions, deletions, changes and swaps of neighbours that make b of a. Names longer than
// any of ours are far from all of them.
func editDistance(a, b string) int {
	s, t := []rune(a), []rune(b)
	if len(s) > 64 || len(t) > 64 {
		return 64
	}
	rows := make([][]int, len(s)+1)
	for i := range rows {
		rows[i] = make([]int, len(t)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(s); i++ {
		for j := 1; j <= len(t); j++ {
			cost := 1
			if s[i-1] == t[j-1] {
				cost = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && s[i-1] == t[j-2] && s[i-2] == t[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(s)][len(t)]
}
