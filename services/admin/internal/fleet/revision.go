package fleet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

// pollEvery is how often who has not taken a revision up is asked again.
const pollEvery = 500 * time.Millisecond

// TakeUp has every process take up the configuration file, the ingresses last, since they ask the others. The error, after
// ctx has ended or when all have answered, names each that does not run the revision and why. Processes that are not to
// be reached are named too.
func (f *Fleet) TakeUp(ctx context.Context, revision string) error {
	everybody := f.find(ctx, "")
	behind := slices.DeleteFunc(slices.Clone(everybody), func(p *process) bool { return p.service == ingress || p.foreign })
	fronts := slices.DeleteFunc(slices.Clone(everybody), func(p *process) bool { return p.service != ingress })
	states := append(f.reload(ctx, behind), f.reload(ctx, fronts)...)
	for {
		late := laggards(states, revision)
		if len(late) == 0 {
			return nil
		}
		if !slices.ContainsFunc(late, mayFollow) || !wait(ctx, pollEvery) {
			return errors.New(strings.Join(reasons(late, revision), "; "))
		}
		now := f.states(ctx, "")
		if ctx.Err() != nil {
			return errors.New(strings.Join(reasons(late, revision), "; "))
		}
		states = now
	}
}

// reload has processes take the file up, all at once, and gives how they are then.
func (f *Fleet) reload(ctx context.Context, to []*process) []*adminv1.Node {
	var out []*adminv1.Node
	for _, a := range all(ctx, to, reloadWithin, func(ctx context.Context, p *process) (*adminv1.Node, error) {
		resp, err := adminv1.NewNodeServiceClient(p.conn).ReloadNode(ctx, &adminv1.ReloadNodeRequest{})
		return resp.GetNode(), err
	}) {
		n := a.value
		if a.err != nil {
			n = &adminv1.Node{Unreachable: why(a.err)}
		}
		n.Name, n.Service = a.from.name(), a.from.service
		out = append(out, n)
	}
	return out
}

// laggards are those that run another revision. Of a stage in another language none is known.
func laggards(nodes []*adminv1.Node, revision string) []*adminv1.Node {
	return slices.DeleteFunc(slices.Clone(nodes), func(n *adminv1.Node) bool {
		return n.GetRevision() == revision || n.GetRevision() == "" && n.GetUnreachable() == ""
	})
}

// mayFollow says that a process may yet take the revision up by itself.
func mayFollow(n *adminv1.Node) bool { return n.GetUnreachable() == "" && n.GetRefused() == "" }

// reasons say of each process why it does not run a revision.
func reasons(nodes []*adminv1.Node, revision string) []string {
	var out []string
	for _, n := range nodes {
		switch {
		case n.GetUnreachable() != "":
			out = append(out, fmt.Sprintf("%s does not answer: %s", n.GetName(), n.GetUnreachable()))
		case n.GetRefused() != "":
			out = append(out, fmt.Sprintf("%s refuses it: %s", n.GetName(), n.GetRefused()))
		case n.GetFileRevision() != revision:
			out = append(out, fmt.Sprintf("%s reads another file, revision %.12s: bring this one there", n.GetName(), n.GetFileRevision()))
		default:
			out = append(out, fmt.Sprintf("%s has not taken it up yet", n.GetName()))
		}
	}
	return out
}

// InForce is the revision that mail runs by: that of the ingresses. Where they differ it is one that is not own; where
// none answers, own.
func (f *Fleet) InForce(ctx context.Context, own string) string {
	out := own
	for _, n := range f.states(ctx, ingress) {
		if n.GetRevision() != "" && n.GetRevision() != own {
			out = n.GetRevision()
		}
	}
	return out
}

// Has says that an ingress answers, and that all that do run this revision.
func (f *Fleet) Has(ctx context.Context, revision string) bool {
	answered := false
	for _, n := range f.states(ctx, ingress) {
		if n.GetUnreachable() != "" {
			continue
		}
		if answered = true; n.GetRevision() != revision {
			return false
		}
	}
	return answered
}

// Refused is why processes do not run by the file; nil if nobody says so.
func (f *Fleet) Refused(ctx context.Context) error {
	var list []string
	for _, n := range f.states(ctx, "") {
		if n.GetRefused() != "" {
			list = append(list, n.GetName()+": "+n.GetRefused())
		}
	}
	if len(list) == 0 {
		return nil
	}
	return errors.New(strings.Join(list, "; "))
}
