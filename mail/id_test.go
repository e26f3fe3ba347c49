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

func TestIDTime(t *testing.T) {
	for _, at := range []time.Time{time.UnixMicro(0), time.Date(2026, 2, 3, 4, 5, 6, 789_012_000, time.UTC), time.Date(3000, 1, 1, 0, 0, 0, 0, time.UTC)} {
		if got, ok := IDTime(NewID(at.Add(999))); !ok || !got.Equal(at) {
			t.Errorf("%v became %v, %t", at, got, ok)
		}
	}
	id := NewID(time.Now())
	for _, bad := range []string{"", "m", id[1:], id + "0", "I" + id[1:], id[:25] + "u", "../" + id[3:]} {
		if _, ok := IDTime(bad); ok {
			t.Errorf("%q has a time", bad)
		}
	}
}
