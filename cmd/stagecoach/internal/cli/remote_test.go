package cli

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpccredentials "google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

// authority is a CA of a test, with its files in a folder.
type authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	n    int64
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{dir: t.TempDir()}
	a.cert, a.key = a.make(t, &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, Subject: pkix.Name{CommonName: "CA"}}, "ca", 24*time.Hour)
	return a
}

// make writes NAME.pem and NAME-key.pem; it is good from an hour before noon for so long.
func (a *authority) make(t *testing.T, c *x509.Certificate, name string, good time.Duration) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a.n++
	c.SerialNumber, c.NotBefore = big.NewInt(a.n), noon.Add(-time.Hour)
	c.NotAfter = c.NotBefore.Add(good)
	parent, signer := c, key
	if a.cert != nil {
		parent, signer = a.cert, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{name + ".pem": {Type: "CERTIFICATE", Bytes: der}, name + "-key.pem": {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(a.path(file), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	made, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return made, key
}

func (a *authority) path(file string) string { return filepath.Join(a.dir, file) }

// service makes the identity of a service, person that of a person.
func (a *authority) service(t *testing.T, name string, good time.Duration) {
	t.Helper()
	a.make(t, &x509.Certificate{DNSNames: []string{name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, name, good)
}

func (a *authority) person(t *testing.T, name string, good time.Duration) {
	t.Helper()
	a.make(t, &x509.Certificate{URIs: []*url.URL{{Scheme: "stagecoach", Opaque: "person:" + name}}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, name, good)
}

// far is the fake on the network: it knows persons by their certificates, and one token.
type far struct {
	*fake
	ca   *authority
	addr string
}

const goodToken = "sc_0123456789abcdefghijkl"

// newFar starts one whose own certificate is that of a name.
func newFar(t *testing.T, ca *authority, name string) *far {
	t.Helper()
	f := &far{fake: newFake(t), ca: ca}
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	pair, err := tls.LoadX509KeyPair(ca.path(name+".pem"), ca.path(name+"-key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.addr = l.Addr().String()
	f.serve(t, l, grpc.Creds(grpccredentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.VerifyClientCertIfGiven,
		MinVersion: tls.VersionTLS13, Time: func() time.Time { return noon }})), grpc.ChainUnaryInterceptor(allow))
	return f
}

// allow lets in alice, and whoever has the token; bob stands nowhere.
func allow(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	p, _ := peer.FromContext(ctx)
	info, _ := p.AuthInfo.(grpccredentials.TLSInfo)
	md, _ := metadata.FromIncomingContext(ctx)
	switch certs := info.State.PeerCertificates; {
	case len(certs) > 0 && certs[0].URIs[0].Opaque == "person:alice":
	case len(certs) > 0:
		return nil, status.Error(codes.PermissionDenied, "bob stands in no people entry")
	case strings.Join(md.Get("authorization"), ",") != "Bearer "+goodToken:
		return nil, status.Error(codes.Unauthenticated, "the token is not known")
	}
	return next(ctx, req)
}

// secret writes a file for its owner alone.
func secret(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// in is a person with a context called far, by certificate, and one called by-token.
func (f *far) in(t *testing.T, who string) *person {
	t.Helper()
	p := &person{env: map[string]string{"XDG_CONFIG_HOME": t.TempDir()}}
	p.must(t, "context", "add", "far", "--server", f.addr, "--ca", f.ca.path("ca.pem"), "--certificate", f.ca.path(who+".pem"), "--key", f.ca.path(who+"-key.pem"))
	p.must(t, "context", "add", "by-token", "--server", f.addr, "--ca", f.ca.path("ca.pem"), "--token-file", secret(t, goodToken+"\n"))
	return p
}

func (p *person) must(t *testing.T, args ...string) {
	t.Helper()
	if code := p.runs(t, args...); code != ExitDone {
		t.Fatalf("%v: exit code %d: %s", args, code, p.stderr)
	}
}

// A command says the same, by the socket and over the network.
func TestRemoteIsAlike(t *testing.T) {
	ca := newAuthority(t)
	ca.service(t, "admin", 24*time.Hour)
	ca.person(t, "alice", 24*time.Hour)
	f := newFar(t, ca, "admin")
	f.users = []string{"carol"}
	f.routes = []*adminv1.RouteState{{Name: "provider", Kind: "smarthost"}}
	f.file = &adminv1.GetConfigResponse{Text: "hostname: x\n", Chains: []*adminv1.ConfigChain{{Name: "outbound", Deliver: "provider"}}}
	f.messages, f.content = []*adminv1.WaitingMessage{{Id: "1k0v8mpash9xbfrm3ngta9pw5b"}}, []byte("Subject: x\r\n\r\n")
	f.status = &adminv1.GetStatusResponse{}
	p := f.in(t, "alice")
	for _, args := range [][]string{{"user", "list"}, {"route", "list", "--json"}, {"chain", "list"}, {"config", "show"}, {"queue", "list"}, {"status", "--json"},
		{"user", "delete", "nobody"}, {"queue", "show", "1k0v8mpash9xbfrm3ngta9pw5b", "--raw"}, {"chain", "show", "nowhere"}} {
		near := p.runs(t, append(args, "--socket", f.socket)...)
		out, errs := p.stdout, p.stderr
		for _, context := range []string{"far", "by-token"} {
			if code := p.runs(t, append(args, "--context", context)...); code != near || p.stdout != out || p.stderr != errs {
				t.Errorf("%v --context %s: exit code %d, not %d\n%s%s", args, context, code, near, p.stdout, p.stderr)
			}
		}
	}
}

// Who cannot be let in, or calls the wrong one, hears what it is and what to do.
func TestRemoteRefused(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	for _, name := range []string{"admin", "signer"} {
		ca.service(t, name, 24*time.Hour)
	}
	ca.service(t, "old", time.Minute)
	for _, a := range []*authority{ca, other} {
		a.person(t, "alice", 24*time.Hour)
	}
	ca.person(t, "bob", 24*time.Hour)
	ca.person(t, "eve", time.Minute)
	f := newFar(t, ca, "admin")
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	bare := grpc.NewServer()
	done := make(chan struct{})
	go func() { defer close(done); _ = bare.Serve(plain) }()
	t.Cleanup(func() { bare.Stop(); <-done })
	for _, c := range []struct {
		name string
		x    remoteContext
		want []string
	}{
		{"nobody listens", remoteContext{Server: closed.Addr().String(), Certificate: "alice"}, []string{"nothing answers at " + closed.Addr().String(), "admin.address"}},
		{"no such host", remoteContext{Server: "nowhere.invalid:7443", Certificate: "alice"}, []string{"nowhere.invalid:7443"}},
		{"no TLS there", remoteContext{Server: plain.Addr().String(), Certificate: "alice"}, []string{"speaks no TLS"}},
		{"another CA", remoteContext{Server: f.addr, CA: other.path("ca.pem"), Certificate: "alice"}, []string{"does not come from " + other.path("ca.pem")}},
		{"a server that is not admin", remoteContext{Server: newFar(t, ca, "signer").addr, Certificate: "alice"}, []string{"a certificate for signer, not for admin", "server_name"}},
		{"another name is wanted", remoteContext{Server: f.addr, Certificate: "alice", ServerName: "mail.example.com"}, []string{"for admin, not for mail.example.com"}},
		{"its certificate has ended", remoteContext{Server: newFar(t, ca, "old").addr, Certificate: "alice", ServerName: "old"}, []string{"has ended, on 2026-11-22 11:01", "pki renew"}},
		{"ours has ended", remoteContext{Server: f.addr, Certificate: "eve"}, []string{ca.path("eve.pem") + " has ended, on 2026-11-22"}},
		{"ours is of another CA", remoteContext{Server: f.addr, Certificate: other.path("alice")}, []string{"does not take the certificate " + other.path("alice.pem")}},
		{"in no entry", remoteContext{Server: f.addr, Certificate: "bob"}, []string{"not allowed: bob stands in no people entry", "was asked with the certificate " + ca.path("bob.pem")}},
		{"a wrong token", remoteContext{Server: f.addr, TokenFile: secret(t, "sc_wrong")}, []string{"not allowed: the token is not known", "was asked with the token in "}},
	} {
		x := c.x
		if x.CA == "" {
			x.CA = ca.path("ca.pem")
		}
		if x.Certificate != "" {
			base := x.Certificate
			if !filepath.IsAbs(base) {
				base = ca.path(base)
			}
			x.Certificate, x.Key = base+".pem", base+"-key.pem"
		}
		file := &contextFile{path: filepath.Join(t.TempDir(), "c.yaml"), Current: "far", Contexts: map[string]*remoteContext{"far": &x}}
		if err := file.write(); err != nil {
			t.Fatal(err)
		}
		p := &person{env: map[string]string{contextsEnv: file.path}}
		if code := p.runs(t, "user", "list"); code != ExitFailed {
			t.Errorf("%s: exit code %d", c.name, code)
		}
		for _, want := range c.want {
			if !strings.Contains(p.stderr, want) {
				t.Errorf("%s: %s\nlacks %q", c.name, p.stderr, want)
			}
		}
		if strings.Contains(p.stderr, "rpc error") || strings.Contains(p.stderr, "sc_") {
			t.Errorf("%s: %s", c.name, p.stderr)
		}
	}
	if n := len(f.asked); n != 0 {
		t.Errorf("%d calls were let in", n)
	}
}

// A role that is too low is told as the server says it.
func TestRemoteRole(t *testing.T) {
	ca := newAuthority(t)
	ca.service(t, "admin", 24*time.Hour)
	ca.person(t, "alice", 24*time.Hour)
	f := newFar(t, ca, "admin")
	f.fails = status.Error(codes.PermissionDenied, "DeleteUser takes the role admin, and alice is a viewer")
	p := f.in(t, "alice")
	if code := p.runs(t, "user", "delete", "carol", "--context", "far"); code != ExitFailed || !strings.Contains(p.stderr, "not allowed: DeleteUser takes the role admin, and alice is a viewer") {
		t.Errorf("exit code %d: %s", code, p.stderr)
	}
}

// --server asks elsewhere, as who the context says; completion asks there as well.
func TestServerFlag(t *testing.T) {
	ca := newAuthority(t)
	ca.service(t, "admin", 24*time.Hour)
	ca.person(t, "alice", 24*time.Hour)
	one, two := newFar(t, ca, "admin"), newFar(t, ca, "admin")
	two.users = []string{"two"}
	two.file = &adminv1.GetConfigResponse{Text: "chains: [{name: away}]\nstages: {footer: {}}\n"}
	p := one.in(t, "alice")
	p.must(t, "user", "list", "--context", "far", "--server", two.addr)
	if p.stdout != "two\n" {
		t.Errorf("asked elsewhere: %q", p.stdout)
	}
	p.must(t, "__complete", "chain", "show", "--context", "far", "--server", two.addr, "")
	if !strings.HasPrefix(p.stdout, "away\n") {
		t.Errorf("completed: %q", p.stdout)
	}
}

// Who accepts the connection and says nothing is not waited for.
func TestRemoteSilent(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	r, err := new(contextFile).remote(&remoteContext{Server: l.Addr().String(), TokenFile: secret(t, goodToken)}, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	r.within = 50 * time.Millisecond
	if _, err := r.dial(t.Context()); err == nil || !strings.Contains(err.Error(), "no way to "+l.Addr().String()+" within 50ms") {
		t.Error(err)
	}
}
