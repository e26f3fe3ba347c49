//go:build interop

package interop

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	stagev1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/stage/v1"
	"github.com/stagecoachmail/stagecoach/test/rig"
)

const pythonBody = `
domains:
  - {name: example.com, recipients: any}
relay:
  - {name: loopback, networks: ["127.0.0.0/8"]}
stages:
  antivirus: {address: "{{antivirus}}", config: {}}
  labeler: {address: "{{labeler}}", traits: [], process_only: true, timeout: 2s}
STAGES
chains:
  - {name: inbound, match: {direction: [inbound, internal]}, stages: [], deliver: provider}
CHAINS
  - {name: short, match: {recipients: "*@example.org"}, stages: [antivirus], deliver: provider}
  - name: outbound
    match: {direction: outbound}
    stages: [antivirus]
    deliver: provider
routes:
  provider: ROUTE
`

const label = "X-Label: seen by labeler\r\n"

// python is the stage of docs/stages.md beside an installation.
type python struct {
	r    *rig.Rig
	t    testing.TB // with which its processes end
	proc *rig.Proc
}

// newPython makes the generated code and the certificate.
func newPython(r *rig.Rig) *python {
	r.T.Helper()
	need(r.T, "/usr/bin/python3")
	if out, err := try(r.T, "", "/usr/bin/python3", "-c", "import grpc, grpc_tools"); err != nil {
		lacking(r.T, "python3-grpcio or python3-grpc-tools is not installed: run test/interop/install as root\n"+out)
	}
	r.CA.Issue(r.T, r.Path("pki"), "labeler", "labeler")
	if err := os.Mkdir(r.Path("python"), 0o700); err != nil {
		r.T.Fatal(err)
	}
	run(r.T, "", "/usr/bin/python3", "-m", "grpc_tools.protoc", "-I", filepath.Join("..", "..", "proto", "stagecoach", "stage", "v1"),
		"--python_out="+r.Path("python"), "--grpc_python_out="+r.Path("python"), "stage.proto")
	for _, file := range []string{filepath.Join("..", "..", "stage", "example", "python", "labeler.py"), filepath.Join("testdata", "broken.py")} {
		text, err := os.ReadFile(file)
		if err != nil {
			r.T.Fatal(err)
		}
		r.WriteFile(filepath.Join("python", filepath.Base(file)), string(text))
	}
	return &python{r: r, t: r.T}
}

// body is the configuration: for each broken answer it has a stage and a chain of their own, since after a failure a stage
// gets one message at a time.
func (p *python) body(route string) string {
	var stages, chains []string
	for word := range brokenAnswers {
		stages = append(stages, "  "+word+`: {type: labeler, address: "{{labeler}}", traits: [], process_only: true, timeout: 2s}`)
		chains = append(chains, fmt.Sprintf("  - {name: %s, match: {recipients: %[1]s@example.net}, stages: [%[1]s], deliver: provider}", word))
	}
	return strings.NewReplacer("ROUTE", route, "STAGES", strings.Join(stages, "\n"), "CHAINS", strings.Join(chains, "\n")).Replace(pythonBody)
}

// start puts a program into the place of the one that runs, and waits until it listens.
func (p *python) start(program string, more ...string) {
	p.r.T.Helper()
	if p.proc != nil {
		p.proc.Kill()
	}
	args := append([]string{p.r.Path("python", program), p.r.Addr("labeler"), p.r.Path("pki"), "labeler"}, slices.Collect(maps.Keys(brokenAnswers))...)
	args = append(args, more...)
	inner := p.r.T
	p.r.T = p.t
	p.proc = p.r.StartForeign("labeler", "/usr/bin/python3", args...)
	p.r.T = inner
	p.r.Eventually(program+" listens", 20*time.Second, func() bool {
		if !p.proc.Running() {
			p.r.T.Fatalf("%s has ended", program)
		}
		conn, err := net.DialTimeout("tcp", p.r.Addr("labeler"), time.Second)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
}

// sent is a message of a stream of mail.
type sent struct {
	id string
	// before and after it was accepted.
	before, after time.Time
}

// flow sends a message every 50 ms until stop is called, which gives what was sent.
func flow(r *rig.Rig) (stop func() []sent) {
	end, over := make(chan struct{}), make(chan []sent)
	go func() {
		var all []sent
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for n := 0; ; n++ {
			s := sent{before: time.Now()}
			var err error
			if s.id, err = r.Send("alice@example.com", []string{"bob@example.net"}, plain(fmt.Sprintf("flow %d", n), "Good morning.\n")); err != nil {
				r.T.Errorf("not accepted: %v", err)
			}
			s.after = time.Now()
			all = append(all, s)
			select {
			case <-tick.C:
			case <-end:
				over <- all
				return
			}
		}
	}()
	return sync.OnceValue(func() []sent { close(end); return <-over })
}

// A stage in Python is put into a chain while mail flows; it edits, it holds, and while it is gone mail waits.
func TestPythonStage(t *testing.T) {
	for _, mode := range []rig.Mode{rig.Up, rig.Services} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			testPythonStage(t, mode)
		})
	}
}

func testPythonStage(t *testing.T, mode rig.Mode) {
	r := rig.New(t, mode)
	r.People = "{name: alice, role: admin}"
	py := newPython(r)
	runner := "up" // of a stage that is the first of its chain
	if mode == rig.Services {
		runner = "ingress-one"
	}
	sink := r.NewSink("smarthost")
	r.Configure(py.body(sink.Route()))
	py.start("labeler.py")
	r.Start()
	bob := []string{"bob@example.net"}

	r.Run("inserted while mail flows", func(t *testing.T) {
		stop := flow(r)
		defer stop()
		more := func(n int) {
			n += len(sink.Deliveries())
			r.Eventually("mail flows", 20*time.Second, func() bool { return len(sink.Deliveries()) >= n })
		}
		more(4)
		asked := time.Now()
		resp, err := adminv1.NewConfigServiceClient(r.Operator()).EditChain(t.Context(), &adminv1.EditChainRequest{Chain: "outbound", Edit: &adminv1.EditChainRequest_Insert{
			Insert: &adminv1.InsertUse{Use: &adminv1.ConfigUse{Stage: "labeler"}, Place: &adminv1.UsePlace{Place: &adminv1.UsePlace_After{After: "antivirus"}}}}})
		if err != nil || !resp.GetChange().GetInForce() {
			t.Fatalf("%v, %v", resp, err)
		}
		answered := time.Now()
		more(8)
		var before, after int
		for _, s := range stop() {
			n := bytes.Count(sink.Wait(s.id, 20*time.Second).Raw, []byte(label))
			switch {
			case s.after.Before(asked):
				if before++; n != 0 {
					t.Error("labelled before the stage was in the chain")
				}
			case s.before.After(answered):
				if after++; n != 1 {
					t.Errorf("%d labels when the stage was in the chain", n)
				}
			case n > 1:
				t.Errorf("%d labels", n)
			}
		}
		if before < 3 || after < 3 {
			t.Errorf("%d before, %d after", before, after)
		}
	})
	r.Run("holds", func(t *testing.T) {
		id := r.MustSend("alice@example.com", bob, plain("Urgent: =?utf-8?q?Wire_Transf=65r?=", "Now!\n"))
		var held *adminv1.WaitingMessage
		r.Eventually("it is held", 20*time.Second, func() bool { held = inRoom(r, "quarantine", id); return held != nil })
		if text := held.GetGroups()[0].GetLast().String(); !strings.Contains(text, "speaks of a wire transfer") {
			t.Errorf("held for another reason: %s", text)
		}
	})
	r.Run("large", func(t *testing.T) {
		raw := withAttachment("large", "noise.bin", noise(8<<20))
		if got := sink.Wait(r.MustSend("alice@example.com", bob, raw), 30*time.Second).Raw; !bytes.Contains(got, []byte(label)) || !strings.HasSuffix(string(got), textOf([]byte(raw))) {
			t.Error("it is not labelled, or its body has changed")
		}
	})
	r.Run("killed", func(t *testing.T) {
		py.proc.Kill()
		id := r.MustSend("alice@example.com", bob, plain("while it is gone", "Good morning.\n"))
		r.Eventually("it waits", 20*time.Second, func() bool {
			w := inRoom(r, "park", id)
			return w != nil && w.GetGroups()[0].GetLast().GetAbout() == "labeler"
		})
		sink.Wait(r.MustSend("alice@example.com", []string{"carol@example.org"}, plain("another chain", "Good morning.\n")), 10*time.Second)
		if len(sink.Find(id)) != 0 {
			t.Error("it went out without the stage")
		}
		py.start("labeler.py")
		if raw := sink.Wait(id, 30*time.Second).Raw; bytes.Count(raw, []byte(label)) != 1 {
			t.Error("it is not labelled")
		}
	})
	r.Run("broken", func(t *testing.T) {
		py.start("broken.py", "as it is")
		waits := map[string]string{}
		for word := range brokenAnswers {
			waits[word] = r.MustSend("alice@example.com", []string{word + "@example.net"}, header("broken "+word)+"X-Filler: "+strings.Repeat("x", 400)+"\r\n\r\n"+strings.Repeat("Good morning.\r\n", 40))
		}
		for word, want := range brokenAnswers {
			var last string
			for end := time.Now().Add(20 * time.Second); !strings.Contains(last, "by itself, about "+word+": ") || !says(last, want); time.Sleep(50 * time.Millisecond) {
				if w := inRoom(r, "", waits[word]); w != nil {
					g := w.GetGroups()[0]
					room := g.GetRoom()
					if room == "retry" || room == "park" {
						room = "a room that it leaves by itself"
					}
					last = fmt.Sprintf("%s, about %s: %s", room, g.GetLast().GetAbout(), g.GetLast().GetReason())
				}
				if time.Now().After(end) {
					t.Fatalf("broken %s is in %s", word, last)
				}
			}
			if !logged(r, runner, "stage failed", waits[word], "on_error=defer") {
				t.Errorf("broken %s: the log does not say that the stage failed", word)
			}
		}
		py.start("labeler.py")
		for word, id := range waits {
			if len(sink.Find(id)) != 0 {
				t.Errorf("broken %s went out", word)
			}
			if _, err := r.Queue("one").RetryMessages(t.Context(), &adminv1.RetryMessagesRequest{Filter: &adminv1.Filter{Ids: []string{id}}}); err != nil {
				t.Error(err)
			}
		}
		for word, id := range waits {
			if raw := sink.Wait(id, 30*time.Second).Raw; bytes.Count(raw, []byte(label)) != 1 {
				t.Errorf("broken %s is not labelled", word)
			}
		}
	})
	r.Run("greedy", func(t *testing.T) {
		py.proc.Kill()
		id := r.MustSend("alice@example.com", []string{"header@example.net"}, plain("greedy", "Good morning.\n"))
		r.Eventually("it is not there", 20*time.Second, func() bool { return inRoom(r, "park", id) != nil })
		py.start("broken.py", "greedy")
		r.Eventually("it waits", 20*time.Second, func() bool {
			w := inRoom(r, "", id)
			return w != nil && strings.Contains(w.GetGroups()[0].GetLast().String(), "more than the configuration expects")
		})
		py.start("labeler.py")
		sink.Wait(id, 30*time.Second)
	})
	r.Run("who may call", func(t *testing.T) {
		if err := callPython(r, "egress"); err == nil || !strings.Contains(err.Error(), "may not call a stage") {
			t.Errorf("egress may have a message judged: %v", err)
		}
		if err := callPython(r, "ingress"); err == nil || !strings.Contains(err.Error(), "not whole") {
			t.Errorf("ingress with half a message: %v", err)
		}
	})
}

// callPython asks the stage, with the certificate of another service, to judge a message that has no end.
func callPython(r *rig.Rig, who string) error {
	pair, err := tls.LoadX509KeyPair(r.Path("pki", who+".pem"), r.Path("pki", who+"-key.pem"))
	if err != nil {
		return err
	}
	conn, err := grpc.NewClient(r.Addr("labeler"), grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: r.CA.Pool, ServerName: "labeler"})))
	if err != nil {
		return err
	}
	defer conn.Close()
	call, err := stagev1.NewStageServiceClient(conn).Process(r.T.Context())
	if err != nil {
		return err
	}
	begin := &stagev1.ProcessRequest{Kind: &stagev1.ProcessRequest_Begin{Begin: &stagev1.ProcessBegin{Id: "x"}}}
	if err := errors.Join(call.Send(begin), call.CloseSend()); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	_, err = call.Recv()
	return err
}

// says finds one of the texts, with | between.
func says(said, texts string) bool {
	return slices.ContainsFunc(strings.Split(texts, "|"), func(text string) bool { return strings.Contains(said, text) })
}

// brokenAnswers are the words of broken.py, each with what is said of such an answer.
var brokenAnswers = map[string]string{
	"header": "edits the header", "body": "edits the body", "beyond": "stage broke its contract", "overlap": "stage broke its contract",
	"half": "no header field", "large": "larger than max", "unset": "verdict 0", "verdict": "verdict 77", "envelope": "edits the envelope",
	"unknown": "not understood on the wire", "reject": "without a 5xx reply", "garbage": "unmarshal", "raises": "out of order",
	"slow": "no verdict within 2s|DeadlineExceeded", "silent": "EOF",
}
