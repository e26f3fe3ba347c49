package ingress

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/internal/config"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/depot"
)

const (
	// downLong is how long something may be down before that is more than a warning.
	downLong = 15 * time.Minute
	// retryLong is how long the oldest mail may be tried again and again.
	retryLong = 4 * time.Hour
	// filledMuch is the part of a limit from which an operator is told; intake stops at 0.8.
	filledMuch = 0.7
	// certificateSoon and certificateNow are before its end.
	certificateSoon = 14 * 24 * time.Hour
	certificateNow  = 7 * 24 * time.Hour
)

// problems are what an operator should know of a status, the worst first. What follows from another problem, like a log
// that does not answer because NATS is gone, is not said twice.
func (in *Ingress) problems(cfg *config.Config, s *adminv1.GetStatusResponse) []*adminv1.Problem {
	p := &findings{now: in.now()}
	away := in.natsAway()
	if away != "" {
		p.critical("NATS cannot be reached ("+away+"): no mail is accepted and none goes out; clients hear 451 and try again", "start NATS, or mend the way to it; nothing is lost, and all goes on by itself")
	}
	for _, shard := range s.GetShards() {
		p.shard(shard, away != "")
	}
	for _, b := range s.GetBarriers() {
		p.barrier(b)
	}
	if cert, ok := in.smtp.Certificate(); ok && slices.ContainsFunc(s.GetListeners(), func(l *adminv1.Listener) bool { return l.GetCertificateEnds() != nil }) {
		p.certificate(cfg, cert.Ends, cert.SelfSigned, cert.Broken, s.GetListeners())
	}
	if s.GetHeld() {
		p.warning("started with --hold: mail is accepted, and nothing is sent", "look through the queue, then start without --hold")
	}
	for _, r := range s.GetRooms() {
		p.room(r)
	}
	return p.worstFirst()
}

// findings are problems in the making.
type findings struct {
	now  time.Time
	list []*adminv1.Problem
}

func (p *findings) worstFirst() []*adminv1.Problem {
	slices.SortStableFunc(p.list, func(a, b *adminv1.Problem) int { return cmp.Compare(b.GetSeverity(), a.GetSeverity()) })
	return p.list
}

func (p *findings) critical(text, remedy string) {
	p.list = append(p.list, &adminv1.Problem{Severity: adminv1.Severity_SEVERITY_CRITICAL, Text: text, Remedy: remedy})
}

func (p *findings) warning(text, remedy string) {
	p.list = append(p.list, &adminv1.Problem{Severity: adminv1.Severity_SEVERITY_WARNING, Text: text, Remedy: remedy})
}

func (p *findings) shard(s *adminv1.Shard, natsAway bool) {
	switch {
	case s.GetStopped() == shardFull:
		p.critical(fmt.Sprintf("shard %s takes no more mail (%s): clients hear 452", s.GetName(), s.GetReason()),
			"make room: find out why mail waits and let it go, delete what is not wanted, or free the disk under NATS")
	case s.GetStopped() == shardLost:
		p.critical(fmt.Sprintf("shard %s is lost to this process (%s): clients hear 451", s.GetName(), s.GetReason()),
			"see that no other process runs as this instance; it is asked for again by itself")
	case s.GetStopped() == shardDown && !natsAway:
		p.critical(fmt.Sprintf("the log of shard %s does not answer (%s): clients hear 451", s.GetName(), s.GetReason()),
			"look at NATS: its disk, its log, whether its cluster has a leader")
	case s.GetFilled() > filledMuch:
		p.warning(fmt.Sprintf("shard %s: a stream is filled to %d%% of its limit; at 80%% no more mail is accepted", s.GetName(), int(s.GetFilled()*100)),
			"find out why mail waits and let it go, or delete what is not wanted")
	}
	if s.GetAdopted() {
		p.warning("shard "+s.GetName()+" was taken over: its ingress is gone", "start that ingress again, or leave it: the shard is worked until it is empty")
	}
}

func (p *findings) barrier(b *adminv1.Barrier) {
	long, waiting := ago(p.now.Sub(b.GetSince().AsTime())), count(b.GetWaiting(), "message waits", "messages wait")
	switch {
	case b.GetBy() != "":
		text := fmt.Sprintf("route %s is paused for %s by %s; %s", b.GetName(), long, b.GetBy(), waiting)
		if b.GetReason() != "" {
			text += " (" + b.GetReason() + ")"
		}
		p.warning(text, "when the reason is gone: `stagecoach route resume "+b.GetName()+"`")
	case b.GetKind() == string(chain.AboutDestination): // others' troubles; what is old is told by the room retry
	default:
		add := p.warning
		if p.now.Sub(b.GetSince().AsTime()) >= downLong {
			add = p.critical
		}
		text, remedy := fmt.Sprintf("%s %s is down for %s; %s: %s", b.GetKind(), b.GetName(), long, waiting, b.GetReason()), "start it, or mend the way to it; its mail goes on by itself"
		switch {
		case b.GetKind() == string(chain.AboutRoute) && loginRefused(b.GetReason()):
			text = fmt.Sprintf("route %s: the login is refused for %s; %s: %s", b.GetName(), long, waiting, b.GetReason())
			remedy = "correct the user name or the password of the route; it is read anew at the next try"
		case b.GetKind() == string(chain.AboutRoute):
			remedy = "see whether its host can be reached, and what it answers; its mail goes on by itself"
		}
		add(text, remedy)
	}
}

// loginRefused says that a route is down because its host wants another login: RFC 4954, sections 4 and 6.
func loginRefused(reason string) bool {
	return strings.Contains(reason, "AUTH") || strings.Contains(reason, "530 ") || strings.Contains(reason, "535 ") || strings.Contains(reason, "534 ")
}

func (p *findings) certificate(cfg *config.Config, ends time.Time, self bool, broken string, listeners []*adminv1.Listener) {
	left := ends.Sub(p.now)
	text := fmt.Sprintf("the certificate of the listeners ends in %s, on %s", ago(left), ends.UTC().Format(time.DateOnly))
	remedy := "renew it: the files of ingress.certificate are read again when they change"
	switch {
	case left <= 0:
		p.critical("the certificate of the listeners has ended on "+ends.UTC().Format(time.DateOnly), remedy)
	case left <= certificateNow:
		p.critical(text, remedy)
	case left <= certificateSoon:
		p.warning(text, remedy)
	}
	if broken != "" {
		p.warning("the certificate's files are not taken, the former ones stay in use: "+plainText(broken), "correct the files of ingress.certificate: a certificate and the key that belongs to it")
	}
	if !self {
		return
	}
	for _, l := range listeners {
		if l.GetSelfSigned() && public(l.GetAddress()) {
			p.warning(fmt.Sprintf("listener %s (%s) shows a self-signed certificate, which no client can verify", l.GetName(), l.GetAddress()), "set ingress.certificate to one for "+cfg.Hostname)
		}
	}
}

func (p *findings) room(r *adminv1.Room) {
	n := r.GetMessages()
	if n == 0 {
		return
	}
	age := p.now.Sub(r.GetOldest().AsTime())
	oldest := ", the oldest for " + ago(age)
	switch depot.Room(r.GetName()) {
	case depot.Quarantine:
		p.warning(count(n, "message is", "messages are")+" in quarantine"+oldest, "look at them with `stagecoach quarantine list`, and release or delete them")
	case depot.Dead:
		p.warning(count(n, "message is", "messages are")+" dead"+oldest+": neither delivered nor reported", "see why with `stagecoach quarantine list --dead`, mend it, and release or delete them")
	case depot.Retry:
		if age > retryLong {
			p.warning(count(n, "message is", "messages are")+" tried again and again"+oldest, "see with `stagecoach queue list --room retry` what their destinations answer")
		}
	}
}

func count(n uint64, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, more)
}
