package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

func TestUsage(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, args := range []string{
		"nonsense", "queue nonsense", "queue list --nonsense", "queue show", "queue show a b", "queue retry", "queue retry --room nowhere --all", "queue retry --all x", "queue hold",
		"queue delete " + idOne, "quarantine release", "route pause", "trace a b", "try", "send", "user add", "dkim new", "archive list x", "status x", "send - --tls maybe --to a@b",
		"send - --to nobody", "send --server nowhere --to a@b --from c@d -", "try --stranger --relay x -", "user add x --password-file",
	} {
		p := &person{stdin: "Subject: x\n\n"}
		if code := p.runs(t, strings.Fields(args)...); code != ExitUsage && !(strings.HasPrefix(args, "try --stranger") && code == ExitFailed) {
			t.Errorf("%s: exit code %d, %s", args, code, p.stderr)
		}
		if !strings.HasPrefix(p.stderr, "stagecoach: ") {
			t.Errorf("%s: %q", args, p.stderr)
		}
	}
	p := &person{}
	if code := p.runs(t, "queue"); code != ExitDone || !strings.Contains(p.stdout, "release") {
		t.Errorf("queue alone: %d, %s", code, p.stdout)
	}
	p.runs(t, "queue", "delte")
	if !strings.Contains(p.stderr, "did you mean delete?") {
		t.Errorf("a slip: %s", p.stderr)
	}
}

// What is asked of the service is what was typed.
func TestRequests(t *testing.T) {
	f := newFake(t)
	f.messages, f.changes, f.keys = waitingSamples(), []*adminv1.Change{{Id: idOne, Recipients: 1}}, keySample()
	f.routes = []*adminv1.RouteState{{Name: "provider"}}
	for _, c := range []struct {
		args string
		want proto.Message
	}{
		{"queue list", &adminv1.ListMessagesRequest{Filter: &adminv1.Filter{}, PageSize: pageSize}},
		{"queue list --limit 7", &adminv1.ListMessagesRequest{Filter: &adminv1.Filter{}, PageSize: 7}},
		{"queue list --limit 0 --room retry,park --chain c --route r --about a --sender <> --recipient *@b", &adminv1.ListMessagesRequest{PageSize: pageSize,
			Filter: &adminv1.Filter{Rooms: []string{"retry", "park"}, Chain: "c", Route: "r", About: "a", Sender: "<>", Recipient: "*@b"}}},
		{"quarantine list", &adminv1.ListMessagesRequest{Filter: &adminv1.Filter{Rooms: []string{"quarantine"}}, PageSize: pageSize}},
		{"quarantine list --dead", &adminv1.ListMessagesRequest{Filter: &adminv1.Filter{Rooms: []string{"quarantine", "dead"}}, PageSize: pageSize}},
		{"queue retry --all --from footer", &adminv1.RetryMessagesRequest{Filter: &adminv1.Filter{Rooms: []string{"retry", "park"}}, FromStage: "footer"}},
		{"queue retry " + idOne, &adminv1.RetryMessagesRequest{Filter: &adminv1.Filter{Ids: []string{idOne}}}},
		{"queue hold --sender a@b --reason why", &adminv1.HoldMessagesRequest{Filter: &adminv1.Filter{Rooms: []string{"retry", "park", "demand"}, Sender: "a@b"}, Reason: "why"}},
		{"queue release --all", &adminv1.ReleaseMessagesRequest{Filter: &adminv1.Filter{Rooms: []string{"quarantine", "dead"}}}},
		{"queue release --all --room dead", &adminv1.ReleaseMessagesRequest{Filter: &adminv1.Filter{Rooms: []string{"dead"}}}},
		{"quarantine release " + idOne, &adminv1.ReleaseMessagesRequest{Filter: &adminv1.Filter{Ids: []string{idOne}, Rooms: []string{"quarantine"}}}},
		{"quarantine delete --yes --dead " + idOne, &adminv1.DeleteMessagesRequest{Filter: &adminv1.Filter{Ids: []string{idOne}, Rooms: []string{"quarantine", "dead"}}}},
		{"queue delete --all --yes --reason spam", &adminv1.DeleteMessagesRequest{Filter: &adminv1.Filter{Rooms: allRooms()}, Reason: "spam"}},
		{"route pause provider --reason why", &adminv1.PauseRouteRequest{Name: "provider", Reason: "why"}},
		{"route resume provider", &adminv1.ResumeRouteRequest{Name: "provider"}},
		{"archive list --since 24h --until 2026-11-22T08:00:00 --sender a@b --recipient c@d --stage s --limit 0",
			&adminv1.ListArchivedRequest{Since: before(day), Until: before(5 * time.Hour), Sender: "a@b", Recipient: "c@d", Stage: "s", PageSize: pageSize}},
		{"dkim new example.com --selector s9 --stage signer", &adminv1.CreateDkimKeysRequest{Stage: "signer", Domain: "example.com", Selector: "s9"}},
		{"dkim list example.com", &adminv1.ListDkimKeysRequest{Domain: "example.com"}},
		{"user delete alice", &adminv1.DeleteUserRequest{Name: "alice"}},
	} {
		p := &person{}
		if code := p.runs(t, append(strings.Fields(c.args), "--socket", f.socket)...); code != ExitDone {
			t.Errorf("%s: exit code %d, %s", c.args, code, p.stderr)
			continue
		}
		if got := f.last(t); !proto.Equal(got, c.want) {
			t.Errorf("%s: asked %v, not %v", c.args, got, c.want)
		}
	}
}

// All pages are read, and no more messages than are wanted.
func TestPages(t *testing.T) {
	f := newFake(t)
	for i := range 450 {
		f.messages = append(f.messages, &adminv1.WaitingMessage{Id: fmt.Sprintf("%026d", i+1), Groups: []*adminv1.WaitingGroup{{Room: "retry"}}})
	}
	for limit, want := range map[string]int{"0": 450, "100": 100, "250": 250, "1000": 450} {
		p := &person{}
		if code := p.runs(t, "queue", "list", "--limit", limit, "--socket", f.socket); code != ExitDone || strings.Count(p.stdout, "\n") != want {
			t.Errorf("--limit %s: %d lines, exit code %d, %s", limit, strings.Count(p.stdout, "\n"), code, p.stderr)
		}
	}
	p := &person{terminal: true}
	if p.runs(t, "queue", "list", "--socket", f.socket); !strings.Contains(p.stderr, "there are more") {
		t.Errorf("nothing is said of the rest: %s", p.stderr)
	}
}

func TestChanges(t *testing.T) {
	f := newFake(t)
	for _, c := range []struct {
		name    string
		changes []*adminv1.Change
		ids     []string
		code    int
		says    string
	}{
		{"all", []*adminv1.Change{{Id: idOne, Recipients: 2}}, []string{idOne}, ExitDone, idOne + "\ttried again\t2\t"},
		{"one is not there", []*adminv1.Change{{Id: idOne, Recipients: 2}}, []string{idOne, idThree}, ExitPartly, idThree + "\tunchanged\t0\tit does not wait here"},
		{"none", []*adminv1.Change{{Id: idOne, Reason: "it runs now"}}, []string{idOne}, ExitFailed, "it runs now"},
		{"nothing matches", nil, []string{"--all"}, ExitDone, ""},
	} {
		f.changes = c.changes
		p := &person{}
		if code := p.runs(t, append([]string{"queue", "retry", "--socket", f.socket}, c.ids...)...); code != c.code || !strings.Contains(p.stdout, c.says) {
			t.Errorf("%s: exit code %d, %s%s", c.name, code, p.stdout, p.stderr)
		}
	}
}

// Changes of many messages come in parts; a break in between is told with what was done before it.
func TestChangesInParts(t *testing.T) {
	f := newFake(t)
	f.parts = true
	f.changes = []*adminv1.Change{{Id: "a", Recipients: 1}, {Id: "b", Recipients: 1}, {Id: "c", Recipients: 1}}
	p := &person{}
	if code := p.runs(t, "queue", "retry", "--all", "--socket", f.socket); code != ExitDone || strings.Count(p.stdout, "tried again") != 3 {
		t.Errorf("exit code %d, %s%s", code, p.stdout, p.stderr)
	}
	f.changes[2].Reason = "break"
	if code := p.runs(t, "queue", "retry", "--all", "--socket", f.socket); code != ExitPartly || strings.Count(p.stdout, "tried again") != 2 || !strings.Contains(p.stderr, "the rest was not tried again") {
		t.Errorf("exit code %d, %s%s", code, p.stdout, p.stderr)
	}
}

// The shell completes from the running Stagecoach and the configuration, and nothing where there is none.
func TestCompletion(t *testing.T) {
	f := newFake(t)
	f.messages, f.users = waitingSamples(), []string{"alice", "bob"}
	f.routes = []*adminv1.RouteState{{Name: "provider"}, {Name: "outbox"}}
	t.Chdir(t.TempDir())
	if err := os.WriteFile("stagecoach.yaml", []byte("stages: {footer: {}, antivirus: {}}\nchains: [{name: out}, {name: in}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{"STAGECOACH_SOCKET": f.socket}
	for args, want := range map[string]string{
		"route pause": "provider\noutbox\n", "route pause provider": "", "queue list --route": "provider\noutbox\n", "queue list --room": "retry\npark\ndemand\nquarantine\ndead\n",
		"queue list --chain": "out\nin\n", "queue retry --from": "antivirus\nfooter\n", "user passwd": "alice\nbob\n",
		"queue show":             idThree + "\tfrom <>\n" + idOne + "\tfrom alice@example.com\n",
		"queue release " + idOne: idThree + "\tfrom <>\n",
	} {
		p := &person{env: env}
		p.runs(t, append(append([]string{"__complete"}, strings.Fields(args)...), "")...)
		if got, _, _ := strings.Cut(p.stdout, ":4\n"); got != want {
			t.Errorf("%s: %q, not %q", args, got, want)
		}
	}
	p := &person{}
	p.runs(t, "__complete", "route", "pause", "")
	if p.stdout != ":4\n" {
		t.Errorf("with nobody there: %q", p.stdout)
	}
}

// On a terminal a deletion is asked about, and only what was shown is deleted.
func TestDeleteAsks(t *testing.T) {
	f := newFake(t)
	f.messages, f.changes = waitingSamples(), []*adminv1.Change{{Id: idOne, Recipients: 1}}
	for answer, want := range map[string]int{"y\n": ExitDone, "YES\n": ExitDone, "n\n": ExitPartly, "\n": ExitPartly, "": ExitPartly, "yesterday\n": ExitPartly} {
		f.asked = nil
		p := &person{terminal: true, stdin: answer}
		if code := p.runs(t, "queue", "delete", "--room", "retry", "--socket", f.socket); code != want {
			t.Errorf("%q: exit code %d, %s", answer, code, p.stderr)
		}
		if !strings.Contains(p.stderr, "Delete 2 messages (1 recipient)?") || !strings.Contains(p.stderr, idOne) {
			t.Errorf("%q: it asked %s", answer, p.stderr)
		}
		r, deleted := f.last(t).(*adminv1.DeleteMessagesRequest)
		if deleted != (want == ExitDone) {
			t.Errorf("%q: deleted %v", answer, deleted)
		}
		if deleted && (!slices.Equal(r.GetFilter().GetIds(), []string{idThree, idOne}) || !slices.Equal(r.GetFilter().GetRooms(), []string{"retry"})) {
			t.Errorf("it deleted %v", r)
		}
	}
}

// The bytes come as they are into a pipe, and escaped to a terminal.
func TestRaw(t *testing.T) {
	f := newFake(t)
	f.content, f.archive = []byte("Subject: \x1b[31m\r\n\r\nbare\nand \xff\r\nno end"), archiveSample()
	for _, args := range [][]string{{"queue", "show", idOne, "--raw"}, {"archive", "get", idOne}} {
		p := &person{}
		if code := p.runs(t, append(args, "--socket", f.socket)...); code != 0 || p.stdout != string(f.content) {
			t.Errorf("%v: exit code %d, %q, %s", args, code, p.stdout, p.stderr)
		}
		p = &person{terminal: true}
		if p.runs(t, append(args, "--socket", f.socket)...); p.stdout != "Subject: \\x1b[31m\n\nbare\nand \\xff\nno end\n" {
			t.Errorf("%v: on a terminal %q", args, p.stdout)
		}
	}
}

func TestArchiveGet(t *testing.T) {
	f := newFake(t)
	f.content, f.archive = []byte("the message"), archiveSample()
	file := filepath.Join(t.TempDir(), "m.eml")
	p := &person{}
	if code := p.runs(t, "archive", "get", idOne, "-o", file, "--version", "2", "--socket", f.socket); code != 0 {
		t.Fatal(p.stderr)
	}
	if got, err := os.ReadFile(file); err != nil || string(got) != "the message" {
		t.Errorf("%q, %v", got, err)
	}
	if r := f.last(t).(*adminv1.GetArchivedRequest); r.GetSha256() != "bb22" {
		t.Errorf("it asked for %v", r)
	}
	if code := p.runs(t, "archive", "get", idOne, "-o", file, "--socket", f.socket); code != ExitFailed || !strings.Contains(p.stderr, "is there already") {
		t.Errorf("a file was overwritten: %d, %s", code, p.stderr)
	}
	if code := p.runs(t, "archive", "get", idOne, "--version", "3", "--socket", f.socket); code != ExitUsage {
		t.Errorf("version 3 of 2: %d, %s", code, p.stderr)
	}
	f.archive[0].Versions[0].Sha256 = "damaged"
	file += ".2"
	if code := p.runs(t, "archive", "get", idOne, "-o", file, "--version", "1", "--socket", f.socket); code != ExitFailed || !strings.Contains(p.stderr, "damaged") || strings.Contains(p.stderr, "rpc error") {
		t.Errorf("damaged: %d, %s", code, p.stderr)
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("a file that is not whole was left")
	}
	f.archive[0].Damaged = []string{"a", "b"}
	if code := p.runs(t, "archive", "list", "--socket", f.socket); code != ExitPartly || !strings.Contains(p.stderr, "2 files") {
		t.Errorf("damaged records: %d, %s", code, p.stderr)
	}
}

// A trace is looked for by what the argument looks like.
func TestTraceFinds(t *testing.T) {
	f := newFake(t)
	f.trace = traceSample()
	one := []*adminv1.TraceSummary{{Id: idOne}}
	for _, c := range []struct {
		what   string
		traces []*adminv1.TraceSummary
		code   int
		want   proto.Message
		says   string
	}{
		{idOne, nil, ExitDone, &adminv1.GetTraceRequest{Id: idOne}, "Grüße"},
		{idThree, nil, ExitFailed, &adminv1.GetTraceRequest{Id: idThree}, "knows nothing of " + idThree},
		{"bob@example.net", one, ExitDone, &adminv1.GetTraceRequest{Id: idOne}, "Grüße"},
		{"bob@example.net", nil, ExitFailed, &adminv1.FindTracesRequest{MessageId: "bob@example.net", PageSize: pageSize}, "--since 30d"},
		{"message-id@example.net", one, ExitDone, &adminv1.GetTraceRequest{Id: idOne}, "Grüße"},
		{"<x@y>", nil, ExitFailed, &adminv1.FindTracesRequest{MessageId: "<x@y>", PageSize: pageSize}, "no message of <x@y>"},
		{"<>", nil, ExitFailed, &adminv1.FindTracesRequest{Sender: "<>", PageSize: pageSize}, "no message"},
		{"something", nil, ExitUsage, nil, "is no id"},
	} {
		f.traces, f.asked = c.traces, nil
		p := &person{}
		if code := p.runs(t, "trace", c.what, "--socket", f.socket); code != c.code || !strings.Contains(p.stdout+p.stderr, c.says) {
			t.Errorf("%s: exit code %d, %s%s", c.what, code, p.stdout, p.stderr)
		}
		if c.want != nil && !proto.Equal(f.last(t), c.want) {
			t.Errorf("%s: it asked %v", c.what, f.last(t))
		}
	}
}

func TestPastTime(t *testing.T) {
	o := &output{now: func() time.Time { return noon }, location: time.FixedZone("CET", 3600)}
	for in, want := range map[string]string{
		"90m": "2026-11-22T10:30:00Z", "7d": "2026-11-15T12:00:00Z", "2026-11-22": "2026-11-21T23:00:00Z", "2026-11-22 08:30": "2026-11-22T07:30:00Z", "2026-11-22T08:30:00Z": "2026-11-22T08:30:00Z",
		"-1h": "", "yesterday": "", "d": "",
	} {
		got, err := o.pastTime("since", in)
		switch {
		case want == "" && Code(err) != ExitUsage:
			t.Errorf("%q: %v, %v", in, got, err)
		case want != "" && (err != nil || got.AsTime().Format("2006-01-02T15:04:05Z") != want):
			t.Errorf("%q: %v, %v", in, got.AsTime(), err)
		}
	}
}
