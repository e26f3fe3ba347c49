package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

// statusWithin bounds what a monitor waits for.
const statusWithin = 10 * time.Second

func (a *app) statusCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "status",
		Short: "Tell how it is, on one screen",
		Long: `Tell how it is, on one screen: what is wrong and what to do about it, the mail under way and waiting, what is down or
paused, the logs of accepted mail, the listeners.

For monitoring: the exit code is 0 if all is well, 1 with warnings, 2 if something is critical or nothing answers
within 10 seconds.`,
		Example: `  stagecoach status
  stagecoach status --json
  stagecoach status > /dev/null || echo "somebody look at the mail"`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.asked(cmd, func(ctx context.Context, conn clientConn, o *output) error {
				ctx, cancel := context.WithTimeout(ctx, statusWithin)
				defer cancel()
				s, err := adminv1.NewStatusServiceClient(conn).GetStatus(ctx, &adminv1.GetStatusRequest{})
				if err != nil {
					return err
				}
				if o.asJSON {
					if err := o.message(s); err != nil {
						return err
					}
				} else {
					o.status(s)
				}
				return ExitWith(health(s))
			})
		},
	}
	a.connection(c)
	a.printing(c)
	return c
}

// health is the exit code that a status stands for. A severity that is not known counts as critical.
func health(s *adminv1.GetStatusResponse) int {
	code := ExitDone
	if s.GetHeld() {
		code = ExitPartly
	}
	for _, p := range s.GetProblems() {
		if p.GetSeverity() == adminv1.Severity_SEVERITY_WARNING {
			code = max(code, ExitPartly)
		} else {
			code = ExitFailed
		}
	}
	return code
}

func (o *output) status(s *adminv1.GetStatusResponse) {
	well := map[int]span{ExitDone: in(green, "well"), ExitPartly: in(yellow, "warnings"), ExitFailed: in(red, "critical")}[health(s)]
	o.line(0, in(bold, "%s", s.GetHostname()), text(": "), well)
	since := ""
	if s.GetStarted() != nil {
		since = ", up since " + o.moment(s.GetStarted())
	}
	o.line(0, in(faint, "stagecoach %s%s, configuration %.12s", s.GetVersion(), since, s.GetRevision()))
	if s.GetHeld() {
		o.line(0, in(yellow, "Nothing is sent: it was started with --hold."))
	}
	o.problems(s.GetProblems())
	o.rooms(s)
	o.barriers(s.GetBarriers())
	o.shards(s.GetShards())
	o.listeners(s.GetListeners())
	if s.GetDurability() != "" {
		o.blank()
		o.line(0, in(faint, "Durability: "), text("%s", s.GetDurability()))
	}
}

func (o *output) section(name string) {
	o.blank()
	o.line(0, in(bold, "%s", name))
}

// sectionTable is a table as a part of a text: aligned in a pipe as well.
func (o *output) sectionTable(t *table) {
	was := o.terminal
	o.terminal = true
	o.table(2, t)
	o.terminal = was
}

func (o *output) problems(list []*adminv1.Problem) {
	if len(list) == 0 {
		return
	}
	o.section("Problems")
	for _, p := range list {
		word, s := "critical", red
		if p.GetSeverity() == adminv1.Severity_SEVERITY_WARNING {
			word, s = "warning", yellow
		}
		o.line(2, in(s, "%-8s  ", word), text("%s", p.GetText()))
		if p.GetRemedy() != "" {
			o.line(12, in(faint, "%s", p.GetRemedy()))
		}
	}
}

func (o *output) rooms(s *adminv1.GetStatusResponse) {
	o.section("Mail")
	t := &table{}
	t.add(text("under way"), text("%s", count(int(s.GetRunning()), "message")))
	for _, r := range s.GetRooms() {
		if r.GetMessages() == 0 {
			continue
		}
		oldest := ""
		if r.GetOldest() != nil {
			oldest = "oldest " + o.past(r.GetOldest())
		}
		t.add(in(roomStyle(r.GetName()), "%s", r.GetName()), text("%s", count(int(r.GetMessages()), "message")), text("%s", count(int(r.GetRecipients()), "recipient")), text("%s", bytesText(r.GetBytes())), text("%s", oldest))
	}
	o.sectionTable(t)
}

// past is a time in one column: relative on a terminal.
func (o *output) past(t *timestamppb.Timestamp) string {
	if o.terminal && !o.utc {
		return o.when(t)
	}
	return o.stamp(t)
}

func (o *output) barriers(list []*adminv1.Barrier) {
	if len(list) == 0 {
		return
	}
	o.section("Down or paused")
	t := &table{flexible: []int{4}}
	for _, b := range list {
		state, why := in(red, "down"), b.GetReason()
		if b.GetBy() != "" {
			state, why = in(yellow, "paused"), because("by "+b.GetBy(), b.GetReason())
		}
		t.add(text("%s %s", kindWord(b.GetKind()), b.GetName()), state, text("since %s", o.past(b.GetSince())), text("%d waiting", b.GetWaiting()), text("%s", why))
	}
	o.sectionTable(t)
}

func kindWord(kind string) string {
	if kind == "hop" {
		return "stage"
	}
	return kind
}

func (o *output) shards(list []*adminv1.Shard) {
	if len(list) == 0 {
		return
	}
	o.section("Logs of accepted mail")
	t := &table{}
	for _, s := range list {
		state := in(green, "accepts mail")
		if s.GetStopped() != "" {
			state = in(red, "%s", because("accepts none: "+s.GetStopped(), s.GetReason()))
		}
		adopted := ""
		if s.GetAdopted() {
			adopted = "taken over"
		}
		t.add(text("%s", s.GetName()), state, text("%.0f%% full", 100*s.GetFilled()), text("%s", adopted))
	}
	o.sectionTable(t)
}

func (o *output) listeners(list []*adminv1.Listener) {
	if len(list) == 0 {
		return
	}
	o.section("Listeners")
	t := &table{}
	for _, l := range list {
		cert := in(faint, "no TLS")
		switch ends := l.GetCertificateEnds(); {
		case ends == nil:
		case !ends.AsTime().After(o.now()):
			cert = in(red, "certificate ended %s", o.past(ends))
		default:
			cert = text("certificate ends %s", o.past(ends))
		}
		if l.GetSelfSigned() {
			cert.text += ", self-signed"
		}
		t.add(text("%s", l.GetName()), text("%s", l.GetAddress()), cert)
	}
	o.sectionTable(t)
}
