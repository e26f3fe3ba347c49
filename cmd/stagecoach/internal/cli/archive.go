package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

func (a *app) archiveCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "archive",
		Short: "Find messages in the archives, and get them back",
		Example: `  stagecoach archive list --since 7d --recipient '*@example.net'
  stagecoach archive get 1k0tx62h9vmw5e4089twre9ng9 -o message.eml`,
	}
	a.connection(c)
	a.printing(c)
	c.AddCommand(a.archiveList(), a.archiveGet())
	return c
}

func (a *app) archiveList() *cobra.Command {
	var since, until, sender, recipient, stage string
	var limit int
	c := &cobra.Command{
		Use:   "list",
		Short: "List archived messages, newest first",
		Long: `List archived messages, newest first.

In a pipe the columns are: id, accepted, reverse-path, recipients (with commas between), size in bytes, versions, archive.`,
		Example: `  stagecoach archive list --since 24h
  stagecoach archive list --since 2026-11-01 --until 2026-11-08 --sender '*@example.com'`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.asked(cmd, func(ctx context.Context, conn clientConn, o *output) error {
				req := &adminv1.ListArchivedRequest{Stage: stage, Sender: sender, Recipient: recipient}
				var err error
				if req.Since, err = o.pastTime("since", since); err != nil {
					return err
				}
				if req.Until, err = o.pastTime("until", until); err != nil {
					return err
				}
				return listArchived(ctx, cmd, adminv1.NewArchiveServiceClient(conn), o, req, limit)
			})
		},
	}
	c.Flags().StringVar(&since, "since", "", "accepted since this `time`: 24h, 7d, 2026-11-22")
	c.Flags().StringVar(&until, "until", "", "accepted before this `time`")
	c.Flags().StringVar(&sender, "sender", "", "from this `address`, or a pattern: *@example.com, *@*.example.com, <>")
	c.Flags().StringVar(&recipient, "recipient", "", "to this `address`, or a pattern")
	archiveFlag(c, a, &stage)
	limitFlag(c, &limit)
	return c
}

func archiveFlag(c *cobra.Command, a *app, stage *string) {
	c.Flags().StringVar(stage, "stage", "", "in the archive that the stage of this `name` keeps (default: all)")
	complete(c, "stage", a.stageNames)
}

func listArchived(ctx context.Context, cmd *cobra.Command, client adminv1.ArchiveServiceClient, o *output, req *adminv1.ListArchivedRequest, limit int) error {
	var list []*adminv1.ArchivedMessage
	limit = most(cmd, o, limit)
	for {
		req.PageSize = page(limit, len(list))
		resp, err := client.ListArchived(ctx, req)
		if err != nil {
			return err
		}
		list = append(list, resp.GetMessages()...)
		req.PageToken = resp.GetNextPageToken()
		if req.PageToken == "" || limit > 0 && len(list) >= limit {
			break
		}
	}
	damaged := 0
	for _, m := range list {
		damaged += len(m.GetDamaged())
	}
	switch {
	case o.asJSON:
		if err := o.message(&adminv1.ListArchivedResponse{Messages: list}); err != nil {
			return err
		}
	case len(list) == 0:
		note(cmd, o, "no archived message matches")
	default:
		o.archived(list)
	}
	if req.PageToken != "" {
		note(cmd, o, "there are more: --limit 0 shows all")
	}
	if damaged > 0 {
		return partlyf("%s of the archive cannot be read: `stagecoach archive list --json` names them", count(damaged, "file"))
	}
	return nil
}

func (o *output) archived(list []*adminv1.ArchivedMessage) {
	t := &table{head: []string{"ID", "ACCEPTED", "FROM", "TO", "SIZE", "VERSIONS", "ARCHIVE"}, flexible: []int{2, 3}}
	for _, m := range list {
		var newest *adminv1.ArchivedVersion
		if n := len(m.GetVersions()); n > 0 {
			newest = m.GetVersions()[n-1]
		}
		var to []string
		for _, r := range newest.GetEnvelope().GetRecipients() {
			to = append(to, r.GetAddress())
		}
		names := few(to)
		if !o.terminal {
			names = strings.Join(to, ",")
		}
		from := path(newest.GetEnvelope().GetReversePath())
		if newest == nil {
			from = ""
		}
		t.add(text("%s", m.GetId()), text("%s", o.when(m.GetReceived())), text("%s", from), text("%s", names), text("%s", o.size(newest.GetSize())), text("%d", len(m.GetVersions())), text("%s", m.GetStage()))
	}
	o.table(0, t)
}

func (a *app) archiveGet() *cobra.Command {
	var file, stage string
	var version int
	c := &cobra.Command{
		Use:   "get ID",
		Short: "Get an archived message back",
		Long: `Get an archived message back, byte for byte, into a file or to the standard output; on a terminal it is escaped.

A message that passed in several forms has as many versions, 1 the oldest; --json tells of them, without the bytes.`,
		Example: `  stagecoach archive get 1k0tx62h9vmw5e4089twre9ng9 -o message.eml
  stagecoach archive get 1k0tx62h9vmw5e4089twre9ng9 --json`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.asked(cmd, func(ctx context.Context, conn clientConn, o *output) error {
				client := adminv1.NewArchiveServiceClient(conn)
				req := &adminv1.GetArchivedRequest{Stage: stage, Id: args[0]}
				if version != 0 || o.asJSON {
					entry, err := archivedEntry(ctx, client, req)
					switch {
					case err != nil:
						return err
					case o.asJSON:
						return o.message(&adminv1.GetArchivedResponse{Kind: &adminv1.GetArchivedResponse_Message{Message: entry}})
					}
					if version < 0 || version > len(entry.GetVersions()) {
						return usagef("there is no version %d: it has %s", version, count(len(entry.GetVersions()), "version"))
					}
					req.Sha256 = entry.GetVersions()[version-1].GetSha256()
				}
				if file != "" {
					return archiveToFile(ctx, cmd, client, req, file)
				}
				w := o.bytes()
				if err := archivedBytes(ctx, client, req, func(p []byte) error { w.write(p); return nil }); err != nil {
					return err
				}
				w.end()
				return nil
			})
		},
	}
	c.Flags().StringVarP(&file, "output", "o", "", "write to this `file`, which must not be there yet")
	c.Flags().IntVar(&version, "version", 0, "the `number` of the version (default: the newest)")
	archiveFlag(c, a, &stage)
	return c
}

// archivedEntry asks for the entry alone.
func archivedEntry(ctx context.Context, client adminv1.ArchiveServiceClient, r *adminv1.GetArchivedRequest) (*adminv1.ArchivedMessage, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := client.GetArchived(ctx, &adminv1.GetArchivedRequest{Stage: r.GetStage(), Id: r.GetId(), WithoutContent: true})
	if err != nil {
		return nil, err
	}
	resp, err := stream.Recv()
	if errors.Is(err, io.EOF) || err == nil && resp.GetMessage() == nil {
		return nil, errors.New("the archive gave no entry: its log says more")
	}
	return resp.GetMessage(), err
}

func archivedBytes(ctx context.Context, client adminv1.ArchiveServiceClient, r *adminv1.GetArchivedRequest, write func([]byte) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := client.GetArchived(ctx, r)
	if err != nil {
		return err
	}
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := write(resp.GetChunk()); err != nil {
			return err
		}
	}
}

// archiveToFile leaves no file behind that is not whole.
func archiveToFile(ctx context.Context, cmd *cobra.Command, client adminv1.ArchiveServiceClient, r *adminv1.GetArchivedRequest, file string) error {
	size := 0
	err := writeNew(file, func(w io.Writer) error {
		return archivedBytes(ctx, client, r, func(p []byte) error {
			size += len(p)
			_, err := w.Write(p)
			return err
		})
	})
	if err == nil {
		cmd.PrintErrln(clean(fmt.Sprintf("%s: %d bytes", file, size)))
	}
	return err
}

// writeNew makes a file, and removes it again if it could not be written whole. Mail is for its owner alone.
func writeNew(file string, write func(io.Writer) error) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s is there already: choose another name, or remove it", file)
	}
	if err != nil {
		return err
	}
	err = write(f)
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return errors.Join(err, os.Remove(file))
	}
	return nil
}
