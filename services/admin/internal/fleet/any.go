package fleet

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/stagecoachmail/stagecoach/internal/service"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

// Trace is the trail, which is one: any ingress tells of it.
func (f *Fleet) Trace() adminv1.TraceServiceServer { return &trace{f: f} }

type trace struct {
	adminv1.UnimplementedTraceServiceServer
	f *Fleet
}

// FindTraces implements the service.
func (t *trace) FindTraces(ctx context.Context, r *adminv1.FindTracesRequest) (*adminv1.FindTracesResponse, error) {
	return look(ctx, t.f, ingress, adminv1.NewTraceServiceClient, adminv1.TraceServiceClient.FindTraces, r)
}

// GetTrace implements the service.
func (t *trace) GetTrace(ctx context.Context, r *adminv1.GetTraceRequest) (*adminv1.GetTraceResponse, error) {
	return look(ctx, t.f, ingress, adminv1.NewTraceServiceClient, adminv1.TraceServiceClient.GetTrace, r)
}

// GetShadowReport implements the service.
func (t *trace) GetShadowReport(ctx context.Context, r *adminv1.GetShadowReportRequest) (*adminv1.GetShadowReportResponse, error) {
	return look(ctx, t.f, ingress, adminv1.NewTraceServiceClient, adminv1.TraceServiceClient.GetShadowReport, r)
}

// Grants are kept in NATS, for all ingresses: any of them changes them.
func (f *Fleet) Grants() adminv1.GrantServiceServer { return &grants{f: f} }

type grants struct {
	adminv1.UnimplementedGrantServiceServer
	f *Fleet
}

// ListGrants implements the service.
func (g *grants) ListGrants(ctx context.Context, r *adminv1.ListGrantsRequest) (*adminv1.ListGrantsResponse, error) {
	return look(ctx, g.f, ingress, adminv1.NewGrantServiceClient, adminv1.GrantServiceClient.ListGrants, r)
}

// CreateGrant implements the service.
func (g *grants) CreateGrant(ctx context.Context, r *adminv1.CreateGrantRequest) (*adminv1.CreateGrantResponse, error) {
	return change(ctx, g.f, ingress, adminv1.NewGrantServiceClient, adminv1.GrantServiceClient.CreateGrant, r)
}

// RevokeGrant implements the service.
func (g *grants) RevokeGrant(ctx context.Context, r *adminv1.RevokeGrantRequest) (*adminv1.RevokeGrantResponse, error) {
	return change(ctx, g.f, ingress, adminv1.NewGrantServiceClient, adminv1.GrantServiceClient.RevokeGrant, r)
}

// Users are kept in a file that all ingresses share.
func (f *Fleet) Users() adminv1.UserServiceServer { return &users{f: f} }

type users struct {
	adminv1.UnimplementedUserServiceServer
	f *Fleet
}

// ListUsers implements the service.
func (u *users) ListUsers(ctx context.Context, r *adminv1.ListUsersRequest) (*adminv1.ListUsersResponse, error) {
	return look(ctx, u.f, ingress, adminv1.NewUserServiceClient, adminv1.UserServiceClient.ListUsers, r)
}

// AddUser implements the service.
func (u *users) AddUser(ctx context.Context, r *adminv1.AddUserRequest) (*adminv1.AddUserResponse, error) {
	return change(ctx, u.f, ingress, adminv1.NewUserServiceClient, adminv1.UserServiceClient.AddUser, r)
}

// SetPassword implements the service.
func (u *users) SetPassword(ctx context.Context, r *adminv1.SetPasswordRequest) (*adminv1.SetPasswordResponse, error) {
	return change(ctx, u.f, ingress, adminv1.NewUserServiceClient, adminv1.UserServiceClient.SetPassword, r)
}

// DeleteUser implements the service.
func (u *users) DeleteUser(ctx context.Context, r *adminv1.DeleteUserRequest) (*adminv1.DeleteUserResponse, error) {
	return change(ctx, u.f, ingress, adminv1.NewUserServiceClient, adminv1.UserServiceClient.DeleteUser, r)
}

// Dkim are the keys of the signers, whose folder is shared by all of them.
func (f *Fleet) Dkim() adminv1.DkimServiceServer { return &dkim{f: f} }

type dkim struct {
	adminv1.UnimplementedDkimServiceServer
	f *Fleet
}

// ListDkimKeys implements the service.
func (d *dkim) ListDkimKeys(ctx context.Context, r *adminv1.ListDkimKeysRequest) (*adminv1.ListDkimKeysResponse, error) {
	return look(ctx, d.f, signer, adminv1.NewDkimServiceClient, adminv1.DkimServiceClient.ListDkimKeys, r)
}

// CreateDkimKeys implements the service.
func (d *dkim) CreateDkimKeys(ctx context.Context, r *adminv1.CreateDkimKeysRequest) (*adminv1.CreateDkimKeysResponse, error) {
	return change(ctx, d.f, signer, adminv1.NewDkimServiceClient, adminv1.DkimServiceClient.CreateDkimKeys, r)
}

// Archive is read by any of its processes: they share the folders.
func (f *Fleet) Archive() adminv1.ArchiveServiceServer { return &archives{f: f} }

type archives struct {
	adminv1.UnimplementedArchiveServiceServer
	f *Fleet
}

// ListArchived implements the service.
func (a *archives) ListArchived(ctx context.Context, r *adminv1.ListArchivedRequest) (*adminv1.ListArchivedResponse, error) {
	return look(ctx, a.f, archive, adminv1.NewArchiveServiceClient, adminv1.ArchiveServiceClient.ListArchived, r)
}

// GetArchived implements the service.
func (a *archives) GetArchived(r *adminv1.GetArchivedRequest, stream grpc.ServerStreamingServer[adminv1.GetArchivedResponse]) error {
	to, err := a.f.alive(stream.Context(), archive)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(service.WithActor(stream.Context(), service.Actor(stream.Context())))
	defer cancel()
	from, err := adminv1.NewArchiveServiceClient(to[0].conn).GetArchived(ctx, r)
	return pass(from, err, stream.Send)
}

// Preview is made by any ingress.
func (f *Fleet) Preview() adminv1.PreviewServiceServer { return &preview{f: f} }

type preview struct {
	adminv1.UnimplementedPreviewServiceServer
	f *Fleet
}

// Preview implements the service.
func (p *preview) Preview(stream grpc.BidiStreamingServer[adminv1.PreviewRequest, adminv1.PreviewResponse]) error {
	to, err := p.f.alive(stream.Context(), ingress)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(service.WithActor(stream.Context(), service.Actor(stream.Context())))
	defer cancel()
	through, err := adminv1.NewPreviewServiceClient(to[0].conn).Preview(ctx)
	if err != nil {
		return err
	}
	up := make(chan error, 1)
	go func() { up <- upload(stream, through) }()
	err = pass[adminv1.PreviewResponse](through, nil, stream.Send)
	if err == nil {
		return nil
	}
	select {
	case broken := <-up: // what the caller did wrong says more than what came of it
		if broken != nil {
			return broken
		}
	default:
	}
	return err
}

// upload gives on what the caller sends. That the other side has ended it is told by its answer.
func upload(from grpc.BidiStreamingServer[adminv1.PreviewRequest, adminv1.PreviewResponse], to grpc.BidiStreamingClient[adminv1.PreviewRequest, adminv1.PreviewResponse]) error {
	for {
		r, err := from.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return to.CloseSend()
		case err != nil:
			if from.Context().Err() == nil && status.Code(err) != codes.Canceled {
				return err
			}
			return nil
		}
		if to.Send(r) != nil {
			return nil
		}
	}
}
