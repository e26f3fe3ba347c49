package faults

import (
	"testing"
	"time"

	"github.com/stagecoachmail/stagecoach/test/rig"
)

// A restart in good order, under load, is no fault: nothing is lost and nothing is doubled, not even once.
func TestRestart(t *testing.T) {
	t.Parallel()
	in := install(t, rig.Up, "")
	in.load.clients("c", 4, in.SMTP(), 50*time.Millisecond, one, two, both, short)
	for range 2 {
		<-time.After(700 * time.Millisecond)
		if err := in.Proc("up").Stop(45 * time.Second); err != nil {
			t.Fatal(err)
		}
		in.StartProc("up")
		in.WaitSMTP("one")
	}
	<-time.After(300 * time.Millisecond)
	in.load.stop()
	in.Eventually("everything accepted has arrived", 20*time.Second, func() bool { return in.missing() == 0 })
	in.clean()
}
