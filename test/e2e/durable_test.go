package e2e

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stagecoachmail/stagecoach/test/rig"
)

// A server that acknowledges what is not on disk yet is refused, with what to do about it.
func TestRefusesServerThatIsNotDurable(t *testing.T) {
	t.Parallel()
	r, _ := install(t, rig.PlainNATS)
	r.LazyNATS = true
	r.StartProc("nats")
	p := r.StartProc("ingress-one")
	r.Eventually("ingress ends", 20*time.Second, func() bool { return !p.Running() })
	log, err := os.ReadFile(r.Path("ingress-one.log"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(log), "sync_interval") {
		t.Errorf("the log does not say what to do:\n%s", log)
	}
}
