package ingress

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unicode"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/internal/service"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/dispatch"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/spool"
)

const (
	// mostChanges is how many messages one answer tells of.
	mostChanges = 10_000
	// changesAtOnce go into the log together; each waits for its record.
	changesAtOnce = 32
	// changePage is how many messages are found at a time.
	changePage = 500
	// longestChange bounds a call without a deadline of its own.
	longestChange = time.Minute
	// reasonLimit of what a person gives as a reason, in bytes.
	reasonLimit = 500
)

// RetryMessages implements the service.
func (q *queue) RetryMessages(ctx context.Context, r *adminv1.RetryMessagesRequest) (*adminv1.RetryMessagesResponse, error) {
	if cfg, from := q.in.policy.View().Config(), r.GetFromStage(); from != "" && cfg.StageNamed(from) == nil {
		var names []string
		for name := range cfg.Stages {
			names = append(names, name)
		}
		return nil, status.Errorf(codes.InvalidArgument, "from_stage: there is no stage %.64q%s", from, config.Suggest(from, names, "stages"))
	}
	c, next, err := q.each(ctx, r.GetFilter(), r.GetPageToken(), dispatch.Order{FromStage: r.GetFromStage()}, (*dispatch.Dispatcher).Retry)
	return &adminv1.RetryMessagesResponse{Changes: c, NextPageToken: next}, err
}

// HoldMessages implements the service.
func (q *queue) HoldMessages(ctx context.Context, r *adminv1.HoldMessagesRequest) (*adminv1.HoldMessagesResponse, error) {
	c, next, err := q.each(ctx, r.GetFilter(), r.GetPageToken(), dispatch.Order{Reason: r.GetReason()}, (*dispatch.Dispatcher).Hold)
	return &adminv1.HoldMessagesResponse{Changes: c, NextPageToken: next}, err
}

// ReleaseMessages implements the service.
func (q *queue) ReleaseMessages(ctx context.Context, r *adminv1.ReleaseMessagesRequest) (*adminv1.ReleaseMessagesResponse, error) {
	c, next, err := q.each(ctx, r.GetFilter(), r.GetPageToken(), dispatch.Order{}, (*dispatch.Dispatcher).Release)
	return &adminv1.ReleaseMessagesResponse{Changes: c, NextPageToken: next}, err
}

// DeleteMessages implements the service.
func (q *queue) DeleteMessages(ctx context.Context, r *adminv1.DeleteMessagesRequest) (*adminv1.DeleteMessagesResponse, error) {
	c, next, err := q.each(ctx, r.GetFilter(), r.GetPageToken(), dispatch.Order{Reason: r.GetReason()}, (*dispatch.Dispatcher).Delete)
	return &adminv1.DeleteMessagesResponse{Changes: c, NextPageToken: next}, err
}

// BounceMessages implements the service.
func (q *queue) BounceMessages(ctx context.Context, r *adminv1.BounceMessagesRequest) (*adminv1.BounceMessagesResponse, error) {
	c, next, err := q.each(ctx, r.GetFilter(), r.GetPageToken(), dispatch.Order{Reason: r.GetReason()}, (*dispatch.Dispatcher).Bounce)
	return &adminv1.BounceMessagesResponse{Changes: c, NextPageToken: next}, err
}

// checkReason refuses what does not fit into a line of a list or of the log.
func checkReason(s string) error {
	if len(s) > reasonLimit {
		return status.Errorf(codes.InvalidArgument, "the reason has %d bytes; at most %d", len(s), reasonLimit)
	}
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return status.Errorf(codes.InvalidArgument, "the reason holds the character %U: write one line of text", r)
		}
	}
	return nil
}

type orderFunc func(*dispatch.Dispatcher, context.Context, string, dispatch.Order) (dispatch.Changed, error)

// each carries an order out on every message that the filter picks, in the order of their ids, as far as the time of
// the call and the size of the answer allow; next is not empty if that was not all.
func (q *queue) each(ctx context.Context, f *adminv1.Filter, after string, o dispatch.Order, do orderFunc) (changes []*adminv1.Change, next string, err error) {
	if proto.Size(f) == 0 {
		return nil, "", status.Error(codes.InvalidArgument, "the filter is empty, which would mean every message: name ids, or at least the rooms")
	}
	if err := checkReason(o.Reason); err != nil {
		return nil, "", err
	}
	shards, err := q.owned()
	if err != nil {
		return nil, "", err
	}
	for _, s := range shards {
		if err := s.log.Ready(); err != nil && !errors.Is(err, spool.ErrFull) {
			return nil, "", status.Errorf(codes.Unavailable, "nothing was changed, because it could not be put on record: %v; try again when NATS is back", err)
		}
	}
	p, err := pickerOf(q.in.policy.View().Config(), f)
	if err != nil {
		return nil, "", err
	}
	o.By, o.Pick = service.Actor(ctx), p.recipients
	ctx, cancel := inTime(ctx)
	defer cancel()
	for next = after; ; {
		found, more := p.find(shards, next, min(changePage, mostChanges-len(changes)))
		done, err := order(ctx, found, o, do)
		changes = append(changes, done...)
		switch {
		case err != nil && !anyChanged(changes):
			return nil, "", status.Errorf(codes.Unavailable, "nothing was changed: %v", err)
		case len(done) < len(found): // out of time, or broken off
			if len(changes) == 0 {
				return nil, "", status.Error(codes.DeadlineExceeded, "nothing was changed: the time was up before the first message")
			}
			return changes, changes[len(changes)-1].GetId(), nil
		case more == "" || len(changes) >= mostChanges:
			return changes, more, nil
		}
		next = more
	}
}

// inTime ends a little before ctx does, so that there is an answer.
func inTime(ctx context.Context) (context.Context, context.CancelFunc) {
	left := longestChange
	if end, ok := ctx.Deadline(); ok {
		left = min(left, time.Until(end))
	}
	return context.WithTimeout(ctx, left-min(left/5, 2*time.Second))
}

func anyChanged(changes []*adminv1.Change) bool {
	return slices.ContainsFunc(changes, func(c *adminv1.Change) bool { return c.GetRecipients() > 0 })
}

// order carries an order out on messages, several at once. When ctx ends, or the log is lost, no more are begun: what it
// gives is about the first ones then.
func order(ctx context.Context, found []pick, o dispatch.Order, do orderFunc) ([]*adminv1.Change, error) {
	changes := make([]*adminv1.Change, len(found))
	var claimed atomic.Int64
	var broken atomic.Pointer[error]
	var workers sync.WaitGroup
	for range min(changesAtOnce, len(found)) {
		workers.Go(func() {
			for ctx.Err() == nil && broken.Load() == nil {
				i := int(claimed.Add(1)) - 1
				if i >= len(found) {
					return
				}
				c := dispatch.Changed{Reason: dispatch.NotHere}
				if s := found[i].shard; s != nil {
					var err error
					if c, err = do(s.dispatcher, ctx, found[i].id, o); err != nil {
						broken.Store(&err)
						c.Reason = "nothing changed: " + err.Error()
					}
				}
				changes[i] = &adminv1.Change{Id: found[i].id, Recipients: uint32(max(c.Recipients, 0)), Reason: c.Reason, Absent: c.Reason == dispatch.NotHere}
			}
		})
	}
	workers.Wait()
	changes = changes[:min(int(claimed.Load()), len(found))]
	if err := broken.Load(); err != nil {
		return changes, *err
	}
	return changes, nil
}
