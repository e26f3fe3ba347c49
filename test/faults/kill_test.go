//go:build faults

package faults

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stagecoachmail/stagecoach/test/rig"
)

const (
	// clientCount is how many clients send at once.
	clientCount = 8
	// clientRest is their longest rest between two messages.
	clientRest = 200 * time.Millisecond
	// settling is how long nothing may arrive after the last fault while something is missing: the minute in which
	// everything has to go on by itself (THREATS I6). What has piled up may take longer to be sent.
	settling = time.Minute
	// longEvery kill comes so late that what waited for its unknown outcome has just begun to run again.
	longEvery = 13
)

// moment waits for a random one.
func moment(i int) {
	d := 100*time.Millisecond + rand.N(1500*time.Millisecond)
	if i%longEvery == longEvery-1 {
		d = 15*time.Second + rand.N(1500*time.Millisecond)
	}
	<-time.After(d)
}

func TestKillUp(t *testing.T) {
	t.Parallel()
	in := install(t, rig.Up, "")
	in.load.clients("c", clientCount, in.SMTP(), clientRest, one, two, both, short)
	for i := range 50 {
		moment(i)
		in.kill("up", rand.N(200*time.Millisecond))
		in.WaitSMTP("one")
	}
	in.settle(settling)
	in.clean()
}

func TestKillServices(t *testing.T) {
	t.Parallel()
	in := install(t, rig.Services, "")
	in.load.clients("c", clientCount, in.SMTP(), clientRest, one, two, both, short)
	var victims []string
	for name, n := range map[string]int{"ingress-one": 12, "nats": 7, "egress": 11, "antivirus": 5, "disclaimer": 5, "archive": 5, "signer": 5} {
		for range n {
			victims = append(victims, name)
		}
	}
	rand.Shuffle(len(victims), func(i, j int) { victims[i], victims[j] = victims[j], victims[i] })
	for i, name := range victims {
		moment(i)
		in.kill(name, rand.N(300*time.Millisecond))
		in.WaitSMTP("one")
	}
	in.settle(settling)
	in.clean()
}
