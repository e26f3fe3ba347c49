package e2e

import (
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stagecoachmail/stagecoach/test/rig"
)

// sampleBody has the sample stage of docs/stages.md, which no other service is built with, amid built-in ones.
const sampleBody = `
domains:
  - {name: example.com, recipients: any}
stages:
  antivirus: {address: "{{antivirus}}", config: {}}
  tag:
    type: tagger
    address: "{{tagger}}"
    traits: [edits_header]
    timeout: 10s
    config: {tag: "[stranger]"}
  archive: {address: "{{archive}}", config: {}}
chains:
  - name: inbound
    match: {direction: inbound}
    stages: [antivirus, tag, archive]
    deliver: exchange
routes:
  exchange: ROUTE
`

// sample builds the program of the sample stage, and gives a function that starts it and returns one that stops it.
func sample(t *testing.T, r *rig.Rig) (start func() (stop func())) {
	t.Helper()
	work, err := exec.Command("go", "env", "GOWORK").Output()
	if err != nil {
		t.Fatal(err)
	}
	build := exec.Command("go", "build", "-o", r.Path("tagger"), "github.com/stagecoachmail/stagecoach/stage/example/tagger")
	build.Dir = filepath.Dir(strings.TrimSpace(string(work)))
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	r.CA.Issue(t, r.Path("pki"), "tagger", "tagger")
	return func() func() {
		var said strings.Builder
		cmd := exec.Command(r.Path("tagger"), "-config", r.ConfigFile())
		cmd.Dir, cmd.Stderr = r.Dir, &said
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		stopped := false
		stop := func() {
			if stopped {
				return
			}
			stopped = true
			_ = cmd.Process.Signal(syscall.SIGTERM)
			if err := cmd.Wait(); err != nil {
				t.Errorf("the sample stage ended with %v:\n%s", err, said.String())
			}
		}
		t.Cleanup(stop)
		return stop
	}
}

// The sample stage runs as a program of its own in a chain of built-in ones, whether these are in one process or not.
// When it is down its messages wait, and they go on when it is back.
func TestSampleStage(t *testing.T) {
	for _, mode := range []rig.Mode{rig.Up, rig.Services} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			r := rig.New(t, mode)
			sink := r.NewSink("exchange")
			r.Configure(strings.Replace(sampleBody, "ROUTE", sink.Route(), 1))
			start := sample(t, r)
			stop := start()
			r.Start()
			raw := crlf("From: a@elsewhere.example\nTo: b@example.com\nSubject: hello\nDate: Tue, 03 Feb 2026 04:05:06 +0000\nMessage-ID: <x@elsewhere.example>\n\nbody\n")
			arrives := func(id string, limit time.Duration) {
				t.Helper()
				d := sink.Wait(id, limit)
				i := strings.Index(string(d.Raw), "From: a@")
				if want := strings.Replace(raw, "Subject: hello", "Subject: [stranger] hello", 1); i < 0 || string(d.Raw[i:]) != want {
					t.Errorf("arrived:\n%s\nwant, after the Received fields:\n%s", d.Raw, want)
				}
			}
			arrives(r.MustSend("a@elsewhere.example", []string{"b@example.com"}, raw), 20*time.Second)
			stop()
			id := r.MustSend("a@elsewhere.example", []string{"b@example.com"}, raw)
			r.Eventually("the message waits for the stage", 20*time.Second, func() bool {
				waiting := r.InRoom("park")
				return len(waiting) == 1 && waiting[0].GetId() == id && waiting[0].GetGroups()[0].GetLast().GetAbout() == "tag"
			})
			if len(sink.Find(id)) > 0 {
				t.Error("it went on without the stage")
			}
			start()
			arrives(id, 40*time.Second)
		})
	}
}
