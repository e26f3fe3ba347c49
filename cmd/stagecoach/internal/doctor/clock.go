package doctor

import (
	"context"
	"time"
)

// maxClockError is what the log of a mail server, TLS and signatures bear without trouble.
const maxClockError = 5 * time.Second

const clockRemedy = "Run one of systemd-timesyncd, chrony or ntpd; `timedatectl` and `chronyc tracking` show how it is."

// checkClock asks the kernel whether something keeps its clock right. A wrong one makes certificates fail, signatures
// lie in the future, and retries come at the wrong time.
func checkClock(_ context.Context, e *Env) []Finding {
	var n notes
	s, err := e.Clock.State()
	switch {
	case err != nil:
		n.info("", "the kernel does not tell about its clock: %v", err)
	case !s.Synchronised:
		n.warn("", clockRemedy, "nothing keeps the clock of this machine right: it is %s here", e.Now().Format(time.RFC3339))
	case s.Error > maxClockError:
		n.warn("", clockRemedy, "the clock may be wrong by %v", s.Error.Round(time.Millisecond))
	default:
		n.ok("", "is kept right, within %v", s.Error.Round(time.Millisecond))
	}
	return n
}
