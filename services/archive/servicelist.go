package archive

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/stagecoachmail/stagecoach/mail"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

const (
	defaultPage = 100
	largestPage = 1000
	// listTime bounds the work for one page. Where it ends a page has fewer messages, or none.
	listTime = 3 * time.Second
	// deadlineMargin is left of a caller's time to bring the page home.
	deadlineMargin = 300 * time.Millisecond
	// windowSize is how many messages of a day are looked at before its names are read again.
	windowSize = 1000
	// pageBytes bounds a page in bytes, but for its last message.
	pageBytes = 1 << 20
	// messageBytes bounds one message; older forms lose their envelope.
	messageBytes = 2 << 20
)

// listing is one page being made.
type listing struct {
	archives          []instance
	since, until      time.Time
	sender, recipient *mail.Pattern
	nullSender        bool
	size              int

	page  []*adminv1.ArchivedMessage
	bytes int
}

// ListArchived implements the service.
func (s *service) ListArchived(ctx context.Context, r *adminv1.ListArchivedRequest) (*adminv1.ListArchivedResponse, error) {
	l, from, err := s.listing(r)
	if err != nil {
		return nil, err
	}
	end := time.Now().Add(s.patience)
	if d, ok := ctx.Deadline(); ok {
		if d = d.Add(-deadlineMargin); d.Before(end) {
			end = d
		}
	}
	work, cancel := context.WithDeadline(ctx, end)
	defer cancel()
	at, more, err := l.fill(work, from)
	switch {
	case ctx.Err() != nil:
		return nil, status.FromContextError(ctx.Err()).Err()
	case err != nil && work.Err() == nil:
		return nil, status.Errorf(codes.Unavailable, "the archive cannot be read: %v", err)
	case err != nil && at == from:
		// Going on from here would come to the same.
		return nil, status.Error(codes.DeadlineExceeded, "the archive is too large to be listed in this time: give more, or a shorter range")
	}
	resp := &adminv1.ListArchivedResponse{Messages: l.page}
	if more {
		resp.NextPageToken = at.token()
	}
	return resp, nil
}

func (s *service) listing(r *adminv1.ListArchivedRequest) (*listing, position, error) {
	l := &listing{size: int(r.GetPageSize())}
	if l.size == 0 {
		l.size = defaultPage
	}
	from := start
	bad := func(err error) (*listing, position, error) {
		return nil, from, status.Error(codes.InvalidArgument, err.Error())
	}
	if l.size > largestPage {
		return bad(errors.New("page_size is at most 1000"))
	}
	for _, t := range []struct {
		valid error
		set   bool
	}{{r.GetSince().CheckValid(), r.GetSince() != nil}, {r.GetUntil().CheckValid(), r.GetUntil() != nil}} {
		if t.set && t.valid != nil {
			return bad(t.valid)
		}
	}
	if r.GetSince() != nil {
		l.since = r.GetSince().AsTime()
	}
	if r.GetUntil() != nil {
		l.until = r.GetUntil().AsTime()
	}
	l.nullSender = r.GetSender() == "<>"
	var err error
	if !l.nullSender {
		if l.sender, err = pattern("sender", r.GetSender()); err != nil {
			return bad(err)
		}
	}
	if l.recipient, err = pattern("recipient", r.GetRecipient()); err != nil {
		return bad(err)
	}
	if r.GetPageToken() != "" {
		if from, err = parseToken(r.GetPageToken()); err != nil {
			return bad(err)
		}
	}
	l.archives, err = s.archives(r.GetStage())
	return l, from, err
}

func pattern(field, s string) (*mail.Pattern, error) {
	if s == "" {
		return nil, nil
	}
	p, err := mail.ParsePattern(s)
	if err != nil {
		return nil, fmt.Errorf("%s %.128q: %w; write an address, \"*@example.com\" or \"*@*.example.com\"", field, s, err)
	}
	return &p, nil
}

// fill makes the page. It gives the position up to which everything was looked at, and whether there may be more.
func (l *listing) fill(ctx context.Context, from position) (at position, more bool, err error) {
	at = from
	days, err := l.days()
	if err != nil {
		return at, true, err
	}
	for _, day := range days {
		if !(position{day: day}).after(position{day: at.day}) && day != at.day {
			continue
		}
		for full := true; full; {
			w := newShortlist(at, l.window())
			for _, in := range l.archives {
				if err := in.gather(ctx, day, in.name, w); err != nil {
					return at, true, err
				}
			}
			found := w.sorted()
			full = len(found) == w.size
			for _, m := range found {
				if len(l.page) == l.size || l.bytes >= pageBytes {
					return at, true, nil
				}
				if err := ctx.Err(); err != nil {
					return at, true, err
				}
				if err := l.take(m); err != nil {
					return at, true, err
				}
				at = m.position
			}
		}
		at = position{day: day}
	}
	return at, false, nil
}

// window is how many messages are to be found at once: with a filter many of them are not for the page.
func (l *listing) window() int {
	if l.sender != nil || l.recipient != nil || l.nullSender || !l.since.IsZero() || !l.until.IsZero() {
		return windowSize
	}
	return l.size - len(l.page) + 1
}

// days are those of all archives within the range, in the order of positions.
func (l *listing) days() ([]string, error) {
	seen := map[string]bool{}
	for _, in := range l.archives {
		for day, err := range in.days() {
			if err != nil {
				return nil, err
			}
			seen[day] = seen[day] || l.mayHold(day)
		}
	}
	var out []string
	for day, in := range seen {
		if in {
			out = append(out, day)
		}
	}
	slices.SortFunc(out, func(a, b string) int {
		if (position{day: a}).after(position{day: b}) {
			return 1
		}
		return -1
	})
	return out, nil
}

// mayHold says that a message of the range may be in the folder of a day.
func (l *listing) mayHold(day string) bool {
	if day == undated {
		return l.since.IsZero() && l.until.IsZero()
	}
	return (l.since.IsZero() || day >= dayOf(l.since)) && (l.until.IsZero() || day <= dayOf(l.until))
}

// take puts a message into the page if it is asked for. A damaged one is told of always: whose it was is not known.
func (l *listing) take(m *archived) error {
	i := slices.IndexFunc(l.archives, func(in instance) bool { return in.name == m.inst })
	e, err := l.archives[i].load(m)
	switch {
	case errors.Is(err, ErrNotFound):
		return nil
	case err != nil && !errors.Is(err, ErrDamaged):
		return err
	case err == nil && !l.wants(e):
		return nil
	}
	p := entryProto(m.inst, e)
	for i := 0; i+1 < len(p.GetVersions()) && proto.Size(p) > messageBytes; i++ {
		p.Versions[i].Envelope = nil
	}
	l.page = append(l.page, p)
	l.bytes += proto.Size(p)
	return nil
}

func (l *listing) wants(e *Entry) bool {
	if !l.since.IsZero() && e.Received.Before(l.since) || !l.until.IsZero() && e.Received.After(l.until) {
		return false
	}
	return slices.ContainsFunc(e.Versions, func(v Version) bool {
		env := &v.Envelope
		return (!l.nullSender || env.ReversePath.IsNull()) && (l.sender == nil || l.sender.Match(env.ReversePath)) &&
			(l.recipient == nil || slices.ContainsFunc(env.Recipients, func(r mail.Recipient) bool { return l.recipient.Match(r.Address) }))
	})
}

// valid is text as protobuf takes it.
func valid(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }
