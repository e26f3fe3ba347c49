package e2e

import (
	"errors"
	"hash/crc32"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	relayv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/relay/v1"
	stagev1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/stage/v1"
	"github.com/stagecoachmail/stagecoach/test/rig"
)

// previewed is what a preview answered.
type previewed struct {
	itineraries []*adminv1.PreviewItinerary
	steps       []*adminv1.HopStep
	outcomes    []*adminv1.PreviewOutcome
	contents    [][]byte // by outcome
}

// preview asks what would become of a message.
func preview(r *rig.Rig, begin *adminv1.PreviewBegin, raw string) (*previewed, error) {
	r.T.Helper()
	stream, err := adminv1.NewPreviewServiceClient(r.Admin("one")).Preview(r.T.Context(), grpc.WaitForReady(true))
	if err != nil {
		r.T.Fatal(err)
	}
	send := func(req *adminv1.PreviewRequest) {
		if err == nil {
			err = stream.Send(req)
		}
	}
	send(&adminv1.PreviewRequest{Kind: &adminv1.PreviewRequest_Begin{Begin: begin}})
	for c := range slices.Chunk([]byte(raw), 100<<10) {
		send(&adminv1.PreviewRequest{Kind: &adminv1.PreviewRequest_Chunk{Chunk: c}})
	}
	crc := crc32.Checksum([]byte(raw), crc32.MakeTable(crc32.Castagnoli))
	send(&adminv1.PreviewRequest{Kind: &adminv1.PreviewRequest_End{End: &stagev1.End{Length: uint64(len(raw)), Crc32C: crc}}})
	if err == nil {
		err = stream.CloseSend()
	}
	if err != nil && !errors.Is(err, io.EOF) {
		r.T.Fatal(err)
	}
	out := &previewed{}
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		switch k := resp.GetKind().(type) {
		case *adminv1.PreviewResponse_Itinerary:
			out.itineraries = append(out.itineraries, k.Itinerary)
		case *adminv1.PreviewResponse_Step:
			out.steps = append(out.steps, k.Step)
		case *adminv1.PreviewResponse_Outcome:
			out.outcomes, out.contents = append(out.outcomes, k.Outcome), append(out.contents, nil)
		case *adminv1.PreviewResponse_Chunk:
			n := len(out.contents) - 1
			out.contents[n] = append(out.contents[n], k.Chunk...)
		}
	}
}

// told are the steps in short.
func (p *previewed) told() string {
	var out []string
	for _, s := range p.steps {
		what := strings.ToLower(strings.TrimPrefix(s.GetReport().GetVerdict().String(), "VERDICT_"))
		if s.GetReport().GetOutcome() != relayv1.Outcome_OUTCOME_VERDICT {
			what = strings.ToLower(strings.TrimPrefix(s.GetReport().GetOutcome().String(), "OUTCOME_"))
		}
		if s.GetDiff() != nil {
			what += "+edits"
		}
		out = append(out, s.GetReport().GetInstance()+":"+what)
	}
	return strings.Join(out, " ")
}

var (
	receivedMark = regexp.MustCompile(`\tid [0-9a-z]{26} \(stagecoach [0-9a-f]{32}\)`)
	dateMark     = regexp.MustCompile(`;\r\n\t\w{3}, [^\r]*\r\n`)
	signedAt     = regexp.MustCompile(` t=\d+;`)
	signature    = regexp.MustCompile(`(?s)\sb=.*?\r\n(\S)`)
)

// masked is a message without what depends on its id and on the time.
func masked(raw []byte) string {
	raw = receivedMark.ReplaceAll(raw, []byte("\tid ID"))
	raw = dateMark.ReplaceAll(raw, []byte("; DATE\r\n"))
	raw = signedAt.ReplaceAll(raw, []byte(" t=T;"))
	return string(signature.ReplaceAll(raw, []byte(" b=B\r\n$1")))
}

// A preview shows, byte for byte, what then leaves, and leaves nothing behind.
func TestPreview(t *testing.T) {
	for _, mode := range []rig.Mode{rig.Up, rig.Services} {
		t.Run(string(mode), func(t *testing.T) {
			r, sink := install(t, mode)
			r.Start()
			large := strings.Replace(threeParts, "AAECAwQFBgcICQ==\r\n", strings.Repeat(strings.Repeat("AAECAwQFBgcICQ", 5)+"\r\n", 30_000), 1)
			for name, raw := range map[string]string{"three parts": threeParts, "plain": plain("hello"), "8bit": crlf("From: alice@example.com\nSubject: gr\xc3\xbc\xc3\x9fe\n\nGr\xc3\xbc\xc3\x9fe\n"), "large": large} {
				t.Run(name, func(t *testing.T) {
					to := []string{"bob@example.net", "carol@example.org"}
					// A file has lines as files have them.
					got, err := preview(r, &adminv1.PreviewBegin{ReversePath: "alice@example.com", Recipients: to, Helo: "client.example.com"}, strings.ReplaceAll(raw, "\r\n", "\n"))
					if err != nil {
						t.Fatal(err)
					}
					if told := got.told(); told != "antivirus:continue footer:continue+edits archive:skipped signer:continue+edits" {
						t.Errorf("steps: %s", told)
					}
					if len(got.itineraries) != 1 || got.itineraries[0].GetChain() != "outbound" || got.itineraries[0].GetRoute() != "provider" ||
						got.itineraries[0].GetRelay() != "loopback" || len(got.itineraries[0].GetRecipients()) != 2 || len(got.itineraries[0].GetHops()) != 4 {
						t.Errorf("itineraries: %v", got.itineraries)
					}
					if len(got.outcomes) != 1 || got.outcomes[0].GetFate() != nil || len(got.outcomes[0].GetRecipients()) != 2 || got.outcomes[0].GetSize() != uint64(len(got.contents[0])) {
						t.Fatalf("outcomes: %v", got.outcomes)
					}
					if good, why := verifySigned(t, r, got.contents[0]); good != 2 {
						t.Errorf("%d signatures verify, want 2: %s", good, why)
					}
					d := sink.Wait(r.MustSend("alice@example.com", to, raw), 30*time.Second)
					if a, b := masked(got.contents[0]), masked(d.Raw); a != b {
						i := 0
						for i < min(len(a), len(b)) && a[i] == b[i] {
							i++
						}
						t.Errorf("they differ at %d:\npreview %.300q\nsent    %.300q", i, a[max(0, i-50):], b[max(0, i-50):])
					}
				})
			}
			t.Run("infected", func(t *testing.T) {
				got, err := preview(r, &adminv1.PreviewBegin{ReversePath: "alice@example.com", Recipients: []string{"bob@example.net"}}, eicar())
				if err != nil {
					t.Fatal(err)
				}
				if told := got.told(); told != "antivirus:quarantine" {
					t.Errorf("steps: %s", told)
				}
				if len(got.outcomes) != 1 || got.outcomes[0].GetFate().GetKind() != relayv1.FateKind_FATE_KIND_QUARANTINED || len(got.contents[0]) > 0 {
					t.Errorf("outcomes: %v", got.outcomes)
				}
			})
			t.Run("two chains", func(t *testing.T) {
				got, err := preview(r, &adminv1.PreviewBegin{ReversePath: "alice@example.com", Recipients: []string{"dora@example.com", "bob@example.net"}, WithoutContent: true}, threeParts)
				if err != nil {
					t.Fatal(err)
				}
				if len(got.itineraries) != 2 || got.itineraries[0].GetChain() != "inbound" || got.itineraries[1].GetChain() != "outbound" || len(got.outcomes) != 2 ||
					got.outcomes[0].GetSize() == 0 || len(got.contents[0]) > 0 || got.outcomes[0].GetRecipients()[0] != "r1" || got.outcomes[1].GetRecipients()[0] != "r2" {
					t.Errorf("%v\n%v", got.itineraries, got.outcomes)
				}
			})
			for name, one := range map[string]struct {
				begin *adminv1.PreviewBegin
				code  codes.Code
				words []string
			}{
				"stranger": {&adminv1.PreviewBegin{Stranger: true, Recipients: []string{"bob@example.net", "dora@example.com"}}, codes.FailedPrecondition, []string{"<bob@example.net>: 550 5.7.1 relaying denied"}},
				"client":   {&adminv1.PreviewBegin{Client: "192.0.2.1", Recipients: []string{"bob@example.net"}}, codes.FailedPrecondition, []string{"550 5.7.1"}},
				"relay":    {&adminv1.PreviewBegin{Relay: "nobody", Recipients: []string{"bob@example.net"}}, codes.NotFound, []string{`"nobody"`}},
				"chain":    {&adminv1.PreviewBegin{Chain: "none", Recipients: []string{"bob@example.net"}}, codes.NotFound, []string{`"none"`}},
				"listener": {&adminv1.PreviewBegin{Listener: "none", Recipients: []string{"bob@example.net"}}, codes.NotFound, []string{`"none"`}},
				"nobody":   {&adminv1.PreviewBegin{}, codes.InvalidArgument, []string{"recipients"}},
				"address":  {&adminv1.PreviewBegin{Recipients: []string{"bob@"}}, codes.InvalidArgument, []string{`"bob@"`}},
			} {
				t.Run(name, func(t *testing.T) {
					one.begin.ReversePath = "alice@example.com"
					_, err := preview(r, one.begin, threeParts)
					if status.Code(err) != one.code || !slices.ContainsFunc(one.words, func(w string) bool { return strings.Contains(err.Error(), w) }) {
						t.Errorf("%v", err)
					}
				})
			}
			if _, err := preview(r, &adminv1.PreviewBegin{ReversePath: "alice@example.com", Recipients: []string{"bob@example.net"}}, "a: b\rc\n\n"); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "554 5.6.0") {
				t.Errorf("a bare CR: %v", err)
			}
			// Nothing waits, and the archive has what was sent alone.
			if all := r.InRoom(""); len(all) > 0 {
				t.Errorf("waiting: %v", all)
			}
			if n := archivedRecords(t, r); n != 4 {
				t.Errorf("%d messages are in the archive, 4 were sent", n)
			}
		})
	}
}

func archivedRecords(t *testing.T, r *rig.Rig) (n int) {
	t.Helper()
	var walk func(dir string)
	walk = func(dir string) {
		all, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range all {
			if e.IsDir() {
				walk(dir + "/" + e.Name())
			} else if strings.HasSuffix(e.Name(), ".rec") {
				n++
			}
		}
	}
	walk(r.Path("data", "archive"))
	return n
}
