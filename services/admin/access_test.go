package admin

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/internal/service"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

// contract are all methods of the API, by their full names.
func contract() map[string]protoreflect.MethodDescriptor {
	all := map[string]protoreflect.MethodDescriptor{}
	protoregistry.GlobalFiles.RangeFilesByPackage(service.AdminServices, func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			for j := range s.Methods().Len() {
				m := s.Methods().Get(j)
				all["/"+string(s.FullName())+"/"+string(m.Name())] = m
			}
		}
		return true
	})
	return all
}

// Every method of the contract has a rule, and every rule a method; those that are not on record have names that say so.
func TestEveryMethodHasARule(t *testing.T) {
	t.Parallel()
	all := contract()
	if len(all) < 40 {
		t.Fatalf("only %d methods were found", len(all))
	}
	for name := range all {
		r, known := ruleOf(name)
		if !known || r.least == adminv1.Role_ROLE_UNSPECIFIED {
			t.Errorf("%s has no rule", name)
		}
		short := name[strings.LastIndexByte(name, '/')+1:]
		looking := false
		for _, prefix := range []string{"Get", "List", "Find", "Tail", "Preview", "Validate"} {
			looking = looking || strings.HasPrefix(short, prefix)
		}
		if short == "GetContent" || short == "GetArchived" {
			looking = false
		}
		if recorded(name) == looking {
			t.Errorf("%s: on record is %v", name, recorded(name))
		}
		if !looking && r.least < operator {
			t.Errorf("%s may be called by a %s", name, roleName(r.least))
		}
	}
	for name := range methods {
		if all[name] == nil {
			t.Errorf("the rule of %s is for no method", name)
		}
	}
	if recorded("/grpc.health.v1.Health/Check") || !recorded("/stagecoach.admin.v1.QueueService/Unheard") {
		t.Error("what is not in the contract")
	}
}

// invoke calls any method with an empty request, and gives the code.
func invoke(ctx context.Context, conn *grpc.ClientConn, name string, m protoreflect.MethodDescriptor) codes.Code {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	in, out := dynamicpb.NewMessage(m.Input()), dynamicpb.NewMessage(m.Output())
	if !m.IsStreamingClient() && !m.IsStreamingServer() {
		return status.Code(conn.Invoke(ctx, name, in, out))
	}
	if strings.HasSuffix(name, "/TailEvents") { // it has no end
		ctx, cancel = context.WithTimeout(ctx, 200*time.Millisecond)
		defer cancel()
	}
	s, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: m.IsStreamingClient()}, name)
	if err == nil {
		_ = s.SendMsg(in) // its error comes with the answer
		_ = s.CloseSend()
		err = s.RecvMsg(out)
	}
	return status.Code(err)
}

// Each role at each method: it is let in, or is told that it may not.
func TestRoles(t *testing.T) {
	t.Parallel()
	d := open(t)
	all := contract()
	conns := map[string]*grpc.ClientConn{"": d.dial(t, ""), "victor": d.dial(t, "t-victor"), "olga": d.dial(t, "t-olga"), "alice": d.dial(t, aliceToken),
		"by certificate": d.dial(t, "", d.ca.person(t, "olga")), "socket": local(t, d.socket)}
	has := map[string]adminv1.Role{"victor": viewer, "olga": operator, "alice": admins, "by certificate": operator, "socket": admins}
	for name, m := range all {
		rule, _ := ruleOf(name)
		for who, conn := range conns {
			got := invoke(t.Context(), conn, name, m)
			switch {
			case who == "":
				if got != codes.Unauthenticated {
					t.Errorf("nobody at %s: %v", name, got)
				}
			case has[who] < rule.least:
				if got != codes.PermissionDenied {
					t.Errorf("%s at %s: %v", who, name, got)
				}
			case got == codes.PermissionDenied || got == codes.Unauthenticated:
				t.Errorf("%s at %s: %v", who, name, got)
			}
		}
	}
	// The table itself, where it would hurt most.
	for name, want := range map[string]adminv1.Role{"QueueService/GetContent": operator, "ArchiveService/GetArchived": operator, "QueueService/DeleteMessages": operator,
		"ConfigService/ApplyConfig": admins, "UserService/AddUser": admins, "AccessService/ListAudit": admins, "DkimService/CreateDkimKeys": admins, "QueueService/ListMessages": viewer} {
		if got := methods["/"+service.AdminServices+"."+name].least; got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// Who is not known learns nothing: no contract, no health, not what there is.
func TestUnknownLearnNothing(t *testing.T) {
	t.Parallel()
	d := open(t)
	for who, conn := range map[string]*grpc.ClientConn{"nobody": d.dial(t, ""), "a wrong token": d.dial(t, "guess")} {
		if _, err := healthv1.NewHealthClient(conn).Check(t.Context(), &healthv1.HealthCheckRequest{}); status.Code(err) != codes.Unauthenticated {
			t.Errorf("%s, health: %v", who, err)
		}
		if err := reflect(t, conn); status.Code(err) != codes.Unauthenticated {
			t.Errorf("%s, reflection: %v", who, err)
		}
		if err := conn.Invoke(t.Context(), "/no.such.Service/Method", &adminv1.GetAccessRequest{}, &adminv1.GetAccessResponse{}); status.Code(err) != codes.Unauthenticated {
			t.Errorf("%s, what is not there: %v", who, err)
		}
	}
	victor := d.dial(t, "t-victor")
	if err := reflect(t, victor); err != nil {
		t.Errorf("a viewer, reflection: %v", err)
	}
	if r, err := healthv1.NewHealthClient(victor).Check(t.Context(), &healthv1.HealthCheckRequest{}); err != nil || r.GetStatus() != healthv1.HealthCheckResponse_SERVING {
		t.Errorf("a viewer, health: %v, %v", r, err)
	}
	if err := victor.Invoke(t.Context(), "/stagecoach.admin.v1.QueueService/Unheard", &adminv1.GetAccessRequest{}, &adminv1.GetAccessResponse{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("a viewer, what is not there: %v", err)
	}
}

func reflect(t *testing.T, conn *grpc.ClientConn) error {
	t.Helper()
	s, err := reflectionv1.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
	if err != nil {
		return err
	}
	_ = s.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}}) // its error comes with the answer
	_, err = s.Recv()
	return err
}

// Whose certificate is taken, and for what.
func TestCertificates(t *testing.T) {
	t.Parallel()
	d := open(t)
	other := newCA(t)
	person := func(name string, change func(*x509.Certificate)) tls.Certificate {
		return d.ca.issue(t, func(c *x509.Certificate) {
			c.URIs = []*url.URL{service.PersonURI(name)}
			change(c)
		})
	}
	for _, c := range []struct {
		what         string
		cert         tls.Certificate
		call, health codes.Code
	}{
		{"a person", d.ca.person(t, "alice"), codes.OK, codes.OK},
		{"of another CA", other.person(t, "alice"), codes.Unauthenticated, codes.Unauthenticated},
		{"expired", person("alice", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), codes.Unauthenticated, codes.Unauthenticated},
		{"not valid yet", person("alice", func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }), codes.Unauthenticated, codes.Unauthenticated},
		{"for servers alone", person("alice", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), codes.Unauthenticated, codes.Unauthenticated},
		{"a person not in the file", d.ca.person(t, "mallory"), codes.PermissionDenied, codes.PermissionDenied},
		{"another case of the name", d.ca.person(t, "Alice"), codes.PermissionDenied, codes.PermissionDenied},
		{"a service", d.ca.service(t, "ingress"), codes.PermissionDenied, codes.PermissionDenied},
		{"a service with a person's name", d.ca.service(t, "alice"), codes.PermissionDenied, codes.PermissionDenied},
		{"the service admin", d.ca.service(t, "admin"), codes.PermissionDenied, codes.OK},
		{"a person and a service", person("alice", func(c *x509.Certificate) { c.DNSNames = []string{"admin"} }), codes.PermissionDenied, codes.PermissionDenied},
		{"two persons", person("alice", func(c *x509.Certificate) { c.URIs = append(c.URIs, service.PersonURI("olga")) }), codes.PermissionDenied, codes.PermissionDenied},
		{"a common name alone", d.ca.issue(t, func(c *x509.Certificate) { c.Subject.CommonName = "alice" }), codes.PermissionDenied, codes.PermissionDenied},
	} {
		conn := d.dial(t, "", c.cert)
		r, err := adminv1.NewAccessServiceClient(conn).GetAccess(t.Context(), &adminv1.GetAccessRequest{})
		if status.Code(err) != c.call {
			t.Errorf("%s: %v", c.what, err)
		}
		if err == nil && (r.GetName() != "alice" || r.GetRole() != admins || r.GetBy() != "certificate" || !r.GetEnds().AsTime().Equal(c.cert.Leaf.NotAfter)) {
			t.Errorf("%s: %v", c.what, r)
		}
		if _, err := healthv1.NewHealthClient(conn).Check(t.Context(), &healthv1.HealthCheckRequest{}); status.Code(err) != c.health {
			t.Errorf("%s, health: %v", c.what, err)
		}
		if err := reflect(t, conn); status.Code(err) != c.call {
			t.Errorf("%s, reflection: %v", c.what, err)
		}
	}
}

// A person's certificate opens no service of the installation.
func TestAPersonIsNoService(t *testing.T) {
	t.Parallel()
	d := open(t)
	d.ca.write(t, d.dir, "archive")
	pki, err := service.OpenPKI(d.dir, "archive")
	if err != nil {
		t.Fatal(err)
	}
	s, err := service.Listen("127.0.0.1:0", pki, []string{"ingress", "admin", "alice"}, quietLog)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, time.Second) }()
	defer func() { stop(); <-done }()
	call := func(cert tls.Certificate) error {
		conf := d.tls(cert)
		conf.ServerName, conf.NextProtos = "archive", []string{"h2"}
		c, err := tls.Dial("tcp", s.Addr().String(), conf)
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		_, err = c.Read(make([]byte, 1)) // TLS 1.3: a refusal comes with the first answer
		return err
	}
	if err := call(d.ca.service(t, "ingress")); err != nil {
		t.Fatalf("a service: %v", err)
	}
	if err := call(d.ca.person(t, "alice")); err == nil {
		t.Error("a person was taken for a service")
	}
}

// People come, go and change their roles while connections stay open.
func TestPeopleChange(t *testing.T) {
	t.Parallel()
	d := open(t)
	byToken, byCert := d.dial(t, "t-olga"), d.dial(t, "", d.ca.person(t, "olga"))
	role := func(conn *grpc.ClientConn) (adminv1.Role, codes.Code) {
		r, err := adminv1.NewAccessServiceClient(conn).GetAccess(t.Context(), &adminv1.GetAccessRequest{})
		return r.GetRole(), status.Code(err)
	}
	both := func(what string, want adminv1.Role, token, cert codes.Code) {
		t.Helper()
		if r, c := role(byToken); c != token || c == codes.OK && r != want {
			t.Errorf("%s, by token: %v, %v", what, r, c)
		}
		if r, c := role(byCert); c != cert || c == codes.OK && r != want {
			t.Errorf("%s, by certificate: %v, %v", what, r, c)
		}
	}
	both("before", operator, codes.OK, codes.OK)
	tail, err := adminv1.NewEventServiceClient(byToken).TailEvents(t.Context(), &adminv1.TailEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	d.owner.tail <- &adminv1.TailEventsResponse{Id: "one"}
	if _, err := tail.Recv(); err != nil {
		t.Fatal(err)
	}
	d.change(t, func(c *config.Config) {
		c.Admin.People = []config.Person{{Name: "olga", Role: config.RoleViewer, TokenSHA256: hashOf("t-olga")}}
	})
	both("as a viewer", viewer, codes.OK, codes.OK)
	d.change(t, func(c *config.Config) {
		c.Admin.People = []config.Person{{Name: "olga", Role: config.RoleAdmin, TokenSHA256: hashOf("another")}}
	})
	both("with another token", admins, codes.Unauthenticated, codes.OK)
	d.owner.tail <- &adminv1.TailEventsResponse{Id: "two"}
	if r, err := tail.Recv(); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a stream that was begun with the former token: %v, %v", r, err)
	}
	d.change(t, func(c *config.Config) { c.Admin.People = nil })
	both("gone", 0, codes.Unauthenticated, codes.PermissionDenied)
}

// A new CA counts at once, for open connections as well.
func TestAuthorityChanges(t *testing.T) {
	t.Parallel()
	d := open(t)
	conn := d.dial(t, "", d.ca.person(t, "alice"))
	ask := func() codes.Code {
		_, err := adminv1.NewAccessServiceClient(conn).GetAccess(t.Context(), &adminv1.GetAccessRequest{})
		return status.Code(err)
	}
	if c := ask(); c != codes.OK {
		t.Fatal(c)
	}
	newCA(t).write(t, d.dir, "admin")
	if c := ask(); c != codes.Unauthenticated {
		t.Errorf("of the former CA: %v", c)
	}
}

// Wrong tokens are slow, then not looked at; other addresses and certificates are not touched by that.
func TestTokens(t *testing.T) {
	t.Parallel()
	now := time.Unix(1e9, 0)
	var waited time.Duration
	a := &access{config: func() *config.Config { return &config.Config{Admin: config.Admin{People: people()}} }, log: quietLog, now: func() time.Time { return now }}
	a.attempts = newAttempts(a.now)
	a.attempts.wait = func(_ context.Context, d time.Duration) { waited += d }
	try := func(from, authorization string) codes.Code {
		c, err := a.identify(t.Context(), from, authorization, nil, nil)
		if err == nil && (c.name != "alice" || c.role != admins || c.by != byToken) {
			t.Errorf("%+v", c)
		}
		return status.Code(err)
	}
	for _, wrong := range []string{"Basic " + aliceToken, "Bearer", "Bearer ", aliceToken, "Bearer " + hashOf(aliceToken), "Bearer x" + aliceToken} {
		if c := try("192.0.2.1:1", wrong); c != codes.Unauthenticated {
			t.Errorf("%s: %v", wrong, c)
		}
	}
	if c := try("192.0.2.1:2", "bearer "+aliceToken); c != codes.OK {
		t.Errorf("the right one: %v", c)
	}
	for range 10 {
		try("192.0.2.1:3", "Bearer guess")
	}
	if c := try("192.0.2.1:4", "Bearer "+aliceToken); c != codes.ResourceExhausted {
		t.Errorf("after too many: %v", c)
	}
	if waited < 5*time.Second {
		t.Errorf("they took %v together", waited)
	}
	if c := try("192.0.2.2:4", "Bearer "+aliceToken); c != codes.OK {
		t.Errorf("from elsewhere: %v", c)
	}
	now = now.Add(2 * attemptsBack)
	if c := try("192.0.2.1:5", "Bearer "+aliceToken); c != codes.OK {
		t.Errorf("later: %v", c)
	}
	// One network that a machine commonly has is one address, and what is remembered is bounded.
	for i := range maxSources + 500 {
		try("[2001:db8:"+hex4(i)+"::1]:9", "Bearer guess")
	}
	if n := len(a.attempts.sources); n > maxSources {
		t.Errorf("%d addresses are remembered", n)
	}
	for range maxAttempts {
		try("[2001:db8:ffff::1]:9", "Bearer guess")
	}
	if c := try("[2001:db8:ffff::2]:9", "Bearer "+aliceToken); c != codes.ResourceExhausted {
		t.Errorf("from the same /64: %v", c)
	}
}

func hex4(i int) string {
	const digits = "0123456789abcdef"
	return string([]byte{digits[i>>12&15], digits[i>>8&15], digits[i>>4&15], digits[i&15]})
}

// What the caller says of himself is dropped, on the port too, and the token goes no further.
func TestNameOnThePort(t *testing.T) {
	t.Parallel()
	d := open(t)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "stagecoach-actor", "somebody-else")
	for who, conn := range map[string]*grpc.ClientConn{"olga": d.dial(t, "", d.ca.person(t, "olga")), "victor": d.dial(t, "t-victor")} {
		if r, err := adminv1.NewQueueServiceClient(conn).ListMessages(ctx, &adminv1.ListMessagesRequest{}); err != nil || r.GetNextPageToken() != who {
			t.Errorf("%s: %q, %v", who, r.GetNextPageToken(), err)
		}
	}
}

// A viewer sees where a stage changed a message, and nothing of the message.
func TestViewersDoNotLookIntoMail(t *testing.T) {
	t.Parallel()
	for tok, want := range map[string]bool{"t-victor": false, "t-olga": true} {
		d := open(t) // its tails are its own
		r, err := adminv1.NewTraceServiceClient(d.dial(t, tok)).GetTrace(t.Context(), &adminv1.GetTraceRequest{Id: "x"})
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(r.String(), "secret"); got != want || !strings.Contains(r.String(), "hello") || !strings.Contains(r.String(), "offset:7") && !strings.Contains(r.String(), "offset: 7") {
			t.Errorf("%s: %v", tok, r)
		}
		tail, err := adminv1.NewEventServiceClient(d.dial(t, tok)).TailEvents(t.Context(), &adminv1.TailEventsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		hop := &adminv1.HopStep{Diff: &adminv1.Diff{Hunks: []*adminv1.Hunk{{Offset: 7, Before: []byte("secret")}}}}
		d.owner.tail <- &adminv1.TailEventsResponse{Id: "hello", Event: &adminv1.TraceEvent{Hops: []*adminv1.HopStep{hop}}}
		e, err := tail.Recv()
		if got := strings.Contains(e.String(), "secret"); err != nil || got != want || e.GetEvent().GetHops()[0].GetDiff().GetHunks()[0].GetOffset() != 7 {
			t.Errorf("%s, a stream: %v, %v", tok, e, err)
		}
		_, body := d.ask(t, d.browser(), http.MethodPost, "/stagecoach.admin.v1.TraceService/GetTrace", "", map[string]string{"Authorization": "Bearer " + tok})
		if got := strings.Contains(body, "c2VjcmV0"); got != want {
			t.Errorf("%s, JSON: %s", tok, body)
		}
	}
}

// A call that sets no deadline gets one, but for the tail.
func TestDeadlines(t *testing.T) {
	t.Parallel()
	d := open(t)
	conn := d.dial(t, "t-victor")
	c := adminv1.NewQueueServiceClient(conn)
	if _, err := c.ListMessages(t.Context(), &adminv1.ListMessagesRequest{}); err != nil {
		t.Fatal(err)
	}
	if at := time.Duration(d.owner.deadline.Load()); at <= 0 || at > callTime {
		t.Errorf("without one: %v", at)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	if _, err := c.ListMessages(ctx, &adminv1.ListMessagesRequest{}); err != nil {
		t.Fatal(err)
	}
	if at := time.Duration(d.owner.deadline.Load()); at < 4*time.Minute {
		t.Errorf("with one of five minutes: %v", at)
	}
	for name, want := range map[string]bool{adminv1.EventService_TailEvents_FullMethodName: false, adminv1.QueueService_GetContent_FullMethodName: true} {
		a := &access{config: d.config.Load, log: quietLog, now: time.Now, stopping: t.Context()}
		s := &fakeStream{ctx: withCaller(t.Context(), caller{name: "me", role: admins, by: bySocket})}
		err := a.stream(nil, s, &grpc.StreamServerInfo{FullMethod: name}, func(_ any, s grpc.ServerStream) error {
			if _, ok := s.Context().Deadline(); ok != want {
				t.Errorf("%s has a deadline: %v", name, ok)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}

type fakeStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *fakeStream) Context() context.Context { return s.ctx }
