package cli

import (
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

func (a *app) contextCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "context",
		Short: "Keep the Stagecoaches on the network that the commands can ask",
		Long: `Keep the Stagecoaches on the network that the commands can ask: where each is, and as whom it is called. They stand in a file of
yours, $XDG_CONFIG_HOME/stagecoach/contexts.yaml (else ~/.config/…), or the one that $STAGECOACH_CONTEXTS names, which nobody else
may read. Nothing that runs is asked.

A context does not hold a key or a token, but the names of their files.`,
		Example: `  stagecoach context add prod --server mail.example.com:7443 --ca ca.pem --certificate alice.pem --key alice-key.pem
  stagecoach context use prod
  stagecoach status --context prod`,
	}
	a.printing(c)
	c.AddCommand(a.contextList(), a.contextAdd(), a.contextUse(), a.contextRemove(), a.contextShow())
	return c
}

func (a *app) contextNames(*cobra.Command) []string {
	f, err := a.contexts()
	if err != nil {
		return nil
	}
	return f.names()
}

// choices are the contexts, and what stands for none.
func (a *app) choices(c *cobra.Command) []string { return append(a.contextNames(c), localContext) }

func (a *app) contextList() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the contexts",
		Long: `List the contexts.

In a pipe the columns are: name, server, the file of the certificate or token, "current" or nothing.`,
		Example:           `  stagecoach context list`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, err := a.contexts()
			if err != nil {
				return err
			}
			return a.printed(cmd, func(o *output) error {
				switch {
				case o.asJSON:
					return o.document(f)
				case len(f.Contexts) == 0:
					note(cmd, o, "there are no contexts: the commands ask the Stagecoach of this machine")
					return nil
				}
				t := &table{head: []string{"NAME", "SERVER", "KNOWN BY", "CURRENT"}, flexible: []int{2}}
				for _, name := range f.names() {
					x, current := f.Contexts[name], ""
					if name == f.Current {
						current = "current"
					}
					t.add(text("%s", name), text("%s", x.Server), text("%s", f.at(x.Certificate+x.TokenFile)), text("%s", current))
				}
				o.table(0, t)
				return nil
			})
		},
	}
}

func (a *app) contextAdd() *cobra.Command {
	var x remoteContext
	var use bool
	c := &cobra.Command{
		Use:   "add NAME --server HOST:PORT",
		Short: "Add a context",
		Long: `Add a context. It takes --ca (the ca.pem of the pki there), and either --certificate with --key, or --token-file.

The server is taken for the right one if its certificate comes from that CA and is for "admin", as the one of the pki is, or for
--server-name. The files are looked at here, the server is not asked.`,
		Example: `  stagecoach context add prod --server mail.example.com:7443 --ca ca.pem --certificate alice.pem --key alice-key.pem
  stagecoach context add branch --server 10.1.0.5:7443 --ca branch-ca.pem --token-file ~/.secrets/branch --use`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.changeContexts(func(f *contextFile) error {
				name := args[0]
				switch _, there := f.Contexts[name]; {
				case !contextName.MatchString(name):
					return usagef("%q is no name of a context: letters, digits, dot, hyphen and underscore, 63 at most", name)
				case name == localContext:
					return usagef("%q is the Stagecoach of this machine: take another name", name)
				case there:
					return fmt.Errorf("there is a context %s already: `stagecoach context remove %[1]s` removes it", name)
				}
				for _, path := range []*string{&x.CA, &x.Certificate, &x.Key, &x.TokenFile} {
					if *path == "" {
						continue
					}
					abs, err := filepath.Abs(*path)
					if err != nil {
						return err
					}
					*path = abs
				}
				if err := x.check(); err != nil {
					return usagef("%w", err)
				}
				if _, err := f.remote(&x, a.Now); err != nil {
					return err
				}
				f.Contexts[name] = &x
				if use {
					f.Current = name
				}
				return nil
			})
		},
	}
	c.Flags().StringVar(&x.Server, "server", "", "`host:port` of the admin API")
	c.Flags().StringVar(&x.CA, "ca", "", "`file` of the CA that the server's certificate comes from (default: the CAs of this system)")
	c.Flags().StringVar(&x.Certificate, "certificate", "", "`file` of your certificate")
	c.Flags().StringVar(&x.Key, "key", "", "`file` of its key")
	c.Flags().StringVar(&x.TokenFile, "token-file", "", "`file` of your token, which nobody else may read")
	c.Flags().StringVar(&x.ServerName, "server-name", "", "`name` that the server's certificate must be for (default: admin)")
	c.Flags().BoolVar(&use, "use", false, "make it the current one")
	return c
}

func (a *app) contextUse() *cobra.Command {
	return &cobra.Command{
		Use:   "use NAME",
		Short: "Make a context the current one, which the commands ask unless told otherwise",
		Long: `Make a context the current one, which the commands ask unless told otherwise. "local" is the Stagecoach of this machine, as it is
without contexts.`,
		Example: `  stagecoach context use prod
  stagecoach context use local`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeArgs(1, a.choices),
		RunE: func(_ *cobra.Command, args []string) error {
			return a.changeContexts(func(f *contextFile) error {
				if f.Current = args[0]; f.Current == localContext {
					f.Current = ""
					return nil
				}
				_, err := f.named(args[0])
				return err
			})
		},
	}
}

func (a *app) contextRemove() *cobra.Command {
	return &cobra.Command{
		Use:               "remove NAME",
		Short:             "Remove a context; the files that it names stay",
		Example:           `  stagecoach context remove prod`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeArgs(1, a.contextNames),
		RunE: func(_ *cobra.Command, args []string) error {
			return a.changeContexts(func(f *contextFile) error {
				if _, err := f.named(args[0]); err != nil {
					return err
				}
				delete(f.Contexts, args[0])
				if f.Current == args[0] {
					f.Current = ""
				}
				return nil
			})
		},
	}
}

func (a *app) contextShow() *cobra.Command {
	return &cobra.Command{
		Use:   "show [NAME]",
		Short: "Show a context, and until when its certificate is good",
		Long:  "Show a context, and until when its certificate is good. Without a name it is the current one.",
		Example: `  stagecoach context show
  stagecoach context show prod --json`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: completeArgs(1, a.contextNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := a.contexts()
			if err != nil {
				return err
			}
			name := f.Current
			if len(args) > 0 {
				name = args[0]
			}
			if name == "" {
				return fmt.Errorf("no context is current: the commands ask the Stagecoach of this machine")
			}
			x, err := f.named(name)
			if err != nil {
				return err
			}
			return a.printed(cmd, func(o *output) error {
				if o.asJSON {
					return o.document(x)
				}
				o.line(0, in(bold, "%s", name))
				o.facts(2, fact{"server", text("%s", x.Server)}, fact{"server name", text("%s", x.ServerName)}, fact{"ca", text("%s", f.at(x.CA))},
					fact{"certificate", text("%s", f.at(x.Certificate))}, fact{"key", text("%s", f.at(x.Key))}, fact{"token file", text("%s", f.at(x.TokenFile))})
				r, err := f.remote(x, a.Now)
				if err != nil {
					return err
				}
				if r.pair != nil {
					o.facts(2, fact{"known as", text("%s", personOf(r.pair.Leaf))}, fact{"ends", text("%s", r.pair.Leaf.NotAfter.UTC().Format(time.DateOnly))})
				}
				return nil
			})
		},
	}
}

// personOf is for whom a certificate is, in words.
func personOf(c *x509.Certificate) string {
	if len(c.URIs) > 0 {
		return c.URIs[0].String()
	}
	return c.Subject.CommonName
}

// changeContexts changes the file, or leaves it as it is on an error. One at a time.
func (a *app) changeContexts(change func(f *contextFile) error) error {
	path := a.contextsPath()
	if path != "" {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return fmt.Errorf("contexts: %w", err)
		}
		dir, err := os.Open(filepath.Dir(path))
		if err != nil {
			return fmt.Errorf("contexts: %w", err)
		}
		defer dir.Close() // the lock ends with it
		if err := syscall.Flock(int(dir.Fd()), syscall.LOCK_EX); err != nil {
			return fmt.Errorf("contexts: lock %s: %w", dir.Name(), err)
		}
	}
	f, err := a.contexts()
	if err != nil {
		return err
	}
	if err := change(f); err != nil {
		return err
	}
	return f.write()
}
