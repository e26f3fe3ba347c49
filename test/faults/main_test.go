// Package faults kills, stops and cuts off the parts of whole installations under load, and then compares what the
// clients were told with what arrived.
package faults

import (
	"os"
	"testing"

	"github.com/stagecoachmail/stagecoach/test/rig"
)

func TestMain(m *testing.M) {
	code := m.Run()
	rig.Cleanup()
	os.Exit(code)
}
