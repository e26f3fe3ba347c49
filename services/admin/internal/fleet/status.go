package fleet

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

const (
	// mostDestinations is how many destinations a status names.
	mostDestinations = 20
	destination      = "destination"
	// certificateSoon and certificateNow are before the end of an identity.
	certificateSoon = 14 * 24 * time.Hour
	certificateNow  = 7 * 24 * time.Hour
)

// Status tells how the installation is.
func (f *Fleet) Status() adminv1.StatusServiceServer { return &statuses{f: f} }

type statuses struct {
	adminv1.UnimplementedStatusServiceServer
	f *Fleet
}

// GetStatus implements the service. What is not there is a problem, and no error.
func (s *statuses) GetStatus(ctx context.Context, r *adminv1.GetStatusRequest) (*adminv1.GetStatusResponse, error) {
	var nodes []*adminv1.Node
	var asking sync.WaitGroup
	asking.Go(func() { nodes = s.f.states(ctx, "") })
	answers := each(ctx, s.f, ingress, nodeWithin, adminv1.NewStatusServiceClient, adminv1.StatusServiceClient.GetStatus, r)
	asking.Wait()
	var said []answer[*adminv1.GetStatusResponse]
	for _, a := range answers {
		if a.err == nil {
			said = append(said, a)
		}
	}
	out := oneStatus(said)
	cfg := s.f.o.Config()
	if len(said) == 0 {
		out.Hostname, out.Revision = cfg.Hostname, cfg.Revision
	}
	out.Problems = append(out.Problems, s.f.problems(nodes)...)
	slices.SortStableFunc(out.Problems, func(a, b *adminv1.Problem) int { return cmp.Compare(b.GetSeverity(), a.GetSeverity()) })
	return out, nil
}

// oneStatus makes one status of those of several ingresses.
func oneStatus(said []answer[*adminv1.GetStatusResponse]) *adminv1.GetStatusResponse {
	out := &adminv1.GetStatusResponse{}
	rooms, durable := map[string]*adminv1.Room{}, []string{}
	for i, a := range said {
		s := a.value
		if i == 0 {
			out.Hostname, out.Version, out.Revision = s.GetHostname(), s.GetVersion(), s.GetRevision()
		}
		if out.Started == nil || s.GetStarted().AsTime().Before(out.Started.AsTime()) {
			out.Started = s.GetStarted()
		}
		out.Shards = append(out.Shards, s.GetShards()...)
		for _, r := range s.GetRooms() {
			if have := rooms[r.GetName()]; have != nil {
				addRoom(have, r)
			} else {
				rooms[r.GetName()] = r
				out.Rooms = append(out.Rooms, r)
			}
		}
		for _, b := range s.GetBarriers() {
			out.Barriers = addBarrier(out.Barriers, b)
		}
		for _, l := range s.GetListeners() {
			out.Listeners = addListener(out.Listeners, l)
		}
		out.Running += s.GetRunning()
		out.Held = out.GetHeld() || s.GetHeld()
		if d := s.GetDurability(); d != "" && !slices.Contains(durable, d) {
			durable = append(durable, d)
		}
	}
	out.Durability = strings.Join(durable, "; ")
	out.Barriers = fewDestinations(out.GetBarriers())
	out.Problems = sameProblems(said)
	return out
}

func addRoom(to, r *adminv1.Room) {
	to.Messages += r.GetMessages()
	to.Recipients += r.GetRecipients()
	to.Bytes += r.GetBytes()
	to.Oldest = earlier(to.GetOldest(), r.GetOldest())
}

func earlier(a, b *timestamppb.Timestamp) *timestamppb.Timestamp {
	if a == nil || b != nil && b.AsTime().Before(a.AsTime()) {
		return b
	}
	return a
}

func addBarrier(list []*adminv1.Barrier, b *adminv1.Barrier) []*adminv1.Barrier {
	for _, have := range list {
		if have.GetKind() == b.GetKind() && have.GetName() == b.GetName() && (have.GetBy() == "") == (b.GetBy() == "") {
			have.Since, have.Waiting = earlier(have.GetSince(), b.GetSince()), have.GetWaiting()+b.GetWaiting()
			return list
		}
	}
	return append(list, b)
}

// fewDestinations keeps those that most mail waits for, after what is down or paused.
func fewDestinations(list []*adminv1.Barrier) []*adminv1.Barrier {
	var ours, theirs []*adminv1.Barrier
	for _, b := range list {
		if b.GetKind() == destination {
			theirs = append(theirs, b)
		} else {
			ours = append(ours, b)
		}
	}
	slices.SortStableFunc(theirs, func(a, b *adminv1.Barrier) int {
		return cmp.Or(cmp.Compare(b.GetWaiting(), a.GetWaiting()), strings.Compare(a.GetName(), b.GetName()))
	})
	return append(ours, theirs[:min(len(theirs), mostDestinations)]...)
}

// addListener adds one, but that of another ingress with the same name and address only if its certificate ends sooner.
func addListener(list []*adminv1.Listener, l *adminv1.Listener) []*adminv1.Listener {
	for i, have := range list {
		if have.GetName() != l.GetName() || have.GetAddress() != l.GetAddress() {
			continue
		}
		if l.GetCertificateEnds() != nil && earlier(have.GetCertificateEnds(), l.GetCertificateEnds()) == l.GetCertificateEnds() {
			list[i] = l
		}
		return list
	}
	return append(list, l)
}

// sameProblems says once what all ingresses say in the same words, and of the rest which one says it.
func sameProblems(said []answer[*adminv1.GetStatusResponse]) []*adminv1.Problem {
	times := map[string]int{}
	for _, a := range said {
		for _, p := range a.value.GetProblems() {
			times[p.GetText()]++
		}
	}
	var out []*adminv1.Problem
	for _, a := range said {
		for _, p := range a.value.GetProblems() {
			switch n := times[p.GetText()]; {
			case n == 0: // said already
			case n == 1 && len(said) > 1:
				out = append(out, &adminv1.Problem{Severity: p.GetSeverity(), Text: a.from.name() + ": " + p.GetText(), Remedy: p.GetRemedy()})
			default:
				times[p.GetText()] = 0
				out = append(out, p)
			}
		}
	}
	return out
}

// problems are what is wrong with the processes themselves.
func (f *Fleet) problems(nodes []*adminv1.Node) []*adminv1.Problem {
	var out []*adminv1.Problem
	add := func(s adminv1.Severity, remedy, format string, args ...any) {
		out = append(out, &adminv1.Problem{Severity: s, Text: fmt.Sprintf(format, args...), Remedy: remedy})
	}
	warn, crit := adminv1.Severity_SEVERITY_WARNING, adminv1.Severity_SEVERITY_CRITICAL
	serving, revisions := map[string]int{}, map[string][]string{}
	for _, n := range nodes {
		if n.GetUnreachable() == "" && !n.GetDraining() {
			serving[n.GetService()]++
		}
		if n.GetRevision() != "" {
			revisions[n.GetRevision()] = append(revisions[n.GetRevision()], n.GetName())
		}
	}
	for _, n := range nodes {
		severity, rest := crit, "nobody else serves what it does"
		if serving[n.GetService()] > 0 {
			severity, rest = warn, "others serve what it does"
		}
		switch {
		case n.GetUnreachable() != "":
			add(severity, "start it, or mend the way to it; what is not there for good leaves the configuration or the DNS", "%s does not answer (%s); %s", n.GetName(), n.GetUnreachable(), rest)
		case n.GetDraining():
			add(severity, "when the reason is gone: `stagecoach node undrain "+n.GetName()+"`", "%s is out of service: it was drained; %s", n.GetName(), rest)
		}
		if n.GetRefused() != "" {
			add(warn, "correct the file: what runs is the revision before it", "%s refuses the configuration file and runs revision %.12s: %s", n.GetName(), n.GetRevision(), firstLine(n.GetRefused()))
		}
		if t := n.GetCertificateEnds(); t != nil {
			left := t.AsTime().Sub(f.now())
			if severity = warn; left <= certificateNow {
				severity = crit
			}
			if left <= certificateSoon {
				add(severity, "renew it: `stagecoach pki renew`", "the certificate of %s ends on %s", n.GetName(), t.AsTime().UTC().Format(time.DateOnly))
			}
		}
	}
	if len(revisions) > 1 {
		var each []string
		for _, r := range slices.Sorted(maps.Keys(revisions)) {
			each = append(each, fmt.Sprintf("%.12s at %s", r, strings.Join(revisions[r], ", ")))
		}
		add(warn, "see with `stagecoach node list` which file each of them reads; a change takes some seconds to be in force everywhere", "the processes run different revisions of the configuration: %s", strings.Join(each, "; "))
	}
	return out
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return s
}
