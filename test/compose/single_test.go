//go:build compose

package compose

import (
	"os/exec"
	"testing"
)

// Everything in one container: delivery, a stranger's relaying, a rule with the gateway, a stop and a start on the same data.
func TestSingle(t *testing.T) {
	out, err := exec.Command("../../deploy/compose/test").CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
}
