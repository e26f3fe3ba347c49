package mail

import (
	"regexp"
	"testing"
	"time"
)

func TestNewID(t *testing.T) {
	form := regexp.MustCompile(`^[0-9a-hjkmnp-tv-z]{26}$`)
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	last := ""
	seen := map[string]bool{}
	for range 1000 {
		id := NewID(at)
		if !form.MatchString(id) {
			t.Fatalf("%q", id)
		}
		if id <= last {
			t.Fatalf("%q does not sort after %q", id, last)
		}
		last = id
		at = at.Add(time.Microsecond)
		if again := NewID(at); seen[again[idTimeDigits:]] {
			t.Fatal("the random part repeats")
		} else {
			seen[again[idTimeDigits:]] = true
		}
	}
	if early, late := NewID(time.Time{}), NewID(time.Date(3000, 1, 1, 0, 0, 0, 0, time.UTC)); early >= late {
		t.Errorf("%q, %q", early, late)
	}
}
