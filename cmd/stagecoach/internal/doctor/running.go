package doctor

import (
	"context"
	"errors"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

// checkRunning asks the instance on this machine what it thinks of itself.
func checkRunning(ctx context.Context, e *Env) []Finding {
	var n notes
	s, err := e.Admin.Status(ctx)
	if errors.Is(err, errNotRunning) {
		if e.Up {
			n.info("", "stagecoach does not run on %s", e.Config.DataDir)
		}
		return n
	}
	if err != nil {
		n.warn("", "Run doctor as the user that stagecoach runs as, or as root.", "the running instance does not answer: %v", err)
		return n
	}
	if e.File != "" && s.GetRevision() != "" && s.GetRevision() != e.Config.Revision {
		n.warn("", "With `reload: watch` wait some seconds, then look into the log; else restart stagecoach.",
			"stagecoach runs revision %.12s of the configuration, not the one in %s (%.12s)", s.GetRevision(), e.File, e.Config.Revision)
	}
	if s.GetHeld() {
		n.warn("", "Start stagecoach without --hold when mail may leave.", "stagecoach was started with --hold: nothing is sent")
	}
	for _, p := range s.GetProblems() {
		remedy := p.GetRemedy()
		if remedy == "" {
			remedy = "See `stagecoach status`."
		}
		if p.GetSeverity() == adminv1.Severity_SEVERITY_CRITICAL {
			n.fail("", remedy, "%s", p.GetText())
		} else {
			n.warn("", remedy, "%s", p.GetText())
		}
	}
	if !n.bad() {
		n.ok("", "stagecoach %s runs since %s", s.GetVersion(), s.GetStarted().AsTime().Format("2006-01-02 15:04 MST"))
	}
	return n
}
