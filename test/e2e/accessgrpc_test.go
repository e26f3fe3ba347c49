package e2e

import (
	"context"
	"crypto/tls"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	_ "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/emptypb"

	_ "github.com/stagecoachmail/stagecoach/proto/stagecoach/relay/v1"
	"github.com/stagecoachmail/stagecoach/test/rig"
)

const (
	// answers is how long it is waited for an answer.
	answers = 20 * time.Second
	// quiet is how long a stream that was let in may say nothing: what it tells of comes by and by.
	quiet = 200 * time.Millisecond
)

// method is one method of a contract.
type method struct {
	name    string // /service/method
	streams grpc.StreamDesc
}

// calls are the methods of all contracts between services and with operators, by the words of the table.
func calls(t *testing.T) map[string][]method {
	t.Helper()
	all := map[string][]method{"reflection": {{"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", grpc.StreamDesc{ServerStreams: true, ClientStreams: true}}}}
	protoregistry.GlobalFiles.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			for j := range s.Methods().Len() {
				m := s.Methods().Get(j)
				word := ""
				switch pkg := f.Package(); {
				case pkg == "stagecoach.admin.v1":
					word = strings.TrimSuffix(string(s.Name()), "Service")
				case pkg == "stagecoach.relay.v1", pkg == "stagecoach.stage.v1":
					word = string(m.Name())
				case pkg == "grpc.health.v1" && m.Name() != "List": // which our servers do not have
					word = "health"
				default:
					continue
				}
				all[word] = append(all[word], method{"/" + string(s.FullName()) + "/" + string(m.Name()), grpc.StreamDesc{ServerStreams: m.IsStreamingServer(), ClientStreams: m.IsStreamingClient()}})
			}
		}
		return true
	})
	return all
}

// call makes a call with an empty request, which changes nothing, and gives the answer; of a stream that says nothing for
// so long it is that it goes on.
func call(ctx context.Context, conn *grpc.ClientConn, m method, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	s, err := conn.NewStream(ctx, &m.streams, m.name)
	if err != nil {
		return err
	}
	_ = s.SendMsg(&emptypb.Empty{}) // the answer says why
	_ = s.CloseSend()
	return s.RecvMsg(&emptypb.Empty{})
}

// refused says whether an answer means that the caller may not: not let in, not allowed, or not offered here.
func refused(err error) bool {
	switch status.Code(err) {
	case codes.PermissionDenied, codes.Unauthenticated, codes.Unavailable, codes.Unimplemented:
		return true
	}
	return false // what is wrong with an empty request is said to those who may call
}

// certificates are what each identity shows.
func certificates(r *rig.Rig) map[string][]tls.Certificate {
	pki := r.Path("pki")
	all := map[string][]tls.Certificate{"nobody": nil}
	for _, who := range identities[:7] {
		pair, err := tls.LoadX509KeyPair(r.Path("pki", who+".pem"), r.Path("pki", who+"-key.pem"))
		if err != nil {
			r.T.Fatal(err)
		}
		all[who] = []tls.Certificate{pair}
	}
	all["person"] = []tls.Certificate{r.CA.IssuePerson(r.T, pki, "alice")}
	return all
}

// strangerCertificate is a certificate of another CA that says of itself what is let in at a place.
func strangerCertificate(r *rig.Rig, at string) tls.Certificate {
	other, dir := rig.NewCA(r.T), r.T.TempDir()
	switch at {
	case "admin":
		return other.IssuePerson(r.T, dir, "alice")
	case "NATS":
		return other.Issue(r.T, dir, "ingress", "ingress")
	}
	return other.Issue(r.T, dir, "admin", "admin")
}

// Each service lets everybody do what its own work needs, and nothing else: every identity calls every method of every
// contract at every service.
func TestAccess(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Services)
	r.SecureNATS, r.People = true, "{name: alice, role: admin}"
	sink := prepare(t, r)
	r.Start()
	// Mail and the record go through with these permissions.
	sink.Wait(r.MustSend("alice@example.com", []string{"bob@example.net"}, threeParts), 20*time.Second)
	services := map[string]string{"ingress": "ingress-one", "admin": "admin", "egress": "egress", "antivirus": "antivirus", "disclaimer": "disclaimer", "archive": "archive", "signer": "signer"}
	words, known := calls(t), certificates(r)
	tried, began := 0, time.Now()
	for at, port := range services {
		known["other CA"] = []tls.Certificate{strangerCertificate(r, at)}
		for _, who := range identities {
			conn, err := grpc.NewClient(r.Addr(port), grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{Certificates: known[who], RootCAs: r.CA.Pool, ServerName: at})))
			if err != nil {
				t.Fatal(err)
			}
			for word, methods := range words {
				want := mayWho(t, at, word, who)
				for _, m := range methods {
					tried++
					within := answers
					if want && word == "Event" {
						within = quiet
					}
					if err := call(t.Context(), conn, m, within); refused(err) == want {
						t.Errorf("%s calls %s at %s: %v, which should be allowed: %v", who, m.name, at, err, want)
					}
				}
			}
			_ = conn.Close()
		}
	}
	for _, p := range access {
		for _, word := range strings.Split(p.what, ", ") {
			if p.at != "NATS" && words[word] == nil {
				t.Errorf("the table has %q, which is in no contract", word)
			}
		}
	}
	t.Logf("%d calls in %v", tried, time.Since(began).Round(time.Millisecond))
}
