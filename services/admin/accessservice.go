package admin

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

const (
	pageSize    = 100
	maxPageSize = 1000
)

// accessService is who may what, and the record.
type accessService struct {
	adminv1.UnimplementedAccessServiceServer
	access *access
	audit  *audit
}

// GetAccess implements adminv1.AccessServiceServer.
func (s *accessService) GetAccess(ctx context.Context, _ *adminv1.GetAccessRequest) (*adminv1.GetAccessResponse, error) {
	c, ok := callerOf(ctx)
	if !ok {
		return nil, status.Error(codes.Unauthenticated, "nobody is known at the other end of this connection")
	}
	resp := &adminv1.GetAccessResponse{Name: c.name, Role: c.role, By: c.by}
	if !c.ends.IsZero() {
		resp.Ends = timestamppb.New(c.ends)
	}
	return resp, nil
}

// ListAudit implements adminv1.AccessServiceServer.
func (s *accessService) ListAudit(ctx context.Context, r *adminv1.ListAuditRequest) (*adminv1.ListAuditResponse, error) {
	size := int(r.GetPageSize())
	switch {
	case size == 0:
		size = pageSize
	case size > maxPageSize:
		return nil, status.Errorf(codes.InvalidArgument, "page_size is %d, and %d at most", size, maxPageSize)
	}
	var place auditPlace
	if r.GetPageToken() != "" {
		var err error
		if place, err = parsePlace(r.GetPageToken()); err != nil {
			return nil, status.Error(codes.InvalidArgument, err.Error())
		}
	}
	f := auditFilter{since: timeOf(r.GetSince()), until: timeOf(r.GetUntil()), by: r.GetBy(), method: r.GetMethod()}
	entries, next, err := s.audit.list(ctx, f, place, size)
	switch {
	case ctx.Err() != nil:
		return nil, status.FromContextError(ctx.Err()).Err()
	case err != nil:
		return nil, status.Errorf(codes.Unavailable, "the record cannot be read: %v", err)
	}
	return &adminv1.ListAuditResponse{Entries: entries, NextPageToken: next}, nil
}

func timeOf(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}
