//go:build faults

package faults

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	"github.com/stagecoachmail/stagecoach/test/rig"
)

const (
	// stopped is how long an ingress is paused: longer than its lease holds, and than another takes to adopt its shard.
	stopped = 30 * time.Second
	// heldBack is how many clients of the stopped ingress give their final dot while it is stopped.
	heldBack = 48
	// late is a recipient that the sink defers, so that the adopted shard is not empty before the test wants it.
	late = "late@example.net"
)

// stopIngress stops one of two ingresses under load for so long that the other adopts its shard. Clients of the
// stopped one are at every point of their transactions, and many have given their final dot when it goes on. Just
// then the adopted shard runs empty and is removed: what a stale owner still writes into it would be gone.
func stopIngress(t *testing.T, tags string) *installation {
	in := install(t, rig.Services, tags, "one", "two")
	in.sink.Refuse(late, 451, "not yet")
	waits := &client{load: in.load, name: "one-late", addr: in.Addr("smtp-one"), to: [][]string{{late}}}
	if err := sendOne(waits); err != nil {
		t.Fatal(err)
	}
	in.load.clients("one-", clientCount/2, in.Addr("smtp-one"), clientRest, one, two, both, short)
	in.load.clients("two-", clientCount/2, in.Addr("smtp-two"), clientRest, one, two, both, short)
	dots := in.holdBack(in.Addr("smtp-one"))
	<-time.After(2 * time.Second)
	in.Eventually("the late message waits", 10*time.Second, func() bool { return len(in.lateAt("one")) == 1 })

	end := time.Now().Add(stopped)
	goOn := in.stop("ingress-one", "one-")
	defer goOn()
	answered := dots()
	in.Eventually("the other adopts the shard", stopped, func() bool { return len(in.lateAt("two")) == 1 })
	<-time.After(time.Until(end))
	in.sink.Refuse(late, 0, "")
	goOn()
	if _, err := in.waiting["two"].RetryMessages(t.Context(), &adminv1.RetryMessagesRequest{Filter: &adminv1.Filter{Ids: in.lateAt("two")}}); err != nil {
		t.Error(err)
	}
	answered()
	<-time.After(3 * time.Second)
	return in
}

// sendOne makes one transaction over a connection of its own.
func sendOne(c *client) error {
	nc, err := dial(c.addr)
	if err != nil {
		return err
	}
	defer nc.Close()
	return c.message(nc)
}

// lateAt gives the ids of messages for late that wait at an ingress.
func (in *installation) lateAt(instance string) []string {
	resp, err := in.waiting[instance].ListMessages(in.T.Context(), &adminv1.ListMessagesRequest{Filter: rig.InRooms("retry"), PageSize: 1000}, grpc.WaitForReady(true))
	if err != nil {
		in.T.Fatal(err)
	}
	var ids []string
	for _, w := range resp.GetMessages() {
		for _, to := range w.GetEnvelope().GetRecipients() {
			if to.GetAddress() == late {
				ids = append(ids, w.GetId())
			}
		}
	}
	return ids
}

// holdBack opens many transactions and sends their messages without the final dot. dots gives the dots, and answered
// waits for the answers.
func (in *installation) holdBack(addr string) (dots func() (answered func())) {
	in.T.Helper()
	var open []*conn
	var sent []*sending
	for i := range heldBack {
		s := &sending{token: fmt.Sprintf("one-held%d-%d", i, smallBody), to: one}
		nc, err := dial(addr)
		if err != nil {
			in.T.Fatal(err)
		}
		in.T.Cleanup(func() { _ = nc.Close() })
		c := &client{load: in.load}
		if ok, err := c.open(nc, *s); !ok || err != nil {
			in.T.Fatal(ok, err)
		}
		if err := nc.body(s.token); err != nil {
			in.T.Fatal(err)
		}
		open, sent = append(open, nc), append(sent, s)
	}
	return func() func() {
		var wg sync.WaitGroup
		for i, nc := range open {
			wg.Go(func() {
				_ = nc.dot(sent[i]) // no answer is in the ledger
				in.load.note(*sent[i])
			})
		}
		return wg.Wait
	}
}

func TestStopIngress(t *testing.T) {
	t.Parallel()
	in := stopIngress(t, "")
	in.Eventually("the stopped ingress accepts mail again", 60*time.Second, func() bool {
		return sendOne(&client{load: in.load, name: fmt.Sprintf("one-back%d", time.Now().UnixMilli()), addr: in.Addr("smtp-one"), to: [][]string{one}}) == nil
	})
	in.settle(settling)
	in.clean()
}

// An egress that is stopped before its final dot must not give it when it goes on: by then the message is on its way
// again.
func TestStopEgress(t *testing.T) {
	t.Parallel()
	in := install(t, rig.Services, "")
	in.load.clients("c", clientCount/2, in.SMTP(), clientRest, one, two, both)
	for i := range 2 {
		stopping := make(chan func(), 1)
		var once sync.Once
		large := fmt.Sprintf("large%d-1-%d", i, 24<<20)
		in.sink.OnHead(func(head []byte) {
			if m := subject.FindSubmatch(head); m != nil && string(m[1]) == large {
				once.Do(func() { stopping <- in.stop("egress", "") })
			}
		})
		s := sending{token: large, to: one}
		nc, err := dial(in.SMTP())
		if err != nil {
			t.Fatal(err)
		}
		c := &client{load: in.load}
		if ok, err := c.open(nc, s); !ok || err != nil {
			t.Fatal(ok, err)
		}
		if err := nc.body(large); err != nil {
			t.Fatal(err)
		}
		if err := nc.dot(&s); err != nil || s.outcome != acked {
			t.Fatal(s.reply, err)
		}
		in.load.note(s)
		_ = nc.Close()
		select {
		case goOn := <-stopping:
			<-time.After(15 * time.Second)
			goOn()
		case <-time.After(30 * time.Second):
			t.Fatal("the large message does not come to the sink")
		}
		in.sink.Wait(s.id, 60*time.Second)
	}
	in.settle(settling)
	in.clean()
	for _, a := range in.arrivals() {
		if n := len(in.sink.Find(a.id)); n != 1 && a.token[0] == 'l' {
			t.Errorf("%s: %d copies; none of them had its final dot before the stop", a.token, n)
		}
	}
}
