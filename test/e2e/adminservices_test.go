package e2e

import (
	"crypto/tls"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	"github.com/stagecoachmail/stagecoach/test/rig"
)

// callAs is a connection to a service with the certificate of another.
func callAs(r *rig.Rig, who, service string) *grpc.ClientConn {
	r.T.Helper()
	pair, err := tls.LoadX509KeyPair(r.Path("pki", who+".pem"), r.Path("pki", who+"-key.pem"))
	if err != nil {
		r.T.Fatal(err)
	}
	creds := credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: r.CA.Pool, ServerName: service})
	conn, err := grpc.NewClient(r.Addr(service), grpc.WithTransportCredentials(creds))
	if err != nil {
		r.T.Fatal(err)
	}
	r.T.Cleanup(func() { _ = conn.Close() })
	return conn
}

// Stages that run as processes of their own serve the operator's API for what they own, to admin alone; under `up` the
// socket has the same.
func TestAdminServices(t *testing.T) {
	for _, mode := range []rig.Mode{rig.Up, rig.Services} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			r, sink := install(t, mode)
			r.Start()
			id := r.MustSend("alice@example.com", []string{"bob@example.net"}, threeParts)
			sink.Wait(id, 20*time.Second)
			archives, keys := r.Admin, r.Admin
			if mode == rig.Services {
				archives = func(string) *grpc.ClientConn { return callAs(r, "admin", "archive") }
				keys = func(string) *grpc.ClientConn { return callAs(r, "admin", "signer") }
				for _, who := range []string{"signer", "ingress", "archive"} {
					c := callAs(r, who, "archive")
					if _, err := adminv1.NewArchiveServiceClient(c).ListArchived(t.Context(), &adminv1.ListArchivedRequest{}); status.Code(err) != codes.PermissionDenied && status.Code(err) != codes.Unavailable {
						t.Errorf("%s lists the archive: %v", who, err)
					}
					c = callAs(r, who, "signer")
					if _, err := adminv1.NewDkimServiceClient(c).CreateDkimKeys(t.Context(), &adminv1.CreateDkimKeysRequest{Domain: "evil.example"}); status.Code(err) != codes.PermissionDenied && status.Code(err) != codes.Unavailable {
						t.Errorf("%s makes a key: %v", who, err)
					}
				}
			}
			list, err := adminv1.NewArchiveServiceClient(archives("one")).ListArchived(t.Context(), &adminv1.ListArchivedRequest{Recipient: "bob@example.net"})
			if err != nil || len(list.GetMessages()) != 1 || list.GetMessages()[0].GetId() != id {
				t.Errorf("archive: %v, %v", list, err)
			}
			dkim := adminv1.NewDkimServiceClient(keys("one"))
			made, err := dkim.CreateDkimKeys(t.Context(), &adminv1.CreateDkimKeysRequest{Domain: "example.org"})
			if err != nil || len(made.GetKeys()) != 2 || !made.GetKeys()[0].GetActive() {
				t.Errorf("made: %v, %v", made, err)
			}
			all, err := dkim.ListDkimKeys(t.Context(), &adminv1.ListDkimKeysRequest{})
			if err != nil || len(all.GetKeys()) != 4 {
				t.Errorf("keys: %v, %v", all, err)
			}
		})
	}
}
