//go:build faults

package faults

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stagecoachmail/stagecoach/test/rig"
)

// sees fails the test unless there are violations of a kind.
func (in *installation) sees(k kind) {
	in.T.Helper()
	n := 0
	for _, v := range in.judge() {
		if v.kind == k {
			if n++; n <= 3 {
				in.T.Logf("seen: %v", v)
			}
		}
	}
	if n == 0 {
		in.T.Errorf("the build %s is broken, and the ledger shows nothing %s", in.Tags, k)
	}
}

// A build that acknowledges before it appends loses mail when it is killed: the ledger must show it.
func TestAckBeforeAppendIsSeen(t *testing.T) {
	t.Parallel()
	in := install(t, rig.Up, "broken_ack")
	in.load.clients("c", clientCount, in.SMTP(), clientRest/4, one, two, both, short)
	for range 12 {
		<-time.After(100*time.Millisecond + rand.N(500*time.Millisecond))
		in.kill("up", 0)
		in.WaitSMTP("one")
	}
	in.settle(25 * time.Second)
	in.sees(lost)
}

// A build without the fence lets an owner that was stopped accept mail into a log that is another's.
func TestNoFenceIsSeen(t *testing.T) {
	t.Parallel()
	in := stopIngress(t, "broken_fence")
	in.settle(25 * time.Second)
	in.Proc("ingress-one").Kill() // it waits for a log that is gone
	in.sees(lost)
}
