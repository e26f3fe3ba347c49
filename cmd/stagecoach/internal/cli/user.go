package cli

import (
	"context"
	"errors"
	"os"

	"github.com/spf13/cobra"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	"github.com/stagecoachmail/stagecoach/services/ingress"
)

func (a *app) userCommand() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:   "user",
		Short: "Keep those who may log in to send mail",
		Long: `Keep those who may log in at the listeners to send mail: the users of ingress.users_file. Passwords are stored as
argon2id hashes.

The running Stagecoach edits its file. With --file a file is edited here: before the first start, or for another machine. A
running one takes that up as well.`,
		Example: `  stagecoach user add alice
  stagecoach user list --file users.yaml`,
	}
	a.connection(c)
	a.printing(c)
	c.PersistentFlags().StringVar(&file, "file", "", "edit this users `file`, without a running Stagecoach; the first user makes it")
	c.AddCommand(a.userList(&file), a.userAdd(&file), a.userPasswd(&file), a.userDelete(&file))
	return c
}

// userStore is where users are kept: the running Stagecoach, or a file.
type userStore interface {
	Names() ([]string, error)
	Add(name, password string) error
	SetPassword(name, password string) error
	Delete(name string) error
}

// userService are the users of the running Stagecoach.
type userService struct {
	ctx    context.Context // of the one command that it lives for
	client adminv1.UserServiceClient
}

func (s userService) Names() ([]string, error) {
	resp, err := s.client.ListUsers(s.ctx, &adminv1.ListUsersRequest{})
	return resp.GetNames(), err
}

func (s userService) Add(name, password string) error {
	_, err := s.client.AddUser(s.ctx, &adminv1.AddUserRequest{Name: name, Password: password})
	return err
}

func (s userService) SetPassword(name, password string) error {
	_, err := s.client.SetPassword(s.ctx, &adminv1.SetPasswordRequest{Name: name, Password: password})
	return err
}

func (s userService) Delete(name string) error {
	_, err := s.client.DeleteUser(s.ctx, &adminv1.DeleteUserRequest{Name: name})
	return err
}

// users runs a command on the users of the file, or of the running Stagecoach if none is named.
func (a *app) users(cmd *cobra.Command, file string, run func(s userStore, o *output) error) error {
	if file != "" {
		if err := a.onFiles("--file"); err != nil {
			return err
		}
		return a.printed(cmd, func(o *output) error { return run(ingress.EditUsers(file), o) })
	}
	return a.asked(cmd, func(ctx context.Context, conn clientConn, o *output) error {
		return run(userService{ctx, adminv1.NewUserServiceClient(conn)}, o)
	})
}

func (a *app) userList(file *string) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the users, a name on each line",
		Example: `  stagecoach user list
  stagecoach user list --json`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.users(cmd, *file, func(s userStore, o *output) error {
				names, err := s.Names()
				if err != nil {
					return err
				}
				if o.asJSON {
					return o.message(&adminv1.ListUsersResponse{Names: names})
				}
				if len(names) == 0 {
					note(cmd, o, "there are no users: `stagecoach user add NAME` makes one")
				}
				for _, n := range names {
					o.line(0, text("%s", clean(n)))
				}
				return nil
			})
		},
	}
}

func (a *app) userAdd(file *string) *cobra.Command {
	var passwordFile string
	c := &cobra.Command{
		Use:   "add NAME",
		Short: "Add a user",
		Long:  "Add a user. " + passwordHelp,
		Example: `  stagecoach user add alice
  stagecoach user add alice --password-file secrets/alice
  pwgen 24 1 | stagecoach user add alice --file users.yaml`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withPassword(cmd, *file, passwordFile, func(s userStore, password string) error { return s.Add(args[0], password) })
		},
	}
	passwordFlag(c, &passwordFile)
	return c
}

func (a *app) userPasswd(file *string) *cobra.Command {
	var passwordFile string
	c := &cobra.Command{
		Use:   "passwd NAME",
		Short: "Give a user another password",
		Long:  "Give a user another password. " + passwordHelp,
		Example: `  stagecoach user passwd alice
  stagecoach user passwd alice --password-file secrets/alice`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeArgs(1, a.userNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withPassword(cmd, *file, passwordFile, func(s userStore, password string) error { return s.SetPassword(args[0], password) })
		},
	}
	passwordFlag(c, &passwordFile)
	return c
}

func (a *app) userDelete(file *string) *cobra.Command {
	return &cobra.Command{
		Use:               "delete NAME",
		Short:             "Delete a user",
		Long:              "Delete a user: no login under that name any more. What was accepted goes on.",
		Example:           "  stagecoach user delete alice",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeArgs(1, a.userNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.users(cmd, *file, func(s userStore, o *output) error {
				if err := s.Delete(args[0]); err != nil {
					return err
				}
				return o.nothing()
			})
		},
	}
}

const passwordHelp = `The password is asked for twice on a terminal; else it is the first line of
--password-file, or of the standard input.`

func passwordFlag(c *cobra.Command, file *string) {
	c.Flags().StringVar(file, "password-file", "", "`file` with the password in its first line")
}

// withPassword reads a password before it does anything else.
func (a *app) withPassword(cmd *cobra.Command, file, passwordFile string, set func(userStore, string) error) error {
	password, err := a.newPassword(cmd, passwordFile)
	if err != nil {
		return err
	}
	return a.users(cmd, file, func(s userStore, o *output) error {
		if err := set(s, password); err != nil {
			return err
		}
		return o.nothing()
	})
}

// newPassword reads a password from a file, from a person, or from a pipe.
func (a *app) newPassword(cmd *cobra.Command, file string) (string, error) {
	if file != "" {
		f, err := os.Open(file)
		if err != nil {
			return "", err
		}
		defer f.Close()
		return firstLine(f)
	}
	if !a.isTerminal(cmd.InOrStdin()) {
		return firstLine(cmd.InOrStdin())
	}
	first, err := a.ask(cmd, "New password: ")
	if err != nil {
		return "", err
	}
	again, err := a.ask(cmd, "The same again: ")
	if err != nil {
		return "", err
	}
	if first != again {
		return "", errors.New("the two passwords differ: nothing was done")
	}
	return first, nil
}

// nothing is the output of what is done and has nothing to tell: for a program an empty document.
func (o *output) nothing() error {
	if o.asJSON {
		return o.document(struct{}{})
	}
	if o.terminal {
		o.line(0, in(green, "done"))
	}
	return nil
}
