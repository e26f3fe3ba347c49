package cli

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

// accessFake is who somebody is, and the record, in pages.
type accessFake struct {
	adminv1.UnimplementedAccessServiceServer
	mu      sync.Mutex
	ids     []string
	asked   []*adminv1.ListAuditRequest
	entries []*adminv1.AuditEntry
}

func (f *accessFake) GetAccess(ctx context.Context, _ *adminv1.GetAccessRequest) (*adminv1.GetAccessResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ids = append(f.ids, metadata.ValueFromIncomingContext(ctx, "stagecoach-request-id")...)
	return &adminv1.GetAccessResponse{Name: "alice", Role: adminv1.Role_ROLE_OPERATOR, By: "certificate", Ends: before(-30 * day)}, nil
}

func (f *accessFake) ListAudit(_ context.Context, r *adminv1.ListAuditRequest) (*adminv1.ListAuditResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, r)
	if r.GetPageToken() == "" {
		return &adminv1.ListAuditResponse{Entries: f.entries[:1], NextPageToken: "more"}, nil
	}
	return &adminv1.ListAuditResponse{Entries: f.entries[1:]}, nil
}

// laterAccess asks what the test puts into the fake when it runs.
type laterAccess struct {
	adminv1.UnimplementedAccessServiceServer
	f *fake
}

func (l laterAccess) GetAccess(ctx context.Context, r *adminv1.GetAccessRequest) (*adminv1.GetAccessResponse, error) {
	if l.f.access == nil {
		return l.UnimplementedAccessServiceServer.GetAccess(ctx, r)
	}
	return l.f.access.GetAccess(ctx, r)
}

func (l laterAccess) ListAudit(ctx context.Context, r *adminv1.ListAuditRequest) (*adminv1.ListAuditResponse, error) {
	if l.f.access == nil {
		return l.UnimplementedAccessServiceServer.ListAudit(ctx, r)
	}
	return l.f.access.ListAudit(ctx, r)
}

func auditSample() []*adminv1.AuditEntry {
	return []*adminv1.AuditEntry{
		{Sequence: 9, At: before(time.Minute), By: "alice", Role: adminv1.Role_ROLE_ADMIN, From: "192.0.2.7:50000", Method: "ConfigService/ApplyConfig", Request: `{"text":"…"}`, Code: "BEGUN"},
		{Sequence: 7, At: before(time.Hour), By: "olga", Role: adminv1.Role_ROLE_OPERATOR, From: "192.0.2.8:50000", Method: "QueueService/DeleteMessages", Request: `{"reason":"spam\u001b"}`, RequestId: "one", Code: "OK", Took: durationpb.New(time.Second)},
		{Sequence: 5, At: before(2 * day), By: "root", Role: adminv1.Role_ROLE_ADMIN, Method: "UserService/SetPassword", Request: `{"name":"bob"}`, Code: "NOT_FOUND", Error: "there is no user\x1b bob"},
	}
}

// What the commands print.
func TestAdminOutput(t *testing.T) {
	f := newFake(t)
	access := &accessFake{entries: auditSample()}
	f.access = access
	for name, args := range map[string]string{"admin-whoami": "admin whoami", "admin-audit": "admin audit --since 7d --by x --method y"} {
		for _, how := range []string{"terminal", "pipe", "json"} {
			p := &person{terminal: how == "terminal"}
			args := append(strings.Fields(args), "--socket", f.socket)
			if how == "json" {
				args = append(args, "--json")
			}
			if code := p.runs(t, args...); code != ExitDone {
				t.Fatalf("%s, %s: exit code %d: %s", name, how, code, p.stderr)
			}
			harmlessOnly(t, how, p.stdout)
			if how == "json" && !json.Valid([]byte(p.stdout)) {
				t.Errorf("%s: this is no JSON document: %s", name, p.stdout)
			}
			golden(t, name+"."+how, visible(p.stdout))
		}
	}
	r := access.asked[0]
	if r.GetBy() != "x" || r.GetMethod() != "y" || !r.GetSince().AsTime().Equal(timestamppb.New(noon.Add(-7*day)).AsTime()) {
		t.Errorf("asked %v", r)
	}
	if len(access.ids) != 3 || access.ids[0] == access.ids[1] || len(access.ids[0]) != 36 {
		t.Errorf("request ids: %q", access.ids)
	}
}

// A token is new each time, and the line has its hash and never the token.
func TestAdminToken(t *testing.T) {
	seen := map[string]bool{}
	for range 3 {
		p := &person{}
		if code := p.runs(t, "admin", "token", "alice"); code != ExitDone {
			t.Fatal(p.stderr)
		}
		fields := strings.Split(strings.TrimSpace(p.stdout), "\t")
		if len(fields) != 3 || len(fields[1]) != 43 || seen[fields[1]] {
			t.Fatalf("%q", fields)
		}
		seen[fields[1]] = true
		sum := sha256.Sum256([]byte(fields[1]))
		if fields[0] != "alice" || fields[2] != hex.EncodeToString(sum[:]) {
			t.Errorf("%q", fields)
		}
	}
	p := &person{terminal: true}
	if code := p.runs(t, "admin", "token", "alice"); code != ExitDone || !regexp.MustCompile(`- \{name: "alice", role: viewer, token_sha256: [0-9a-f]{64}\}`).MatchString(p.stdout) {
		t.Errorf("%s", p.stdout)
	}
	if code := p.runs(t, "admin", "token", "a b"); code != ExitUsage {
		t.Errorf("a bad name: %d", code)
	}
}

// A person's certificate from the command to the list.
func TestPKIPerson(t *testing.T) {
	f := pkiAt(t, 0, "ingress")
	run := func(code int, args ...string) *person {
		t.Helper()
		p := &person{}
		if got := p.runs(t, append(append([]string{"pki"}, args...), "--dir", f.Dir)...); got != code {
			t.Fatalf("%v: exit code %d: %s%s", args, got, p.stdout, p.stderr)
		}
		return p
	}
	if p := run(0, "person", "alice", "--days", "30"); !strings.HasPrefix(p.stdout, "people/alice\tmade\t2026-12-22T12:00:00Z") {
		t.Errorf("%s%s", p.stdout, p.stderr)
	}
	if p := (&person{terminal: true}); p.runs(t, "pki", "person", "bob", "--dir", f.Dir) != ExitDone || !strings.Contains(p.stdout+p.stderr, filepath.Join(f.Dir, "people", "bob-key.pem")) {
		t.Errorf("%s%s", p.stdout, p.stderr)
	}
	if p := run(2, "person", "alice"); !strings.Contains(p.stderr, "nothing is overwritten: `stagecoach pki renew people/alice`") {
		t.Error(p.stderr)
	}
	if p := run(0, "list"); !strings.Contains(p.stdout, "people/alice\t2026-12-22") {
		t.Error(p.stdout)
	}
	if p := run(0, "renew", "people/alice", "--all"); !strings.Contains(p.stdout, "people/alice\trenewed") {
		t.Error(p.stdout)
	}
	for _, wrong := range [][]string{{"person"}, {"person", "../x"}, {"person", "x-key"}, {"person", "x", "--days", "0"}, {"person", "x", "--days", "4000"}, {"renew", "people/../x"}} {
		run(64, wrong...)
	}
}
