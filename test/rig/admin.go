package rig

import (
	"crypto/tls"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

// Admin is a connection to where the operator's API of an ingress is served: under `up` the socket of the whole
// installation, else the ingress itself, called as admin.
func (r *Rig) Admin(instance string) *grpc.ClientConn {
	r.T.Helper()
	target, creds := r.Addr("ingress-"+instance), credentials.TransportCredentials(nil)
	if r.Mode == Up {
		target, creds = "unix:"+r.Path("data", "admin.sock"), insecure.NewCredentials()
	} else {
		pair, err := tls.LoadX509KeyPair(r.Path("pki", "admin.pem"), r.Path("pki", "admin-key.pem"))
		if err != nil {
			r.T.Fatal(err)
		}
		creds = credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: r.CA.Pool, ServerName: "ingress"})
	}
	return r.dial(target, creds)
}

// Queue is the client of the mail that waits at an ingress.
func (r *Rig) Queue(instance string) adminv1.QueueServiceClient {
	r.T.Helper()
	return adminv1.NewQueueServiceClient(r.Admin(instance))
}

// Trace is the client of the way of messages.
func (r *Rig) Trace() adminv1.TraceServiceClient {
	r.T.Helper()
	return adminv1.NewTraceServiceClient(r.Admin(r.Instances[0]))
}

// Routes is the client of the ways out, at an ingress.
func (r *Rig) Routes(instance string) adminv1.RouteServiceClient {
	r.T.Helper()
	return adminv1.NewRouteServiceClient(r.Admin(instance))
}

// Status is the client of how an ingress is.
func (r *Rig) Status(instance string) adminv1.StatusServiceClient {
	r.T.Helper()
	return adminv1.NewStatusServiceClient(r.Admin(instance))
}
