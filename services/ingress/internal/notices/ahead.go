package notices

import (
	"context"
	"fmt"
	"time"
)

const day = 24 * time.Hour

// steps before its end at which a certificate is told of, in days.
var steps = []int{1, 7, 14}

// lookAtCertificates queues those that end soon, once for each step.
func (t *Teller) lookAtCertificates(s Source, now time.Time) {
	for _, c := range s.Certificates() {
		left := c.Ends.Sub(now)
		title, step := "", 0
		if left <= 0 {
			title = fmt.Sprintf("%s has ended on %s", line(c.Name, nameLimit), t.stamp(c.Ends))
		} else {
			for _, n := range steps {
				if left <= time.Duration(n)*day {
					title, step = fmt.Sprintf("%s ends in %s", line(c.Name, nameLimit), length(left)), n
					break
				}
			}
		}
		if title == "" {
			continue
		}
		t.add(&item{key: keyOf("certificate", c.Name, c.Ends.UTC().String(), fmt.Sprint(step)), title: title, lines: []string{"on " + t.stamp(c.Ends), c.Remedy}})
	}
}

const (
	// much is the part of a limit from which it is told at once.
	much = 0.8
	// horizon is how far ahead it is told that something will be full.
	horizon = 14 * day
	// Growth is measured by a sample every few hours, over a week, and not before there is a day of them.
	sampleEvery = 6 * time.Hour
	sampleFor   = 7 * day
	sampleLeast = day
)

// growth is how what can be full was filled, by name.
type growth struct {
	Samples map[string][]sample `json:"samples"`
}

type sample struct {
	At   time.Time `json:"at"`
	Used uint64    `json:"used"`
}

// lookAtFills queues what is filled by much, and what will be full soon: each once a day.
func (t *Teller) lookAtFills(ctx context.Context, s Source, now time.Time) error {
	key := keyOf("growth", t.o.Instance)
	if t.growth == nil {
		g := &growth{}
		if _, err := t.claims.load(ctx, key, g); err != nil {
			return err
		}
		t.growth = g
	}
	today := now.In(t.o.Location).Format(time.DateOnly)
	more := false
	next := map[string][]sample{} // what is not there any more is forgotten
	for _, f := range s.Fills() {
		if f.Limit == 0 {
			continue
		}
		past := t.growth.Samples[f.Name]
		if n := len(past); n == 0 || now.Sub(past[n-1].At) >= sampleEvery {
			past, more = append(past, sample{now, f.Used}), true
		}
		for len(past) > 0 && now.Sub(past[0].At) > sampleFor {
			past = past[1:]
		}
		next[f.Name] = past
		holds := fmt.Sprintf("it holds %s of %s", bytesText(f.Used), bytesText(f.Limit))
		name := line(f.Name, nameLimit)
		if part := float64(f.Used) / float64(f.Limit); part >= much {
			t.add(&item{key: keyOf("fill", f.Name, today, "much"), title: fmt.Sprintf("%s is filled to %d%%", name, int(part*100)), lines: []string{holds, f.Effect}})
		} else if left, ok := fullIn(past, now, f); ok && left <= horizon {
			t.add(&item{key: keyOf("fill", f.Name, today, "soon"), title: fmt.Sprintf("%s will be full in about %s", name, length(left)),
				lines: []string{holds + ", and grows as it did in the last days", f.Effect}})
		}
	}
	t.growth.Samples = next
	if more {
		return t.claims.store(ctx, key, t.growth)
	}
	return nil
}

// fullIn says when f is full if it grows as its samples did (by least squares); false: it does not, or that is not
// known yet.
func fullIn(past []sample, now time.Time, f Fill) (time.Duration, bool) {
	if len(past) < 3 || past[len(past)-1].At.Sub(past[0].At) < sampleLeast {
		return 0, false
	}
	n := float64(len(past))
	var x, y, xx, xy float64
	for _, s := range past {
		h, u := s.At.Sub(past[0].At).Hours(), float64(s.Used)
		x, y, xx, xy = x+h, y+u, xx+h*h, xy+h*u
	}
	slope := (n*xy - x*y) / (n*xx - x*x) // bytes an hour
	if slope <= 0 {
		return 0, false
	}
	hours := (float64(f.Limit) - float64(f.Used)) / slope
	if hours > 24*365 {
		return 0, false
	}
	return time.Duration(hours * float64(time.Hour)), true
}

func bytesText(n uint64) string {
	switch {
	case n < 1e6:
		return fmt.Sprintf("%.1f kB", float64(n)/1e3)
	case n < 1e9:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	}
	return fmt.Sprintf("%.1f GB", float64(n)/1e9)
}
