package rig

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

// control is the part of the file about NATS and admin.
func (r *Rig) control() string {
	text := "nats: {servers: [\"nats://{{nats}}\"], monitor: \"http://{{monitor}}\"}\n"
	if r.SecureNATS {
		text = "nats: {servers: [\"tls://{{nats}}\"]}\n"
	}
	if r.People != "" {
		text += "admin: {address: \"{{admin}}\", people: [" + r.People + "]}\n"
	}
	return text
}

// natsConfig writes the configuration of a NATS server with TLS and the permissions of deploy/compose.
func (r *Rig) natsConfig() string {
	r.T.Helper()
	permissions, err := os.ReadFile(filepath.Join("..", "..", "deploy", "compose", "nats", "permissions.conf"))
	if err != nil {
		r.T.Fatal(err)
	}
	r.CA.Issue(r.T, r.Path("pki"), "nats", "nats")
	r.WriteFile("permissions.conf", string(permissions))
	return r.WriteFile("nats.conf", fmt.Sprintf("tls {\n  cert_file: %q\n  key_file: %q\n  ca_file: %q\n  verify_and_map: true\n}\ninclude ./permissions.conf\n",
		r.Path("pki", "nats.pem"), r.Path("pki", "nats-key.pem"), r.Path("pki", "ca.pem")))
}

// Operator is a connection to the operator's API of the whole installation, by the socket in the data folder.
func (r *Rig) Operator() *grpc.ClientConn {
	r.T.Helper()
	return r.dial("unix:"+r.Path("data", "admin.sock"), insecure.NewCredentials())
}

// waitRecord waits until admin can put changes on record: it starts without NATS, and reaches it when it can.
func (r *Rig) waitRecord() {
	r.T.Helper()
	queue := adminv1.NewQueueServiceClient(r.Operator())
	r.Eventually("admin keeps its record", 30*time.Second, func() bool {
		_, err := queue.RetryMessages(r.T.Context(), &adminv1.RetryMessagesRequest{Filter: &adminv1.Filter{Ids: []string{"nothing"}}})
		return status.Code(err) != codes.Unavailable
	})
}

// dial makes a connection that ends with the installation.
func (r *Rig) dial(target string, creds credentials.TransportCredentials) *grpc.ClientConn {
	r.T.Helper()
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(creds))
	if err != nil {
		r.T.Fatal(err)
	}
	r.mu.Lock()
	r.conns = append(r.conns, conn)
	r.mu.Unlock()
	return conn
}
