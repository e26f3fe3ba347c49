package admin

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

const (
	// auditScan is how many records one page looks at, at most.
	auditScan = 20000
	// auditAtOnce is how many are read at a time.
	auditAtOnce = 64
	// auditOpen is how many calls that were under way at the end of a page the next one is told of.
	auditOpen = 200
)

// auditPlace is where a page begins: at a sequence, downwards. The outcomes of the calls in ended were on former pages.
type auditPlace struct {
	from  uint64
	ended []uint64
}

func (p auditPlace) String() string {
	parts := []string{strconv.FormatUint(p.from, 10)}
	for _, seq := range p.ended[max(0, len(p.ended)-auditOpen):] {
		parts = append(parts, strconv.FormatUint(seq, 10))
	}
	return strings.Join(parts, ".")
}

func parsePlace(token string) (p auditPlace, err error) {
	for i, part := range strings.Split(token, ".") {
		seq, err := strconv.ParseUint(part, 10, 64)
		if err != nil || i > auditOpen {
			return p, fmt.Errorf("%.40q is no page_token of this list", token)
		}
		if i == 0 {
			p.from = seq
		} else {
			p.ended = append(p.ended, seq)
		}
	}
	return p, nil
}

// auditFilter picks entries.
type auditFilter struct {
	since, until time.Time // zero: not bounded
	by, method   string    // empty: all
}

func (f auditFilter) takes(e *adminv1.AuditEntry) bool {
	at := e.GetAt().AsTime()
	return (f.since.IsZero() || !at.Before(f.since)) && (f.until.IsZero() || at.Before(f.until)) &&
		(f.by == "" || e.GetBy() == f.by) &&
		(f.method == "" || strings.EqualFold(e.GetMethod(), f.method) || strings.EqualFold(path.Base(e.GetMethod()), f.method))
}

// list gives a page of entries, the newest first: each call once, by its outcome if it has one. next is empty at the end.
// It begins at p; from its zero value at the newest.
func (a *audit) list(ctx context.Context, f auditFilter, p auditPlace, size int) (entries []*adminv1.AuditEntry, next string, err error) {
	_, s, err := a.open(ctx)
	if err != nil {
		return nil, "", err
	}
	info, err := s.Info(ctx)
	if err != nil {
		a.forget()
		return nil, "", err
	}
	first := max(info.State.FirstSeq, 1)
	if p.from == 0 || p.from > info.State.LastSeq {
		p.from = info.State.LastSeq
	}
	for seen := 0; p.from >= first && seen < auditScan; {
		block, err := a.block(ctx, s, p.from, first)
		if err != nil {
			return nil, "", err
		}
		for _, e := range block {
			if len(entries) == size {
				return entries, p.String(), nil
			}
			seen++
			p.from--
			if e == nil {
				continue
			}
			if !f.since.IsZero() && e.kept.Before(f.since) {
				return entries, "", nil
			}
			if e.begun > 0 {
				p.ended = append(p.ended, e.begun)
			} else if i := slices.Index(p.ended, e.entry.GetSequence()); i >= 0 {
				p.ended = slices.Delete(p.ended, i, i+1)
				continue
			}
			if f.takes(e.entry) {
				entries = append(entries, e.entry)
			}
		}
	}
	if p.from < first {
		return entries, "", nil
	}
	return entries, p.String(), nil
}

// block reads the records from a sequence downwards, some at once: each is a question to the server.
func (a *audit) block(ctx context.Context, s jetstream.Stream, from, first uint64) ([]*auditEntry, error) {
	n := int(min(from-first+1, auditAtOnce))
	entries, errs := make([]*auditEntry, n), make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { entries[i], errs[i] = a.get(ctx, s, from-uint64(i)) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return entries, nil
}
