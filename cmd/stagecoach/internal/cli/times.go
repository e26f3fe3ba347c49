package cli

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

const day = 24 * time.Hour

// when is a time in a list: relative on a terminal, RFC 3339 in UTC in a pipe; nothing if it is not set.
func (o *output) when(t *timestamppb.Timestamp) string {
	switch {
	case t == nil:
		return ""
	case !o.terminal:
		return t.AsTime().Format(time.RFC3339)
	case o.utc:
		return t.AsTime().Format("2006-01-02 15:04:05")
	}
	return relative(t.AsTime().Sub(o.now()))
}

// moment is a time in a text: both ways on a terminal.
func (o *output) moment(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	if !o.terminal || o.utc {
		return o.stamp(t)
	}
	return o.stamp(t) + " (" + o.when(t) + ")"
}

// stamp is a time to the second: that of the place, or UTC.
func (o *output) stamp(t *timestamppb.Timestamp) string {
	if o.terminal && !o.utc {
		return t.AsTime().In(o.location).Format("2006-01-02 15:04:05")
	}
	return t.AsTime().Format("2006-01-02 15:04:05Z")
}

// relative says how long ago or hence something is.
func relative(d time.Duration) string {
	if d > -time.Second && d < time.Second {
		return "now"
	}
	if d < 0 {
		return roughly(-d) + " ago"
	}
	return "in " + roughly(d)
}

// roughly is a time in one unit.
func roughly(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 2*day:
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return fmt.Sprintf("%d days", int(d/day))
}

// took is a short duration in a story.
func took(d *durationpb.Duration) string {
	switch t := d.AsDuration(); {
	case d == nil:
		return ""
	case t < time.Millisecond:
		return "under 1 ms"
	case t < 10*time.Second:
		return fmt.Sprintf("%d ms", t.Milliseconds())
	default:
		return t.Round(100 * time.Millisecond).String()
	}
}

// size is a number of bytes: for eyes in kB and MB (powers of ten), for programs as it is.
func (o *output) size(n uint64) string {
	if !o.terminal {
		return strconv.FormatUint(n, 10)
	}
	return bytesText(n)
}

func bytesText(n uint64) string {
	switch {
	case n < 1000:
		return fmt.Sprintf("%d B", n)
	case n < 1e6:
		return fmt.Sprintf("%.1f kB", float64(n)/1e3)
	case n < 1e9:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	}
	return fmt.Sprintf("%.1f GB", float64(n)/1e9)
}

// pastTime reads --since and --until: a duration back from now (90s, 24h, 7d), a day, or a time. Days and times
// without a zone are those of the place, or UTC with --utc.
func (o *output) pastTime(flag, s string) (*timestamppb.Timestamp, error) {
	if s == "" {
		return nil, nil
	}
	if days, ok := strings.CutSuffix(s, "d"); ok {
		if n, err := strconv.ParseUint(days, 10, 16); err == nil {
			return timestamppb.New(o.now().Add(-time.Duration(n) * day)), nil
		}
	}
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return timestamppb.New(o.now().Add(-d)), nil
	}
	zone := o.location
	if o.utc {
		zone = time.UTC
	}
	for _, layout := range []string{time.DateOnly, "2006-01-02 15:04", time.DateTime, "2006-01-02T15:04", "2006-01-02T15:04:05", time.RFC3339} {
		if t, err := time.ParseInLocation(layout, s, zone); err == nil {
			return timestamppb.New(t), nil
		}
	}
	return nil, usagef("--%s %q is neither a duration such as 90m, 24h or 7d, nor a time such as 2026-11-22 or 2026-11-22T08:30", flag, s)
}

// count is "1 message", "2 messages".
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return strconv.Itoa(n) + " " + thing + "s"
}
