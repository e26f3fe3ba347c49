package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

func (a *app) nodeCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "node",
		Short: "Look at the processes, and take them out of service",
		Long: `Look at the processes, and take them out of service. A node is one process, named by its service and where it was found:
signer@172.18.0.7:7001.`,
		Example: `  stagecoach node list
  stagecoach node show signer@172.18.0.7:7001
  stagecoach node drain signer@172.18.0.7:7001
  stagecoach node profile ingress@172.18.0.4:7001 cpu --seconds 30`,
	}
	a.connection(c)
	a.printing(c)
	c.AddCommand(a.nodeList(), a.nodeShow(), a.nodeReload(), a.nodeDrain(true), a.nodeDrain(false), a.nodeProfile())
	return c
}

func (a *app) nodeList() *cobra.Command {
	return &cobra.Command{
		Use:   "list [SERVICE]",
		Short: "List the processes and how they are",
		Long: `List the processes and how they are, also those that do not answer.

In a pipe the columns are: name, instance, state (ok, drained, refused, other, unreachable), revision of the configuration
in force, calls and sessions under way, since when it runs, version, why. The state "refused" is that of a process which
does not take the file as it reads it, "other" that of one which runs another revision than the file has here.

The exit code is 1 if one of them is not ok.`,
		Example: `  stagecoach node list
  stagecoach node list ingress --json`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.asked(cmd, func(ctx context.Context, conn clientConn, o *output) error {
				resp, err := adminv1.NewNodeServiceClient(conn).ListNodes(ctx, &adminv1.ListNodesRequest{Service: strings.Join(args, "")})
				if err != nil {
					return err
				}
				code := ExitDone
				for _, n := range resp.GetNodes() {
					if state, _ := nodeState(n, resp.GetRevision()); state.text != nodeOK {
						code = ExitPartly
					}
				}
				switch {
				case o.asJSON:
					err = o.message(resp)
				case len(resp.GetNodes()) == 0:
					note(cmd, o, "there are no such nodes")
				default:
					o.nodes(resp)
				}
				if err != nil {
					return err
				}
				return ExitWith(code)
			})
		},
	}
}

const nodeOK = "ok"

// nodeState is how a process is, and why; revision is that of the file.
func nodeState(n *adminv1.Node, revision string) (state span, why string) {
	switch {
	case n.GetUnreachable() != "":
		return in(red, "unreachable"), n.GetUnreachable()
	case n.GetDraining():
		return in(yellow, "drained"), ""
	case n.GetRefused() != "":
		return in(red, "refused"), n.GetRefused()
	case revision != "" && n.GetRevision() != "" && n.GetRevision() != revision && n.GetFileRevision() != revision:
		return in(yellow, "other"), fmt.Sprintf("its file is revision %.12s", n.GetFileRevision())
	case revision != "" && n.GetRevision() != "" && n.GetRevision() != revision:
		return in(yellow, "other"), "it has not taken the file up yet"
	}
	return in(green, nodeOK), ""
}

func (o *output) nodes(resp *adminv1.ListNodesResponse) {
	t := &table{head: []string{"NAME", "INSTANCE", "STATE", "REVISION", "CALLS", "SINCE", "VERSION", "WHY"}, flexible: []int{1, 6, 7}}
	for _, n := range resp.GetNodes() {
		state, why := nodeState(n, resp.GetRevision())
		since := ""
		if n.GetStarted() != nil {
			since = o.past(n.GetStarted())
		}
		calls := ""
		if n.GetUnreachable() == "" {
			calls = fmt.Sprint(n.GetCalls())
		}
		t.add(text("%s", nodeName(n)), text("%s", n.GetInstance()), state, text("%.12s", n.GetRevision()), text("%s", calls), text("%s", since), text("%s", n.GetVersion()), text("%s", why))
	}
	o.table(0, t)
}

func (a *app) nodeShow() *cobra.Command {
	return &cobra.Command{
		Use:               "show NAME",
		Short:             "Show one process: what it runs, and by which revision of the file",
		Example:           "  stagecoach node show signer@172.18.0.7:7001",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeArgs(1, a.nodeNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.asked(cmd, func(ctx context.Context, conn clientConn, o *output) error {
				resp, err := adminv1.NewNodeServiceClient(conn).ListNodes(ctx, &adminv1.ListNodesRequest{})
				if err != nil {
					return err
				}
				for _, n := range resp.GetNodes() {
					if nodeName(n) != args[0] {
						continue
					}
					if o.asJSON {
						return o.message(&adminv1.ListNodesResponse{Nodes: []*adminv1.Node{n}, Revision: resp.GetRevision()})
					}
					o.node(n, resp.GetRevision())
					return nil
				}
				return &exitError{ExitFailed, fmt.Errorf("there is no node %q: `stagecoach node list` shows the nodes", args[0])}
			})
		},
	}
}

// nodeName is the name of a process; everything in one process has none but its service.
func nodeName(n *adminv1.Node) string {
	if n.GetName() == "" {
		return n.GetService()
	}
	return n.GetName()
}

func (o *output) node(n *adminv1.Node, revision string) {
	state, why := nodeState(n, revision)
	o.line(0, in(bold, "%s", nodeName(n)), text(": "), state)
	fact1 := func(name, value string) fact { return fact{name, text("%s", value)} }
	started, ends, answered := "", "", ""
	if n.GetStarted() != nil {
		started = o.moment(n.GetStarted())
	}
	if n.GetCertificateEnds() != nil {
		ends = o.moment(n.GetCertificateEnds())
	}
	if n.GetAnswered() > 0 {
		answered = fmt.Sprintf("%.0f ms", n.GetAnswered()*1000)
	}
	o.facts(2, fact1("why", why), fact1("instance", n.GetInstance()), fact1("version", n.GetVersion()), fact1("started", started),
		fact1("revision", n.GetRevision()), fact1("file", n.GetFileRevision()), fact1("certificate ends", ends), fact1("under way", fmt.Sprint(n.GetCalls())), fact1("answered in", answered))
	if len(n.GetStages()) == 0 {
		return
	}
	o.section("Stages")
	t := &table{flexible: []int{4}}
	for _, s := range n.GetStages() {
		former := ""
		if s.GetFormer() {
			former = "former"
		}
		t.add(text("%s", s.GetName()), text("%s", s.GetType()), text("%.12s", s.GetHash()), in(faint, "%s", former), in(faint, "%s", strings.Join(s.GetTraits(), ", ")))
	}
	o.sectionTable(t)
}

func (a *app) nodeReload() *cobra.Command {
	return &cobra.Command{
		Use:   "reload NAME",
		Short: "Have a process take up the configuration file now",
		Long: `Have a process take up the configuration file as it stands now, whatever "reload" says in it. The exit code is 1 if it
refuses the file.`,
		Example:           "  stagecoach node reload ingress@172.18.0.4:7001",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeArgs(1, a.nodeNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.asked(cmd, func(ctx context.Context, conn clientConn, o *output) error {
				resp, err := adminv1.NewNodeServiceClient(conn).ReloadNode(ctx, &adminv1.ReloadNodeRequest{Node: args[0]})
				if err := o.oneNode(resp.GetNode(), err); err != nil || resp.GetNode().GetRefused() == "" {
					return err
				}
				return ExitWith(ExitPartly)
			})
		},
	}
}

func (a *app) nodeDrain(drain bool) *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use:   "drain NAME",
		Short: "Take a process out of service",
		Long: `Take a process out of service: others behind its name get what comes from now on, and what it has begun it finishes. An
ingress takes no new mail (421). It stays up until it is stopped, and comes back into service with "undrain" or when it is started again.

The last process of its service is refused, unless --force says that its mail may wait.`,
		Example:           "  stagecoach node drain signer@172.18.0.7:7001",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeArgs(1, a.nodeNames),
	}
	if drain {
		c.Flags().BoolVar(&force, "force", false, "even if nobody else serves what it serves")
	} else {
		c.Use, c.Short, c.Long, c.Example = "undrain NAME", "Take a drained process into service again", "", "  stagecoach node undrain signer@172.18.0.7:7001"
	}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		return a.asked(cmd, func(ctx context.Context, conn clientConn, o *output) error {
			resp, err := adminv1.NewNodeServiceClient(conn).DrainNode(ctx, &adminv1.DrainNodeRequest{Node: args[0], Drain: drain, Force: force})
			return o.oneNode(resp.GetNode(), err)
		})
	}
	return c
}

// oneNode prints a process after something was done with it.
func (o *output) oneNode(n *adminv1.Node, err error) error {
	switch {
	case isCode(err, codes.NotFound):
		return &exitError{ExitFailed, fmt.Errorf("%w: `stagecoach node list` shows the nodes", words(err))}
	case err != nil:
		return err
	case o.asJSON:
		return o.message(&adminv1.ListNodesResponse{Nodes: []*adminv1.Node{n}})
	}
	o.nodes(&adminv1.ListNodesResponse{Nodes: []*adminv1.Node{n}})
	return nil
}
