package service

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	stagev1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/stage/v1"
)

// A stage lets other stages call it, but its operator's API is for admin alone, in calls of both kinds.
func TestOnly(t *testing.T) {
	dir := t.TempDir()
	ca := newAuthority(t)
	for i, typ := range []string{"archive", "signer", "ingress", "admin"} {
		ca.issue(t, dir, typ, int64(i+2), nil, typ)
	}
	serve := func(pki *PKI) *Server {
		s, err := Listen("127.0.0.1:0", pki, []string{"archive", "signer", "ingress", "admin"}, quiet, Only(pki, AdminServices, "admin")...)
		if err != nil {
			t.Fatal(err)
		}
		stagev1.RegisterStageServiceServer(s.Server, waiting{f: func(context.Context) error { return nil }})
		adminv1.RegisterArchiveServiceServer(s.Server, adminv1.UnimplementedArchiveServiceServer{})
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- s.Run(ctx, time.Second) }()
		t.Cleanup(func() {
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
		return s
	}
	check := func(who string, pki *PKI, s *Server, want codes.Code) {
		t.Helper()
		c := connections(t, pki)
		if err := describe(t, c, s.Addr().String(), "archive"); err != nil {
			t.Errorf("%s may not call the stage: %v", who, err)
		}
		conn, err := c.Conn(s.Addr().String(), "archive")
		if err != nil {
			t.Fatal(err)
		}
		client := adminv1.NewArchiveServiceClient(conn)
		if _, err := client.ListArchived(t.Context(), &adminv1.ListArchivedRequest{}); status.Code(err) != want {
			t.Errorf("%s: %v, want %v", who, err, want)
		}
		stream, err := client.GetArchived(t.Context(), &adminv1.GetArchivedRequest{})
		if err == nil {
			_, err = stream.Recv()
		}
		if status.Code(err) != want {
			t.Errorf("%s, a stream: %v, want %v", who, err, want)
		}
	}
	s := serve(open(t, dir, "archive"))
	for _, who := range []string{"signer", "ingress", "archive"} {
		check(who, open(t, dir, who), s, codes.PermissionDenied)
	}
	check("admin", open(t, dir, "admin"), s, codes.Unimplemented)
	check("without certificates", nil, serve(nil), codes.Unimplemented)
}
