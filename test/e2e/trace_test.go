package e2e

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os/user"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/stagecoachmail/stagecoach/mail"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	relayv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/relay/v1"
	stagev1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/stage/v1"
	"github.com/stagecoachmail/stagecoach/services/signer"
	"github.com/stagecoachmail/stagecoach/stage"
	"github.com/stagecoachmail/stagecoach/stage/serve"
	"github.com/stagecoachmail/stagecoach/test/rig"
)

// stamp is a stage of somebody else that takes the Subject out and puts another one in; it is run by Process alone.
func stamp() stage.Factory {
	process := func(_ context.Context, m *mail.Message) (stage.Result, error) {
		var res stage.Result
		for _, f := range m.Content.Header().Find("Subject") {
			s, err := mail.ReplaceField(f, "[stamped] "+f.Value())
			if err != nil {
				return res, err
			}
			res.Edits.Splices = append(res.Edits.Splices, s)
		}
		return res, nil
	}
	return stage.NewFactory("stamp", stage.Traits{EditsHeader: true}, func() struct{} { return struct{}{} },
		func(stage.Settings, struct{}) (stage.Stage, error) { return stage.Func(process), nil })
}

// traceInstall is the installation of most tests, with a stage that only judges, a shadow, and a chain whose scanner
// is not there.
func traceInstall(t *testing.T, mode rig.Mode) (*rig.Rig, *rig.Sink) {
	t.Helper()
	r := rig.New(t, mode)
	sink := r.NewSink("smarthost")
	if _, err := signer.WriteKeys(r.Path("data", "keys"), "example.com", "test"); err != nil {
		t.Fatal(err)
	}
	r.CA.Issue(t, r.Path("pki"), "stamp", "stamp")
	text := strings.NewReplacer("ROUTE", sink.Route(),
		"chains:\n", `  scan: {type: antivirus, address: "{{antivirus}}", config: {clamd: "tcp://{{clamd}}"}}
  dry: {type: disclaimer, address: "{{disclaimer}}", config: {text: "Not to be seen.", html: "<p>Not to be seen.</p>"}}
  stamp: {address: "{{stamp}}", traits: [edits_header], process_only: true}
chains:
  - name: broken
    match: {direction: outbound, recipients: ["*@broken.example"]}
    stages: [scan]
    deliver: provider
`, "[antivirus, footer,", "[antivirus, {use: dry, shadow: true}, footer, stamp,").Replace(body)
	r.Configure(text)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- serve.Run(ctx, stamp(), serve.Options{ConfigFile: r.ConfigFile(), Logger: slog.New(slog.DiscardHandler)})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the stamp: %v", err)
		}
	})
	return r, sink
}

// traced asks for the way of a message until it is told as it should be.
func traced(r *rig.Rig, id string, what string, ok func(*adminv1.Trace) bool) *adminv1.Trace {
	r.T.Helper()
	var got *adminv1.Trace
	for end := time.Now().Add(20 * time.Second); ; {
		resp, err := r.Trace().GetTrace(r.T.Context(), &adminv1.GetTraceRequest{Id: id})
		if err != nil && status.Code(err) != codes.NotFound {
			r.T.Fatal(err)
		}
		if got = resp.GetTrace(); err == nil && ok(got) {
			return got
		}
		if time.Now().After(end) {
			r.T.Fatalf("%s is not told of %s:\n%v", what, id, got)
		}
		<-time.After(100 * time.Millisecond)
	}
}

func ends(tr *adminv1.Trace, kind string) (n int) {
	for _, e := range tr.GetEvents() {
		for _, end := range e.GetEnds() {
			if end.GetKind() == kind {
				n += len(end.GetRecipients())
			}
		}
	}
	return n
}

func waits(tr *adminv1.Trace, room string) (out []*adminv1.TraceWait) {
	for _, e := range tr.GetEvents() {
		for _, w := range e.GetWaits() {
			if w.GetRoom() == room {
				out = append(out, w)
			}
		}
	}
	return out
}

// replayed applies what the trace says to the bytes that the client sent, hop by hop, for one recipient.
func replayed(t *testing.T, tr *adminv1.Trace, sent, recipient string) []byte {
	t.Helper()
	b := append(bytes.Clone(tr.GetPrepended()), sent...)
	for _, e := range tr.GetEvents() {
		for _, h := range e.GetHops() {
			rep := h.GetReport()
			if rep.GetEdits() != nil || rep.GetDiff() != nil {
				t.Errorf("%s tells its edits twice", rep.GetInstance())
			}
			if h.GetShadow() || rep.GetVerdict() != stagev1.Verdict_VERDICT_CONTINUE || !slices.Contains(rep.GetRecipients(), recipient) {
				continue
			}
			if h.GetDiff().GetCut() {
				t.Fatalf("the diff of %s is cut", rep.GetInstance())
			}
			var next []byte
			at := 0
			for _, k := range h.GetDiff().GetHunks() {
				from, to := int(k.GetOffset()), int(k.GetOffset()+k.GetLength())
				if from < at || !bytes.Equal(b[from:to], k.GetRemoved()) || !bytes.HasSuffix(b[:from], k.GetBefore()) || !bytes.HasPrefix(b[to:], k.GetAfter()) {
					t.Fatalf("%s: the hunk %v does not fit %q", rep.GetInstance(), k, b)
				}
				next = append(append(next, b[at:from]...), k.GetInserted()...)
				at = to
			}
			b = append(next, b[at:]...)
		}
	}
	return b
}

func TestTrace(t *testing.T) {
	t.Parallel()
	for _, mode := range rig.Modes() {
		t.Run(string(mode), func(t *testing.T) {
			r, sink := traceInstall(t, mode)
			r.Start()
			start := time.Now()
			r.Run("diffs give what arrived", func(t *testing.T) { traceDiffs(t, r, sink) })
			r.Run("quarantine and release", func(t *testing.T) { traceRelease(t, r, sink) })
			r.Run("failure and deferral", func(t *testing.T) { traceTrouble(t, r, sink) })
			r.Run("report", func(t *testing.T) { traceReport(t, r, sink) })
			r.Run("find", func(t *testing.T) { traceFind(t, r, start) })
			r.Run("unknown", func(t *testing.T) {
				_, err := r.Trace().GetTrace(t.Context(), &adminv1.GetTraceRequest{Id: mail.NewID(time.Now())})
				if status.Code(err) != codes.NotFound {
					t.Errorf("an id that nobody gave: %v", err)
				}
			})
		})
	}
}

func traceDiffs(t *testing.T, r *rig.Rig, sink *rig.Sink) {
	id := r.MustSend("alice@example.com", []string{"bob@example.net", "carol@example.org"}, threeParts)
	d := sink.Wait(id, 20*time.Second)
	tr := traced(r, id, "delivery to both", func(tr *adminv1.Trace) bool { return tr.GetAccepted() && ends(tr, "delivered") == 2 })
	for _, rcpt := range tr.GetEnvelope().GetRecipients() {
		if got := replayed(t, tr, threeParts, rcpt.GetId()); !bytes.Equal(got, d.Raw) {
			t.Errorf("for %s the trace gives\n%s\nand what arrived is\n%s", rcpt.GetAddress(), got, d.Raw)
		}
	}
	var hops []string
	shadow := false // where its report stands among the others is left open: it runs beside them
	for _, e := range tr.GetEvents() {
		for _, h := range e.GetHops() {
			shadow = shadow || h.GetShadow()
			if !h.GetShadow() {
				hops = append(hops, h.GetReport().GetInstance())
			}
			if shadow := h.GetReport().GetInstance() == "dry"; shadow != h.GetShadow() || h.GetAt() == nil || e.GetChain() != "outbound" || e.GetRevision() == "" || e.GetShard() == "" {
				t.Errorf("step %v of %v", h, e)
			}
			if h.GetShadow() && !strings.Contains(fmt.Sprint(h.GetDiff()), "Not to be seen.") {
				t.Errorf("what the shadow would have done is not told: %v", h)
			}
		}
	}
	if got := strings.Join(hops, " "); got != "antivirus footer stamp archive signer" || !shadow {
		t.Errorf("hops: %s", got)
	}
	if tr.GetMessageId() != "<three@example.com>" || tr.GetSubject() != "three parts" || tr.GetSize() != uint64(len(threeParts)+len(tr.GetPrepended())) ||
		tr.GetEnvelope().GetReversePath() != "alice@example.com" || len(tr.GetEnvelope().GetRecipients()) != 2 || tr.GetReceived().AsTime().After(time.Now()) {
		t.Errorf("%v", tr)
	}
}

func traceRelease(t *testing.T, r *rig.Rig, sink *rig.Sink) {
	name := "tester"
	if r.Mode == rig.Up { // the socket knows who calls
		me, err := user.Current()
		if err != nil {
			t.Fatal(err)
		}
		name = me.Username
	}
	id := r.MustSend("alice@example.com", []string{"bob@example.net"}, eicar())
	inRoom(r, "quarantine", id)
	tr := traced(r, id, "the quarantine", func(tr *adminv1.Trace) bool { return len(waits(tr, "quarantine")) == 1 })
	if w := waits(tr, "quarantine")[0]; w.GetLast().GetKind() != relayv1.FateKind_FATE_KIND_QUARANTINED || w.GetLast().GetAbout() != "antivirus" || len(w.GetRecipients()) != 1 {
		t.Errorf("%v", w)
	}
	if got := stateOf(r, id); got != "map[waiting:1]" {
		t.Errorf("states while it is held: %s", got)
	}
	person(r, "release", id)
	sink.Wait(id, 20*time.Second)
	tr = traced(r, id, "the delivery", func(tr *adminv1.Trace) bool { return ends(tr, "delivered") == 1 })
	told := slices.ContainsFunc(tr.GetEvents(), func(e *adminv1.TraceEvent) bool {
		return e.GetActor() == name && strings.Contains(e.GetText(), "released")
	})
	if !told {
		t.Errorf("nobody says that %s released it: %v", name, tr.GetEvents())
	}
	if got := replayed(t, tr, eicar(), tr.GetEnvelope().GetRecipients()[0].GetId()); !bytes.Equal(got, sink.Find(id)[0].Raw) {
		t.Errorf("the trace of what was released gives\n%s", got)
	}
}

func traceTrouble(t *testing.T, r *rig.Rig, sink *rig.Sink) {
	id := r.MustSend("alice@example.com", []string{"bob@broken.example"}, plain("not scanned"))
	tr := traced(r, id, "a failing stage", func(tr *adminv1.Trace) bool { return len(waits(tr, "retry"))+len(waits(tr, "park")) > 0 })
	failed := false
	for _, e := range tr.GetEvents() {
		for _, h := range e.GetHops() {
			failed = failed || h.GetReport().GetInstance() == "scan" && h.GetReport().GetOutcome() == relayv1.Outcome_OUTCOME_FAILED && h.GetReport().GetReason() != ""
		}
	}
	if !failed {
		t.Errorf("the failure is not told: %v", tr.GetEvents())
	}
	sink.Refuse("later@example.net", 450, "come back later")
	id = r.MustSend("alice@example.com", []string{"later@example.net", "bob@example.net"}, plain("deferred"))
	tr = traced(r, id, "a deferral", func(tr *adminv1.Trace) bool { return len(waits(tr, "retry")) == 1 && ends(tr, "delivered") == 1 })
	if w := waits(tr, "retry")[0]; w.GetLast().GetReply().GetText() != "come back later" || w.GetNext().AsTime().Before(time.Now()) || w.GetAttempts() != 1 {
		t.Errorf("%v", w)
	}
	if got := stateOf(r, id); got != "map[delivered:1 waiting:1]" {
		t.Errorf("states: %s", got)
	}
	sink.Refuse("later@example.net", 0, "")
	person(r, "retry", id)
	traced(r, id, "the delivery", func(tr *adminv1.Trace) bool { return ends(tr, "delivered") == 2 })
}

func traceReport(t *testing.T, r *rig.Rig, sink *rig.Sink) {
	sink.Refuse("nobody@example.net", 550, "no such user")
	id := r.MustSend("alice@example.com", []string{"nobody@example.net"}, plain("to nobody"))
	traced(r, id, "the report", func(tr *adminv1.Trace) bool { return ends(tr, "reported") == 1 })
	var dsn *adminv1.TraceSummary
	r.Eventually("the report is found by the null sender", 10*time.Second, func() bool {
		for _, s := range find(r, &adminv1.FindTracesRequest{Sender: "<>"}) {
			dsn = s
		}
		return dsn != nil
	})
	tr := traced(r, dsn.GetId(), "its delivery", func(tr *adminv1.Trace) bool { return ends(tr, "delivered") == 1 })
	if tr.GetReports() != id || tr.GetSubject() != "Your message could not be delivered" || !strings.Contains(tr.GetMessageId(), dsn.GetId()) || len(tr.GetPrepended()) != 0 {
		t.Errorf("%v", tr)
	}
}

func find(r *rig.Rig, req *adminv1.FindTracesRequest) []*adminv1.TraceSummary {
	r.T.Helper()
	resp, err := r.Trace().FindTraces(r.T.Context(), req)
	if err != nil {
		r.T.Fatal(err)
	}
	return resp.GetTraces()
}

// stateOf gives the states of a message's recipients, as its summary tells.
func stateOf(r *rig.Rig, id string) string {
	r.T.Helper()
	var states string
	r.Eventually(id+" is found", 10*time.Second, func() bool {
		for _, s := range find(r, &adminv1.FindTracesRequest{Id: id}) {
			states = fmt.Sprint(s.GetStates())
		}
		return states != ""
	})
	return states
}

func traceFind(t *testing.T, r *rig.Rig, start time.Time) {
	subject := func(n int) string { return fmt.Sprintf("=?utf-8?q?gr=C3=BC=C3=9Fe_%d?=", n) }
	var sent []string
	for n := range 5 {
		raw := strings.Replace(plain(subject(n)), "Date:", fmt.Sprintf("Message-ID: <find%d@example.com>\r\nDate:", n), 1)
		sent = append(sent, r.MustSend(fmt.Sprintf("find%d@example.com", n), []string{"bob@example.net", fmt.Sprintf("find%d@sub.example.org", n)}, raw))
	}
	for _, id := range sent {
		traced(r, id, "delivery", func(tr *adminv1.Trace) bool { return ends(tr, "delivered") == 2 })
	}
	newest := slices.Clone(sent)
	slices.Reverse(newest)
	for name, c := range map[string]struct {
		req  *adminv1.FindTracesRequest
		want []string
	}{
		"id":                      {&adminv1.FindTracesRequest{Id: sent[1]}, sent[1:2]},
		"Message-ID":              {&adminv1.FindTracesRequest{MessageId: "<find2@example.com>"}, sent[2:3]},
		"bare Message-ID":         {&adminv1.FindTracesRequest{MessageId: "find2@example.com"}, sent[2:3]},
		"sender":                  {&adminv1.FindTracesRequest{Sender: "FIND3@example.com"}, sent[3:4]},
		"recipient":               {&adminv1.FindTracesRequest{Recipient: "find4@sub.example.org"}, sent[4:5]},
		"recipients below":        {&adminv1.FindTracesRequest{Recipient: "*@*.example.org"}, newest},
		"address of a sender":     {&adminv1.FindTracesRequest{Address: "find0@example.com"}, sent[:1]},
		"address of a recipient":  {&adminv1.FindTracesRequest{Address: "find0@sub.example.org"}, sent[:1]},
		"all must hold":           {&adminv1.FindTracesRequest{Sender: "find0@example.com", Recipient: "find1@sub.example.org"}, nil},
		"id and another's sender": {&adminv1.FindTracesRequest{Id: sent[0], Sender: "find1@example.com"}, nil},
		"before they came":        {&adminv1.FindTracesRequest{Recipient: "*@sub.example.org", Until: timestamppb.New(start)}, nil},
		"in their time":           {&adminv1.FindTracesRequest{Recipient: "*@sub.example.org", Since: timestamppb.New(start.Add(-time.Second)), Until: timestamppb.New(time.Now())}, newest},
	} {
		var got []string
		for _, s := range find(r, c.req) {
			got = append(got, s.GetId())
			n := slices.Index(sent, s.GetId())
			if s.GetSubject() != fmt.Sprintf("grüße %d", n) || len(s.GetRecipients()) != 2 || !maps.Equal(s.GetStates(), map[string]uint32{"delivered": 2}) || s.GetReversePath() != fmt.Sprintf("find%d@example.com", n) || s.GetSize() == 0 {
				t.Errorf("%s: %v", name, s)
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
	req, pages := &adminv1.FindTracesRequest{Recipient: "*@sub.example.org", PageSize: 2}, [][]string{}
	for {
		resp, err := r.Trace().FindTraces(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		var page []string
		for _, s := range resp.GetTraces() {
			page = append(page, s.GetId())
		}
		pages = append(pages, page)
		if req.PageToken = resp.GetNextPageToken(); req.PageToken == "" {
			break
		}
	}
	if want := fmt.Sprint([][]string{newest[:2], newest[2:4], newest[4:]}); fmt.Sprint(pages) != want {
		t.Errorf("pages %v, want %v", pages, want)
	}
}
