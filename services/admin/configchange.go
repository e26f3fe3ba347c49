package admin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"unicode"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/internal/service"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

const (
	// maxApplied is the largest text that is applied, in bytes: that of the largest file.
	maxApplied = 256 << 10
	// maxComment is the longest comment in bytes.
	maxComment = 500
)

// configChange is one that is asked for: what the file is to hold, and what the history says of it.
type configChange struct {
	now           []byte
	what, comment string
	dryRun        bool
}

// EditChain implements adminv1.ConfigServiceServer.
func (s *Configuration) EditChain(ctx context.Context, r *adminv1.EditChainRequest) (*adminv1.EditChainResponse, error) {
	edit, err := editOf(r)
	if err != nil {
		return nil, err
	}
	resp, err := s.change(ctx, r.GetComment(), func(old []byte) (configChange, error) {
		now, err := config.EditChain(s.o.File, old, edit)
		if err != nil {
			return configChange{}, status.Error(codes.InvalidArgument, err.Error())
		}
		return configChange{now: now, what: editWords(edit), comment: r.GetComment(), dryRun: r.GetDryRun()}, nil
	})
	if err != nil {
		return nil, err
	}
	return &adminv1.EditChainResponse{Change: resp}, nil
}

// ValidateConfig implements adminv1.ConfigServiceServer.
func (s *Configuration) ValidateConfig(_ context.Context, r *adminv1.ValidateConfigRequest) (*adminv1.ValidateConfigResponse, error) {
	old, err := s.text()
	if err != nil {
		return nil, err
	}
	return &adminv1.ValidateConfigResponse{Change: s.look(old, []byte(r.GetText()))}, nil
}

// ApplyConfig implements adminv1.ConfigServiceServer.
func (s *Configuration) ApplyConfig(ctx context.Context, r *adminv1.ApplyConfigRequest) (*adminv1.ApplyConfigResponse, error) {
	if n := len(r.GetText()); n > maxApplied {
		return nil, status.Errorf(codes.InvalidArgument, "the text has %d bytes; %d are the limit", n, maxApplied)
	}
	resp, err := s.change(ctx, r.GetComment(), func(old []byte) (configChange, error) {
		if is := revisionOf(old); r.GetBase() != "" && r.GetBase() != is {
			return configChange{}, status.Errorf(codes.Aborted, "the text was made from revision %.12s, and the file is %.12s now: nothing was done; "+
				"make the change again in what `stagecoach config show` gives", r.GetBase(), is)
		}
		return configChange{now: []byte(r.GetText()), what: "config apply", comment: r.GetComment(), dryRun: r.GetDryRun()}, nil
	})
	if err != nil {
		return nil, err
	}
	return &adminv1.ApplyConfigResponse{Change: resp}, nil
}

// RollbackConfig implements adminv1.ConfigServiceServer.
func (s *Configuration) RollbackConfig(ctx context.Context, r *adminv1.RollbackConfigRequest) (*adminv1.RollbackConfigResponse, error) {
	resp, err := s.change(ctx, r.GetComment(), func(old []byte) (configChange, error) {
		e, text, err := s.revision(r.GetRevision(), old)
		if err != nil {
			return configChange{}, err
		}
		return configChange{now: text, what: fmt.Sprintf("config rollback %.12s", e.Revision), comment: r.GetComment(), dryRun: r.GetDryRun()}, nil
	})
	if err != nil {
		return nil, err
	}
	return &adminv1.RollbackConfigResponse{Change: resp}, nil
}

// change makes a change of the file, one at a time, and says how far that came.
func (s *Configuration) change(ctx context.Context, comment string, make func(old []byte) (configChange, error)) (*adminv1.ConfigChange, error) {
	if s.o.File == "" {
		return nil, status.Error(codes.FailedPrecondition, noFile)
	}
	if len(comment) > maxComment || strings.ContainsFunc(comment, unicode.IsControl) {
		return nil, status.Errorf(codes.InvalidArgument, "a comment is one line of at most %d bytes", maxComment)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old, err := s.text()
	if err != nil {
		return nil, err
	}
	c, err := make(old)
	if err != nil {
		return nil, err
	}
	resp := s.look(old, c.now)
	if len(resp.GetErrors()) > 0 || c.dryRun {
		return resp, nil
	}
	return resp, s.commit(ctx, old, c, resp)
}

// look says what becomes of the file by another text, as the services read it.
func (s *Configuration) look(old, now []byte) *adminv1.ConfigChange {
	resp := &adminv1.ConfigChange{Diff: unified(s.o.File, string(old), string(now)), Revision: revisionOf(now)}
	c, err := s.o.Running.Parse(now)
	if err != nil {
		resp.Errors = errorTexts(err)
		return resp
	}
	resp.Warnings = texts(c.Warnings)
	if before := s.meaning(old); before != nil {
		resp.Plan = planItems(before, c)
	}
	return resp
}

// meaning is the configuration that a text of the file means; if it means none, the one that is in force, as far as its
// text is kept. nil: it cannot be said.
func (s *Configuration) meaning(text []byte) *config.Config {
	if c, err := s.o.Running.Parse(text); err == nil {
		return c
	}
	e, err := s.history.find(s.o.Running.Revision())
	if err != nil {
		return nil
	}
	if text, err = s.history.text(e); err != nil {
		return nil
	}
	if c, err := s.o.Running.Parse(text); err == nil {
		return c
	}
	return nil
}

func planItems(old, now *config.Config) []*adminv1.PlanItem {
	var out []*adminv1.PlanItem
	for _, i := range config.Plan(old, now) {
		out = append(out, &adminv1.PlanItem{Kind: i.Kind, Name: i.Name, Action: string(i.Action), From: i.From, To: i.To, Restart: i.Restart})
	}
	return out
}

// commit writes the file and puts it in force, and says in the answer how far that came. The history has the change
// before the file does.
func (s *Configuration) commit(ctx context.Context, old []byte, c configChange, resp *adminv1.ConfigChange) error {
	if ctx.Err() != nil {
		return status.FromContextError(ctx.Err()).Err()
	}
	if !bytes.Equal(old, c.now) {
		if err := s.write(ctx, old, c, resp); err != nil || !resp.GetWritten() {
			return err
		}
	}
	resp.Written = true
	err := s.o.Running.Reload()
	resp.InForce = s.o.Running.Revision() == resp.GetRevision()
	switch {
	case resp.GetInForce():
	case err != nil:
		resp.Problem = err.Error()
	default:
		resp.Problem = "somebody else changed the file right after"
	}
	return nil
}

// write puts the text into the history and into the file.
func (s *Configuration) write(ctx context.Context, old []byte, c configChange, resp *adminv1.ConfigChange) error {
	if err := s.file.writable(); err != nil {
		resp.Problem = err.Error()
		return nil
	}
	err := s.history.open(revisionOf(old))
	if err == nil {
		err = s.history.enter(old, historyEntry{What: byHand}) // what was written by hand and is not in force
	}
	if err == nil {
		err = s.history.begin(c.now, historyEntry{Base: revisionOf(old), By: service.Actor(ctx), What: c.what, Comment: c.comment})
	}
	if err != nil {
		return status.Errorf(codes.FailedPrecondition, "nothing was changed, for the history cannot be written: %v", err)
	}
	err = s.file.replace(old, c.now)
	// Whatever went wrong, what counts is what the file has.
	if is, rerr := s.file.read(); err == nil || rerr == nil && bytes.Equal(is, c.now) {
		resp.Written = true
	}
	s.settle(resp.GetWritten())
	switch {
	case resp.GetWritten():
		if err != nil {
			return status.Errorf(codes.FailedPrecondition, "the file has the change, but it is not sure that it stays after a crash: %v", err)
		}
	case errors.Is(err, errMeanwhile):
		return status.Error(codes.Aborted, err.Error())
	case errors.Is(err, errReadOnly):
		resp.Problem = err.Error()
		return nil
	default:
		return status.Errorf(codes.FailedPrecondition, "nothing was changed, for the configuration cannot be written: %v", err)
	}
	s.o.Logger.Info("configuration: the file was changed", "file", s.o.File, "by", service.Actor(ctx), "what", c.what, "comment", c.comment,
		"from", revisionOf(old), "to", resp.GetRevision())
	return nil
}

// settle ends what was begun in the history.
func (s *Configuration) settle(made bool) {
	end := s.history.drop
	if made {
		end = s.history.finish
	}
	if err := end(); err != nil {
		s.o.Logger.Error("configuration: its history cannot be kept", "folder", s.o.History, "error", err)
	}
}

// editWords say in a line what an edit is, as the command would.
func editWords(e config.ChainEdit) string {
	words := []string{"chain"}
	switch e.Kind {
	case config.EditInsert:
		words = append(words, "insert", e.Chain, e.Stage)
	case config.EditRemove:
		words = append(words, "remove", e.Chain, e.Stage)
	case config.EditMove:
		words = append(words, "move", e.Chain, e.Stage)
	case config.EditReplace:
		words = append(words, "replace", e.Chain, e.Stage, e.By)
	}
	switch {
	case e.Before != "":
		words = append(words, "before", e.Before)
	case e.After != "":
		words = append(words, "after", e.After)
	case e.First:
		words = append(words, "first")
	case e.Last:
		words = append(words, "last")
	}
	if e.OnError != "" {
		words = append(words, "on_error", e.OnError)
	}
	if e.Inline {
		words = append(words, "inline")
	}
	if e.Shadow {
		words = append(words, "shadow")
	}
	return strings.Join(words, " ")
}
