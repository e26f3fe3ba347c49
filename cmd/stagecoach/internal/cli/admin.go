package cli

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/stagecoachmail/stagecoach/cmd/stagecoach/internal/pki"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

func (a *app) adminCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "admin",
		Short: "See who you are, make tokens, read the record of changes",
		Example: `  stagecoach admin whoami
  stagecoach admin audit --since 7d --by alice
  stagecoach admin token alice`,
	}
	a.connection(c)
	a.printing(c)
	c.AddCommand(a.adminWhoami(), a.adminAudit(), a.adminToken())
	return c
}

// roleWords are the roles as the configuration writes them.
var roleWords = map[adminv1.Role]string{adminv1.Role_ROLE_VIEWER: "viewer", adminv1.Role_ROLE_OPERATOR: "operator", adminv1.Role_ROLE_ADMIN: "admin"}

func (a *app) adminWhoami() *cobra.Command {
	return &cobra.Command{
		Use:   "whoami",
		Short: "Tell who the running Stagecoach takes you for, and what you may do",
		Long: `Tell who the running Stagecoach takes you for, and what you may do.

In a pipe the columns are: name, role, by (certificate, token, socket), when the certificate ends.`,
		Example:           "  stagecoach admin whoami",
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.asked(cmd, func(ctx context.Context, conn clientConn, o *output) error {
				resp, err := adminv1.NewAccessServiceClient(conn).GetAccess(ctx, &adminv1.GetAccessRequest{})
				if err != nil {
					return err
				}
				if o.asJSON {
					return o.message(resp)
				}
				t := &table{head: []string{"NAME", "ROLE", "BY", "ENDS"}}
				t.add(text("%s", resp.GetName()), text("%s", roleWords[resp.GetRole()]), text("%s", resp.GetBy()), text("%s", o.when(resp.GetEnds())))
				o.table(0, t)
				return nil
			})
		},
	}
}

func (a *app) adminAudit() *cobra.Command {
	var since, until string
	var limit int
	r := &adminv1.ListAuditRequest{}
	c := &cobra.Command{
		Use:   "audit",
		Short: "List who changed what, and to whom mail was shown",
		Long: `List the record of changes, and of mail that was given out, the newest first. It is kept for a year, or 256 MB of it. For the
role admin.

BEGUN is a change whose outcome is not on record: it is under way, or its process died.

In a pipe the columns are: time, name, role, address (none: the socket), method, code, error, request, request id.`,
		Example: `  stagecoach admin audit --since 24h
  stagecoach admin audit --by alice --method ApplyConfig
  stagecoach admin audit --limit 0 --json`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.asked(cmd, func(ctx context.Context, conn clientConn, o *output) error {
				var err error
				if r.Since, err = o.pastTime("since", since); err != nil {
					return err
				}
				if r.Until, err = o.pastTime("until", until); err != nil {
					return err
				}
				return listAudit(ctx, cmd, adminv1.NewAccessServiceClient(conn), o, r, limit)
			})
		},
	}
	c.Flags().StringVar(&since, "since", "", "since this `time`: 24h, 7d, 2026-11-22")
	c.Flags().StringVar(&until, "until", "", "before this `time`")
	c.Flags().StringVar(&r.By, "by", "", "what the person of this `name` did")
	c.Flags().StringVar(&r.Method, "method", "", "calls of this `method`: DeleteMessages, or QueueService/DeleteMessages")
	limitFlag(c, &limit)
	return c
}

func listAudit(ctx context.Context, cmd *cobra.Command, client adminv1.AccessServiceClient, o *output, r *adminv1.ListAuditRequest, limit int) error {
	var list []*adminv1.AuditEntry
	limit = most(cmd, o, limit)
	for {
		r.PageSize = page(limit, len(list))
		resp, err := client.ListAudit(ctx, r)
		if err != nil {
			return err
		}
		list = append(list, resp.GetEntries()...)
		r.PageToken = resp.GetNextPageToken()
		if r.PageToken == "" || limit > 0 && len(list) >= limit {
			break
		}
	}
	switch {
	case o.asJSON:
		if err := o.message(&adminv1.ListAuditResponse{Entries: list}); err != nil {
			return err
		}
	case len(list) == 0:
		note(cmd, o, "nothing on record matches")
	default:
		o.audit(list)
	}
	if r.PageToken != "" {
		note(cmd, o, "there are more: --limit 0 shows all")
	}
	return nil
}

func (o *output) audit(list []*adminv1.AuditEntry) {
	t := &table{head: []string{"TIME", "BY", "ROLE", "FROM", "METHOD", "CODE", "ERROR", "REQUEST"}, flexible: []int{6, 7}}
	for _, e := range list {
		look := green
		switch e.GetCode() {
		case "OK":
		case "BEGUN":
			look = yellow
		default:
			look = red
		}
		row := []span{text("%s", o.when(e.GetAt())), text("%s", e.GetBy()), text("%s", roleWords[e.GetRole()]), text("%s", e.GetFrom()), text("%s", e.GetMethod()),
			in(look, "%s", e.GetCode()), text("%s", e.GetError()), text("%s", e.GetRequest())}
		if !o.terminal {
			row = append(row, text("%s", e.GetRequestId()))
		}
		t.add(row...)
	}
	o.table(0, t)
}

// tokenBytes is how random a token is.
const tokenBytes = 32

func (a *app) adminToken() *cobra.Command {
	return &cobra.Command{
		Use:   "token NAME",
		Short: "Make a token by which a person may call the admin API",
		Long: `Make a random token for a person, and print it, this once, with the line for admin.people of the configuration: that has only
its SHA-256. Nothing that runs is asked or changed; the token counts when the line is in force, and ends when it is taken out.

In a pipe the columns are: name, token, its SHA-256.`,
		Example:           "  stagecoach admin token alice",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := pki.CheckPerson(args[0]); err != nil {
				return usagef("%w", err)
			}
			return a.printed(cmd, func(o *output) error {
				random := make([]byte, tokenBytes)
				if _, err := rand.Read(random); err != nil {
					return fmt.Errorf("make a token: %w", err)
				}
				return o.newToken(args[0], base64.RawURLEncoding.EncodeToString(random))
			})
		},
	}
}

func (o *output) newToken(name, token string) error {
	sum := sha256.Sum256([]byte(token))
	hash := hex.EncodeToString(sum[:])
	switch {
	case o.asJSON:
		return o.document(struct {
			Name        string `json:"name"`
			Token       string `json:"token"`
			TokenSHA256 string `json:"tokenSha256"`
		}{name, token, hash})
	case !o.terminal:
		t := &table{head: []string{"NAME", "TOKEN", "SHA-256"}}
		t.add(text("%s", name), text("%s", token), text("%s", hash))
		o.table(0, t)
		return nil
	}
	o.line(0, text("The token of %s, which is shown this once:", name))
	o.line(2, in(bold, "%s", token))
	o.line(0, text("For admin.people of the configuration, with the role that fits:"))
	o.line(2, text("- {name: %q, role: viewer, token_sha256: %s}", name, hash))
	return nil
}
