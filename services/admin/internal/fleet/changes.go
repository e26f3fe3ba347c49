package fleet

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

// changed is an answer to a request that changes messages.
type changed interface {
	GetChanges() []*adminv1.Change
	GetNextPageToken() string
}

// RetryMessages implements the service.
func (q *queue) RetryMessages(ctx context.Context, r *adminv1.RetryMessagesRequest) (*adminv1.RetryMessagesResponse, error) {
	c, next, err := everywhere(ctx, q.f, r.GetFilter(), r.GetPageToken(), adminv1.QueueServiceClient.RetryMessages, func(token string) *adminv1.RetryMessagesRequest {
		return &adminv1.RetryMessagesRequest{Filter: r.GetFilter(), FromStage: r.GetFromStage(), PageToken: token}
	})
	return &adminv1.RetryMessagesResponse{Changes: c, NextPageToken: next}, err
}

// HoldMessages implements the service.
func (q *queue) HoldMessages(ctx context.Context, r *adminv1.HoldMessagesRequest) (*adminv1.HoldMessagesResponse, error) {
	c, next, err := everywhere(ctx, q.f, r.GetFilter(), r.GetPageToken(), adminv1.QueueServiceClient.HoldMessages, func(token string) *adminv1.HoldMessagesRequest {
		return &adminv1.HoldMessagesRequest{Filter: r.GetFilter(), Reason: r.GetReason(), PageToken: token}
	})
	return &adminv1.HoldMessagesResponse{Changes: c, NextPageToken: next}, err
}

// ReleaseMessages implements the service.
func (q *queue) ReleaseMessages(ctx context.Context, r *adminv1.ReleaseMessagesRequest) (*adminv1.ReleaseMessagesResponse, error) {
	c, next, err := everywhere(ctx, q.f, r.GetFilter(), r.GetPageToken(), adminv1.QueueServiceClient.ReleaseMessages, func(token string) *adminv1.ReleaseMessagesRequest {
		return &adminv1.ReleaseMessagesRequest{Filter: r.GetFilter(), PageToken: token}
	})
	return &adminv1.ReleaseMessagesResponse{Changes: c, NextPageToken: next}, err
}

// BounceMessages implements the service.
func (q *queue) BounceMessages(ctx context.Context, r *adminv1.BounceMessagesRequest) (*adminv1.BounceMessagesResponse, error) {
	c, next, err := everywhere(ctx, q.f, r.GetFilter(), r.GetPageToken(), adminv1.QueueServiceClient.BounceMessages, func(token string) *adminv1.BounceMessagesRequest {
		return &adminv1.BounceMessagesRequest{Filter: r.GetFilter(), Reason: r.GetReason(), PageToken: token}
	})
	return &adminv1.BounceMessagesResponse{Changes: c, NextPageToken: next}, err
}

// DeleteMessages implements the service.
func (q *queue) DeleteMessages(ctx context.Context, r *adminv1.DeleteMessagesRequest) (*adminv1.DeleteMessagesResponse, error) {
	c, next, err := everywhere(ctx, q.f, r.GetFilter(), r.GetPageToken(), adminv1.QueueServiceClient.DeleteMessages, func(token string) *adminv1.DeleteMessagesRequest {
		return &adminv1.DeleteMessagesRequest{Filter: r.GetFilter(), Reason: r.GetReason(), PageToken: token}
	})
	return &adminv1.DeleteMessagesResponse{Changes: c, NextPageToken: next}, err
}

// everywhere has each ingress change what it has of the messages. What was done by some stands in the answer, whatever
// the others say; the token has one for each ingress that is not done yet.
func everywhere[Q any, A changed](ctx context.Context, f *Fleet, filter *adminv1.Filter, token string,
	method func(adminv1.QueueServiceClient, context.Context, Q, ...grpc.CallOption) (A, error), request func(token string) Q) ([]*adminv1.Change, string, error) {
	to := f.find(ctx, ingress)
	tokens, err := openToken(token)
	if err != nil {
		return nil, "", err
	}
	if tokens != nil {
		to = slices.DeleteFunc(to, func(p *process) bool { return tokens[p.name()] == "" })
		if len(to) == 0 {
			return nil, "", status.Error(codes.Unavailable, "the ingresses that were not done yet are gone: begin again")
		}
	}
	answers := all(ctx, to, changeWithin, func(ctx context.Context, p *process) (A, error) {
		return method(adminv1.NewQueueServiceClient(p.conn), ctx, request(tokens[p.name()]))
	})
	came, err := good(ctx, ingress, answers)
	if err != nil {
		return nil, "", err
	}
	next := map[string]string{}
	var lists [][]*adminv1.Change
	for _, a := range came {
		lists = append(lists, a.value.GetChanges())
		if t := a.value.GetNextPageToken(); t != "" {
			next[a.from.name()] = t
		}
	}
	changes := together(lists)
	for _, a := range answers {
		if a.err != nil && len(filter.GetIds()) > 0 {
			unknown(changes, a.from, a.err)
		}
	}
	return changes, closeToken(next), nil
}

// together makes one list of several, in the order of ids. Of a message that one ingress has, those say nothing that do
// not have it.
func together(lists [][]*adminv1.Change) []*adminv1.Change {
	out := slices.Concat(lists...)
	slices.SortStableFunc(out, func(a, b *adminv1.Change) int {
		if c := strings.Compare(a.GetId(), b.GetId()); c != 0 {
			return c
		}
		return rank(a) - rank(b)
	})
	return slices.CompactFunc(out, func(a, b *adminv1.Change) bool { return a.GetId() == b.GetId() })
}

func rank(c *adminv1.Change) int {
	switch {
	case c.GetRecipients() > 0:
		return 0
	case !c.GetAbsent():
		return 1
	}
	return 2
}

// unknown says of messages that are nowhere that one ingress could not be asked.
func unknown(changes []*adminv1.Change, p *process, err error) {
	for _, c := range changes {
		if c.GetAbsent() {
			c.Reason = "it does not wait where an answer came from; " + p.name() + " gave none: " + why(err)
			c.Absent = false
		}
	}
}

// openToken reads a token of several; nil: it is the first page.
func openToken(token string) (map[string]string, error) {
	if token == "" {
		return nil, nil
	}
	var tokens map[string]string
	data, err := base64.RawURLEncoding.DecodeString(token)
	if err == nil {
		err = json.Unmarshal(data, &tokens)
	}
	if err != nil || len(tokens) == 0 {
		return nil, status.Error(codes.InvalidArgument, "page_token is not one that an answer had")
	}
	return tokens, nil
}

func closeToken(tokens map[string]string) string {
	if len(tokens) == 0 {
		return ""
	}
	data, err := json.Marshal(tokens)
	if err != nil {
		return "" // strings are always to be written
	}
	return base64.RawURLEncoding.EncodeToString(data)
}
