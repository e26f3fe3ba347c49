package cli

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"
	"google.golang.org/grpc"
)

// clientConn is a connection to the running Stagecoach.
type clientConn = grpc.ClientConnInterface

// Options are what the commands take from outside. The zero value is the real world.
type Options struct {
	// Now is the clock; nil: time.Now.
	Now func() time.Time
	// Location is the zone of times on a terminal; nil: time.Local.
	Location *time.Location
	// Getenv finds an environment variable; nil: os.Getenv.
	Getenv func(string) string
	// Width says whether the stream (a file) is a terminal, and how many columns it has; nil: asks the system.
	Width func(stream any) (columns int, terminal bool)
	// Secret reads a line from a terminal without showing it; nil: asks the system.
	Secret func(stream any) ([]byte, error)
}

// app is what the commands share: the options, and the flags that many have. One command runs per process.
type app struct {
	Options
	socket, config  string
	server, context string
	asJSON, utc     bool
	remote          *remote // that was dialled; nil: the socket
}

// Commands are the operator's commands.
func Commands(o Options) []*cobra.Command {
	a := newApp(o)
	return []*cobra.Command{
		a.sendCommand(), a.statusCommand(), a.topCommand(), a.traceCommand(), a.tailCommand(), a.tryCommand(), a.queueCommand(), a.quarantineCommand(),
		a.routeCommand(), a.grantCommand(), a.nodeCommand(), a.chainCommand(), a.configCommand(), a.archiveCommand(), a.dkimCommand(), a.userCommand(), a.pkiCommand(), a.adminCommand(), a.contextCommand(), exitCodesTopic(), connectionTopic(), outputTopic(),
	}
}

func newApp(o Options) *app {
	a := &app{Options: o}
	if a.Now == nil {
		a.Now = time.Now
	}
	if a.Location == nil {
		a.Location = time.Local
	}
	if a.Getenv == nil {
		a.Getenv = os.Getenv
	}
	if a.Width == nil {
		a.Width = systemWidth
	}
	if a.Secret == nil {
		a.Secret = systemSecret
	}
	return a
}

func systemWidth(stream any) (int, bool) {
	f, ok := stream.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return 0, false
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		width = 0
	}
	return width, true
}

func systemSecret(stream any) ([]byte, error) {
	f, ok := stream.(*os.File)
	if !ok {
		return nil, errors.New("this is no terminal")
	}
	return term.ReadPassword(int(f.Fd()))
}

func (a *app) isTerminal(stream any) bool {
	_, ok := a.Width(stream)
	return ok
}

// connection gives a command, and those below it, the flags by which a running Stagecoach is found.
func (a *app) connection(c *cobra.Command) {
	c.PersistentFlags().StringVar(&a.socket, "socket", "", "admin socket of the running Stagecoach, its `path` (default: $STAGECOACH_SOCKET, else admin.sock in the data folder)")
	c.PersistentFlags().StringVarP(&a.config, "config", "c", "", "configuration `file` whose data_dir has the socket (default: stagecoach.yaml, if it is there; else the folder is ./data)")
	c.PersistentFlags().StringVar(&a.context, "context", "", "`name` of a Stagecoach on the network, as \"stagecoach context\" has it (default: $STAGECOACH_CONTEXT, else the current one); local: this machine")
	c.PersistentFlags().StringVar(&a.server, "server", "", "`host:port` of its admin API, instead of the one that the context has")
	complete(c, "context", a.choices)
}

// printing gives a command, and those below it, the flags of output.
func (a *app) printing(c *cobra.Command) {
	c.PersistentFlags().BoolVar(&a.asJSON, "json", false, "one JSON document, for programs")
	c.PersistentFlags().BoolVar(&a.utc, "utc", false, "show times as they are, in UTC, instead of \"3 min ago\"")
}

// output makes the place where a command prints.
func (a *app) output(w io.Writer) *output {
	o := newOutput(w)
	o.width, o.terminal = a.Width(w)
	o.colour = o.terminal && a.Getenv("NO_COLOR") == "" && a.Getenv("TERM") != "dumb"
	o.utc, o.asJSON, o.now, o.location = a.utc, a.asJSON, a.Now, a.Location
	return o
}

// printed runs a command that prints.
func (a *app) printed(cmd *cobra.Command, run func(o *output) error) error {
	o := a.output(cmd.OutOrStdout())
	err := run(o)
	if err != nil && errors.Is(cmd.Context().Err(), context.Canceled) && Code(err) == ExitFailed {
		err = errors.New("interrupted") // whatever broke by that
	}
	if closed := o.close(); closed != nil && Code(err) != ExitFailed {
		return closed
	}
	return err
}

// asked runs a command that asks the running Stagecoach.
func (a *app) asked(cmd *cobra.Command, run func(ctx context.Context, conn clientConn, o *output) error) error {
	return a.printed(cmd, func(o *output) error {
		conn, err := a.dial(cmd.Context())
		if err != nil {
			return err
		}
		defer conn.Close()
		whole := &partial{clientConn: conn}
		return whole.tell(cmd, a.remote.refused(run(cmd.Context(), whole, o)))
	})
}

// Prepare finishes a tree of commands: what was typed wrong gives ExitUsage and the next step, and a command that only
// groups others says which.
func Prepare(root *cobra.Command) {
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		if errors.Is(err, pflag.ErrHelp) {
			return err
		}
		if e, ok := errors.AsType[*pflag.NotExistError](err); ok && (e.GetSpecifiedName() == "server" || e.GetSpecifiedName() == "context") {
			return usagef("%s works here, with files and addresses of this machine: there is no --%s\nSee `%[1]s --help`.", c.CommandPath(), e.GetSpecifiedName())
		}
		return usagef("%w\nSee `%s --help`.", err, c.CommandPath())
	})
	prepare(root)
}

func prepare(c *cobra.Command) {
	for _, sub := range c.Commands() {
		prepare(sub)
	}
	if c.HasSubCommands() && !c.Runnable() {
		c.Args = func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			hint := ""
			c.SuggestionsMinimumDistance = 2
			if s := c.SuggestionsFor(args[0]); len(s) > 0 {
				hint = ": did you mean " + strings.Join(s, " or ") + "?"
			}
			return usagef("%s has no command %q%s\nSee `%s --help`.", c.CommandPath(), args[0], hint, c.CommandPath())
		}
		c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
		return
	}
	if check := c.Args; check != nil {
		c.Args = func(c *cobra.Command, args []string) error {
			if err := check(c, args); err != nil {
				return usagef("%w\nUsage: %s", err, c.UseLine())
			}
			return nil
		}
	}
}
