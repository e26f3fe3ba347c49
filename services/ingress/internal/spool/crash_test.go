package spool_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/spool"
)

// The child is a process with an embedded server and writers that tell, line by line, what was promised to them:
//
//	A id   accepted: a 250 may have been given
//	V id   void
//	e id   about to be settled as ended
//	E id   settled as ended
//	W id   settled as waiting
//
// Its parent kills it and looks at what is left.
func child(dir string) {
	srv, err := startServer(dir)
	check(err)
	nc, err := nats.Connect("", nats.InProcessServer(srv))
	check(err)
	ctx := context.Background()
	process := os.Getenv("SPOOL_TEST_PROCESS")
	o := spool.Options{Conn: nc, Instance: "mx", Process: process, ExclusiveOwner: true, Times: quick()}
	if os.Getenv("SPOOL_TEST_FAULT") == "hasty" {
		o = o.WithWire(spool.Hasty)
	}
	s, _, err := spool.Open(ctx, o)
	check(err)
	say := func(what, id string) {
		_, err := os.Stdout.WriteString(what + " " + id + "\n")
		check(err)
	}
	for w := range 12 {
		go func() {
			for i := 0; ; i++ {
				id := fmt.Sprintf("%s-%d-%d", process, w, i)
				b := s.NewBody(ctx, id)
				_, err := b.Write(bodyOf(id))
				check(err)
				body, err := b.Finish()
				check(err)
				err = s.Accept(ctx, accepted(id, body, "r"))
				if errors.Is(err, spool.ErrDown) { // too slow to renew the lease
					continue
				}
				check(err)
				if i%7 == 3 {
					// A client that never saw its 250; what was promised to nobody is not said.
					check(s.Void(ctx, id))
					say("V", id)
					continue
				}
				say("A", id)
				switch i % 4 {
				case 0:
					check(s.Settle(ctx, retry(id, time.Now().Add(time.Hour), "r")))
					say("W", id)
				case 1, 2:
					say("e", id)
					check(s.Settle(ctx, delivered(id, "r")))
					say("E", id)
				}
			}
		}()
	}
	select {}
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// bodyOf is the body of a message by its id: mostly small, one in fifty in chunks.
func bodyOf(id string) []byte {
	size := 900
	if strings.HasSuffix(id, "7") && strings.Contains(id, "-5-") {
		size = 300 << 10
	}
	return bytes.Repeat([]byte(id+"\r\n"), size/(len(id)+2))
}

// promises is what all children said.
type promises struct {
	accepted, void, ending, ended, waiting map[string]bool
}

func (p *promises) hear(line string) {
	what, id, _ := strings.Cut(line, " ")
	switch what {
	case "A":
		p.accepted[id] = true
	case "V":
		p.void[id] = true
	case "e":
		p.ending[id] = true
	case "E":
		p.ended[id] = true
	case "W":
		p.waiting[id] = true
	}
}

// crash lets a child run in dir, kills it at a random moment, and gives every broken promise.
func crash(t *testing.T, dir, process, fault string, p *promises) (broken []string) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "SPOOL_TEST_CHILD="+dir, "SPOOL_TEST_PROCESS="+process, "SPOOL_TEST_FAULT="+fault)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	lines := bufio.NewScanner(out)
	var kill *time.Timer
	for n := 0; lines.Scan(); n++ {
		if n == 0 {
			kill = time.AfterFunc(time.Duration(rand.IntN(250))*time.Millisecond, func() { _ = cmd.Process.Kill() })
		}
		p.hear(lines.Text())
	}
	if kill == nil {
		t.Fatalf("the child said nothing: %s", stderr.String())
	}
	kill.Stop()
	_ = cmd.Wait()
	if stderr.Len() > 0 && !strings.Contains(stderr.String(), "signal") {
		t.Fatalf("the child failed: %s", stderr.String())
	}

	srv, err := startServer(dir)
	must(t, err)
	defer func() { srv.Shutdown(); srv.WaitForShutdown() }()
	nc, err := nats.Connect("", nats.InProcessServer(srv))
	must(t, err)
	defer nc.Close()
	o := options(nc, "mx")
	o.Process, o.ExclusiveOwner = process+"-parent", true
	s, r, err := spool.Open(background(t), o)
	if err != nil {
		return []string{"open: " + err.Error()}
	}
	defer s.Kill()
	run := runIDs(r)
	held := func(id string) bool {
		m, ok := s.Waiting().Get(id)
		return ok && len(m.Groups) == 1
	}
	bad := func(why, id string) { broken = append(broken, why+" "+id) }
	checked := 0
	for id := range p.accepted {
		a := run[id]
		switch {
		case p.ended[id] && (a != nil || held(id)):
			bad("ended, and back:", id)
		case p.waiting[id] && !p.ending[id] && (a != nil || !held(id)):
			bad("does not wait:", id)
		case !p.ending[id] && !p.waiting[id] && a == nil && !held(id):
			bad("lost:", id)
		}
		if m, ok := s.Waiting().Get(id); ok && checked < 40 {
			var buf bytes.Buffer
			checked++
			if err := s.OpenBody(background(t), id, m.Body, &buf); err != nil || !bytes.Equal(buf.Bytes(), bodyOf(id)) {
				bad(fmt.Sprintf("body (%v):", err), id)
			}
		}
		if a != nil && checked < 80 {
			var buf bytes.Buffer
			checked++
			if err := s.OpenBody(background(t), id, a.Body, &buf); err != nil || !bytes.Equal(buf.Bytes(), bodyOf(id)) {
				bad(fmt.Sprintf("body (%v):", err), id)
			}
		}
	}
	for id := range p.void {
		if run[id] != nil || held(id) {
			bad("void, and back:", id)
		}
	}
	// Half of what runs is ended here, so that the next crash meets messages of every age.
	for id := range run {
		if p.accepted[id] && rand.IntN(2) == 0 {
			p.ending[id] = true
			must(t, s.Settle(background(t), &spool.Settled{ID: id, Ends: []spool.End{{
				Recipients: []mail.RecipientID{"r"}, Kind: spool.EndDelivered,
			}}}))
			p.ended[id] = true
		}
	}
	return broken
}

func newPromises() *promises {
	return &promises{map[string]bool{}, map[string]bool{}, map[string]bool{}, map[string]bool{}, map[string]bool{}}
}

func TestKillsAtRandomMoments(t *testing.T) {
	t.Parallel()
	dir, p := t.TempDir(), newPromises()
	rounds := 5
	if testing.Short() {
		rounds = 2
	}
	for i := range rounds {
		if broken := crash(t, dir, fmt.Sprintf("c%d", i), "", p); len(broken) > 0 {
			t.Fatalf("round %d: %d promises broken, among them %v", i, len(broken), broken[:min(5, len(broken))])
		}
	}
	t.Logf("%d kills: %d accepted, %d ended, %d waiting, %d void", rounds, len(p.accepted), len(p.ended), len(p.waiting), len(p.void))
	if len(p.accepted) < 100 || len(p.void) == 0 {
		t.Error("the children did too little for this to prove anything")
	}
}

// The same test must see an acknowledgement before the append.
func TestKillsShowAnAckBeforeTheAppend(t *testing.T) {
	t.Parallel()
	for i := range 5 {
		if broken := crash(t, t.TempDir(), fmt.Sprintf("h%d", i), "hasty", newPromises()); len(broken) > 0 {
			t.Logf("round %d: %d promises broken, as they should be, among them %v", i, len(broken), broken[:min(3, len(broken))])
			return
		}
	}
	t.Fatal("a spool that acknowledges before it appends was not noticed")
}
