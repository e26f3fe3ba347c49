package e2e

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	"github.com/stagecoachmail/stagecoach/test/rig"
)

// A stage is put into a chain and taken out again by command, while it runs: each time the next message goes by it. What
// would be wrong changes nothing, and the file is in the end what it was.
func TestChainByCommand(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Up)
	r.Configure(`
domains:
  - {name: example.com, recipients: any}
relay:
  - {name: loopback, networks: ["127.0.0.0/8"]}
stages:
  antivirus: {config: {}}
  footer: {type: disclaimer, config: {text: "The footer.", html: "<p>The footer.</p>"}} # ours
  archive: {config: {}}
chains:
  - {name: inbound, match: {direction: [inbound, internal]}, stages: [], deliver: inbox}
  - name: outbound
    match: {direction: outbound}
    stages: # what goes out
      - antivirus # scans
      # kept for ten years
      - archive
    deliver: provider
routes:
  provider: {maildir: {path: out}}
  inbox: {maildir: {path: inbox}}
`)
	r.Start()
	file := func() string {
		text, err := os.ReadFile(r.ConfigFile())
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	before := file()
	c, ctx := adminv1.NewConfigServiceClient(r.Admin("one")), t.Context()
	footers := func() int {
		id := r.MustSend("alice@example.com", []string{"bob@example.net"}, threeParts)
		n := -1
		r.Eventually("it is delivered", 20*time.Second, func() bool {
			list, _ := os.ReadDir(r.Path("out", "new"))
			for _, f := range list {
				raw, err := os.ReadFile(r.Path("out", "new", f.Name()))
				if err == nil && bytes.Contains(raw, []byte(id)) {
					n = bytes.Count(raw, []byte("The footer."))
				}
			}
			return n >= 0
		})
		return n
	}
	insert := func(stage string, place *adminv1.UsePlace) *adminv1.EditChainRequest {
		return &adminv1.EditChainRequest{Chain: "outbound", Edit: &adminv1.EditChainRequest_Insert{Insert: &adminv1.InsertUse{
			Use: &adminv1.ConfigUse{Stage: stage, OnError: "skip"}, Place: place}}}
	}
	if n := footers(); n != 0 {
		t.Fatalf("%d footers before", n)
	}
	behind := &adminv1.UsePlace{Place: &adminv1.UsePlace_After{After: "antivirus"}}
	if _, err := c.EditChain(ctx, insert("footr", behind)); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "did you mean footer?") {
		t.Errorf("a stage that nobody knows: %v", err)
	}
	wrong := insert("footer", behind)
	wrong.GetInsert().Use.Inline, wrong.GetInsert().Use.Shadow = true, true
	if resp, err := c.EditChain(ctx, wrong); err != nil || len(resp.GetChange().GetErrors()) == 0 || resp.GetChange().GetWritten() || file() != before {
		t.Errorf("what is wrong: %v, %v", resp, err)
	}
	resp, err := c.EditChain(ctx, insert("footer", behind))
	if err != nil || !resp.GetChange().GetInForce() || !strings.Contains(resp.GetChange().GetDiff(), "\n+      - {use: footer, on_error: skip}\n") {
		t.Fatalf("insert: %v, %v", resp, err)
	}
	if want := strings.Replace(before, "# scans\n", "# scans\n      - {use: footer, on_error: skip}\n", 1); file() != want {
		t.Errorf("the file is\n%s", file())
	}
	if n := footers(); n != 2 {
		t.Errorf("%d footers in text and HTML, after it was put in", n)
	}
	resp, err = c.EditChain(ctx, &adminv1.EditChainRequest{Chain: "outbound", Edit: &adminv1.EditChainRequest_Remove{Remove: &adminv1.RemoveUse{Stage: "footer"}}})
	if err != nil || !resp.GetChange().GetInForce() || file() != before {
		t.Fatalf("remove: %v, %v\n%s", resp, err, file())
	}
	if n := footers(); n != 0 {
		t.Errorf("%d footers after it was taken out", n)
	}
	got, err := c.GetConfig(ctx, &adminv1.GetConfigRequest{})
	if err != nil || got.GetText() != before || got.GetRunning() != got.GetRevision() || !got.GetWritable() || got.GetRefused() != "" {
		t.Errorf("%v, %v", got, err)
	}
}
