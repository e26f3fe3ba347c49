package cli

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

// What each command prints: on a terminal, in a pipe, and as JSON.
func TestOutput(t *testing.T) {
	f := newFake(t)
	f.messages, f.trace, f.status, f.preview, f.archive, f.keys = waitingSamples(), traceSample(), statusSample(), previewSample(), archiveSample(), keySample()
	f.changes = []*adminv1.Change{{Id: idOne, Recipients: 2}, {Id: idThree, Reason: "it is in quarantine: release it"}}
	f.routes = []*adminv1.RouteState{
		{Name: "provider", Kind: "smarthost", To: "smtp.provider.example:587", Chains: []string{"outbound", "other"}, Waiting: 3, Pause: &adminv1.Pause{By: "alice", Reason: "they are moving", At: before(time.Hour)}},
		{Name: "exchange", Kind: "smarthost", To: "exchange.internal:25", Chains: []string{"inbound"}, Waiting: 7, Down: "535 5.7.8 login refused"},
		{Name: "outbox", Kind: "maildir", To: "data/outbox"},
	}
	f.traces = []*adminv1.TraceSummary{
		{Id: idOne, Received: before(3 * time.Hour), ReversePath: "alice@example.com", Recipients: []string{"bob@example.net", "carol@example.org", "dave@example.org"}, MessageId: "<1@example.com>", Subject: "Grüße\u202e", Size: 1234,
			States: map[string]uint32{"delivered": 2, "waiting": 1}},
		{Id: idThree, Received: before(5 * time.Hour), Recipients: []string{"bob@example.net"}, Size: 99, States: map[string]uint32{"delivered": 1}},
	}
	f.users = []string{"alice", "bob\x1b"}
	paused := proto.CloneOf(f.routes[0])
	paused.Pause = &adminv1.Pause{By: "alice", Reason: "moving", At: before(0)}
	letter := "From: alice@example.com\nTo: bob@example.net\nCc: carol@example.org\nBcc: dave@example.org\nSubject: hello\n\nhello\n"
	for _, c := range []struct {
		name string
		args string
		code int
		// doc is what the JSON says.
		doc proto.Message
	}{
		{"queue-list", "queue list", 0, &adminv1.ListMessagesResponse{Messages: f.messages}},
		{"queue-list-filter", "queue list --room retry", 0, &adminv1.ListMessagesResponse{Messages: f.messages}},
		{"queue-show", "queue show " + idOne, 0, &adminv1.GetMessageResponse{Message: f.messages[1]}},
		{"queue-show-held", "queue show " + idThree, 0, &adminv1.GetMessageResponse{Message: f.messages[0]}},
		{"queue-retry", "queue retry " + idOne + " " + idThree, 1, &adminv1.RetryMessagesResponse{Changes: f.changes}},
		{"quarantine-list", "quarantine list", 0, &adminv1.ListMessagesResponse{Messages: f.messages}},
		{"route-list", "route list", 0, &adminv1.ListRoutesResponse{Routes: f.routes}},
		{"route-pause", "route pause provider --reason moving", 0, &adminv1.ListRoutesResponse{Routes: []*adminv1.RouteState{paused}}},
		{"archive-list", "archive list", 0, &adminv1.ListArchivedResponse{Messages: f.archive}},
		{"trace", "trace " + idOne, 0, &adminv1.GetTraceResponse{Trace: f.trace}},
		{"trace-no-diff", "trace " + idOne + " --diff=false", 0, nil},
		{"trace-list", "trace bob@example.net", 0, &adminv1.FindTracesResponse{Traces: f.traces}},
		{"status", "status", 2, f.status},
		{"try", "try -", 1, nil},
		{"dkim-list", "dkim list", 0, &adminv1.ListDkimKeysResponse{Keys: f.keys}},
		{"dkim-show", "dkim show example.com", 0, &adminv1.ListDkimKeysResponse{Keys: f.keys}},
		{"user-list", "user list", 0, &adminv1.ListUsersResponse{Names: f.users}},
	} {
		t.Run(c.name, func(t *testing.T) {
			args := append(strings.Fields(c.args), "--socket", f.socket)
			for _, how := range []string{"terminal", "pipe", "json"} {
				p := &person{terminal: how == "terminal", stdin: letter}
				more := args
				if how == "json" {
					more = append(args[:len(args):len(args)], "--json")
				}
				if code := p.runs(t, more...); code != c.code {
					t.Fatalf("%s: exit code %d, not %d: %s", how, code, c.code, p.stderr)
				}
				harmlessOnly(t, how, p.stdout)
				if how == "json" {
					sameDocument(t, p.stdout, c.doc)
					continue
				}
				golden(t, c.name+"."+how, visible(p.stdout))
			}
		})
	}
}

// sameDocument: what the JSON says is what the service answered.
func sameDocument(t *testing.T, doc string, want proto.Message) {
	t.Helper()
	if want == nil {
		if !json.Valid([]byte(doc)) {
			t.Errorf("this is no JSON document: %s", doc)
		}
		return
	}
	got := want.ProtoReflect().New().Interface()
	if err := protojson.Unmarshal([]byte(doc), got); err != nil || !proto.Equal(got, want) {
		t.Errorf("%v: %s\nis not %v", err, doc, want)
	}
}

// The layout of a document is the same from build to build, and what is not there is shown as empty.
func TestJSONLayout(t *testing.T) {
	f := newFake(t)
	f.users = []string{"alice", "<bob>\u202e"}
	p := &person{}
	p.runs(t, "user", "list", "--json", "--socket", f.socket)
	if want := "{\n  \"names\": [\n    \"alice\",\n    \"<bob>\\u202e\"\n  ]\n}\n"; p.stdout != want {
		t.Errorf("%s, not %s", p.stdout, want)
	}
	f.users = nil
	p.runs(t, "user", "list", "--json", "--socket", f.socket)
	if want := "{\n  \"names\": []\n}\n"; p.stdout != want {
		t.Errorf("%s, not %s", p.stdout, want)
	}
}

// visible shows the colours of a terminal in a golden file.
func visible(s string) string { return strings.ReplaceAll(s, "\x1b", "ESC") }

// harmlessOnly: nothing that came from outside reaches a terminal as it is.
func harmlessOnly(t *testing.T, how, s string) {
	t.Helper()
	for _, style := range []style{bold, faint, red, green, yellow, "0"} {
		s = strings.ReplaceAll(s, "\x1b["+string(style)+"m", "")
	}
	for _, line := range strings.Split(s, "\n") {
		if line = strings.ReplaceAll(line, "\t", ""); clean(line) != line {
			t.Errorf("%s: something harmful came through: %q", how, line)
		}
	}
}

func TestColour(t *testing.T) {
	f := newFake(t)
	f.routes = []*adminv1.RouteState{{Name: "provider"}}
	for _, c := range []struct {
		terminal bool
		env      map[string]string
		want     bool
	}{
		{true, nil, true}, {false, nil, false}, {true, map[string]string{"NO_COLOR": "1"}, false}, {true, map[string]string{"TERM": "dumb"}, false},
	} {
		p := &person{terminal: c.terminal, env: c.env}
		if code := p.runs(t, "route", "list", "--socket", f.socket); code != 0 {
			t.Fatal(p.stderr)
		}
		if got := strings.Contains(p.stdout, "\x1b["); got != c.want {
			t.Errorf("terminal %v, environment %v: colours %v", c.terminal, c.env, got)
		}
	}
}

func TestUTC(t *testing.T) {
	f := newFake(t)
	f.messages = waitingSamples()
	p := &person{terminal: true}
	if p.runs(t, "queue", "list", "--utc", "--socket", f.socket) != 0 || !strings.Contains(p.stdout, "2026-11-22 11:50:00") {
		t.Errorf("no absolute time in\n%s%s", p.stdout, p.stderr)
	}
}
