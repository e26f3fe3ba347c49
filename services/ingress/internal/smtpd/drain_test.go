package smtpd

import "testing"

// Out of service nothing new is taken, what is being received is finished, and nothing of the configuration is lost.
func TestDrain(t *testing.T) {
	r := newRig(t, nil)
	r.intake.slow = make(chan struct{})
	idle, busy := r.hello("mx"), r.hello("mx")
	busy.script(toData, "S: 354", "C: x: y")
	if n := r.server.Sessions(); n != 2 {
		t.Errorf("%d sessions", n)
	}
	r.server.Drain(true)
	idle.script("S: 421 4.3.2", "S: EOF")
	r.dial("mx").script("S: 421 4.3.2", "S: EOF")
	close(r.intake.slow)
	busy.script("C: .", "S: 250 2.0.0", "S: 421 4.3.2", "S: EOF")
	r.server.Drain(true)
	r.server.Drain(false)
	r.hello("mx").script(toData, "S: 354", "C: x: y", "C: .", "S: 250 2.0.0", "C: QUIT", "S: 221")
}
