package admin

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"log/slog"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/internal/service"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

// Running is what runs by the configuration file.
type Running interface {
	// Check reads a text as the running process does; the error is a config.Errors, or why it could not be looked at.
	Check(text []byte) (warnings config.Errors, err error)
	// Reload takes up the file as it stands now, as a look at it by the clock would, and says why not.
	Reload() error
	// Revision is the one in force.
	Revision() string
	// Refused is why the file is not in force; nil when it is, or was not looked at yet.
	Refused() error
}

// ConfigOptions are what ConfigService works on.
type ConfigOptions struct {
	// File is the configuration file; empty: there is none, and BuiltIn is what runs.
	File    string
	BuiltIn []byte
	Running Running
	Logger  *slog.Logger
}

// ConfigService shows the configuration file and edits it: the file is the one truth, and what is changed here is
// changed there.
func ConfigService(o ConfigOptions) adminv1.ConfigServiceServer {
	return &configService{o: o, file: configFile{path: o.File}}
}

type configService struct {
	adminv1.UnimplementedConfigServiceServer
	o    ConfigOptions
	file configFile
	mu   sync.Mutex // one change after the other
}

// revisionOf is the name of a text.
func revisionOf(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

func (s *configService) text() ([]byte, error) {
	if s.o.File == "" {
		return s.o.BuiltIn, nil
	}
	text, err := s.file.read()
	if err != nil {
		return nil, status.Errorf(codes.FailedPrecondition, "the configuration cannot be read: %v", err)
	}
	return text, nil
}

// GetConfig implements adminv1.ConfigServiceServer.
func (s *configService) GetConfig(context.Context, *adminv1.GetConfigRequest) (*adminv1.GetConfigResponse, error) {
	text, err := s.text()
	if err != nil {
		return nil, err
	}
	resp := &adminv1.GetConfigResponse{Revision: revisionOf(text), Text: string(text), File: s.o.File, Running: s.o.Running.Revision()}
	switch {
	case s.o.File == "":
		resp.NotWritable = noFile
	default:
		if err := s.file.writable(); err != nil {
			resp.NotWritable = err.Error()
		}
	}
	resp.Writable = resp.NotWritable == ""
	if err := s.o.Running.Refused(); err != nil {
		resp.Refused = err.Error()
	}
	chains, err := config.ChainTexts(s.o.File, text)
	if err != nil {
		return resp, nil // the text is what it is
	}
	for _, c := range chains {
		out := &adminv1.ConfigChain{Name: c.Name, Deliver: c.Deliver}
		for _, u := range c.Uses {
			out.Uses = append(out.Uses, &adminv1.ConfigUse{Stage: u.Stage, OnError: u.OnError, Inline: u.Inline, Shadow: u.Shadow})
		}
		resp.Chains = append(resp.Chains, out)
	}
	return resp, nil
}

const noFile = "there is no configuration file: write a stagecoach.yaml first (`stagecoach config show` gives what runs now), and start again with it"

// EditChain implements adminv1.ConfigServiceServer.
func (s *configService) EditChain(ctx context.Context, r *adminv1.EditChainRequest) (*adminv1.EditChainResponse, error) {
	if s.o.File == "" {
		return nil, status.Error(codes.FailedPrecondition, noFile)
	}
	edit, err := editOf(r)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old, err := s.text()
	if err != nil {
		return nil, err
	}
	now, err := config.EditChain(s.o.File, old, edit)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	resp := &adminv1.ConfigChange{Diff: unified(s.o.File, string(old), string(now)), Revision: revisionOf(now)}
	warnings, err := s.o.Running.Check(now)
	resp.Warnings, resp.Errors = texts(warnings), errorTexts(err)
	if len(resp.Errors) > 0 || r.GetDryRun() {
		return &adminv1.EditChainResponse{Change: resp}, nil
	}
	return &adminv1.EditChainResponse{Change: resp}, s.commit(ctx, old, now, resp)
}

// commit writes the file and puts it in force, and says in the answer how far that came.
func (s *configService) commit(ctx context.Context, old, now []byte, resp *adminv1.ConfigChange) error {
	if ctx.Err() != nil {
		return status.FromContextError(ctx.Err()).Err()
	}
	err := s.file.replace(old, now)
	switch {
	case errors.Is(err, errMeanwhile):
		return status.Error(codes.Aborted, err.Error())
	case errors.Is(err, errReadOnly):
		resp.Problem = err.Error()
		return nil
	case err != nil:
		return status.Errorf(codes.FailedPrecondition, "the configuration cannot be written: %v", err)
	}
	resp.Written = true
	s.o.Logger.Info("configuration: the file was changed", "file", s.o.File, "by", service.Actor(ctx), "from", revisionOf(old), "to", resp.GetRevision())
	err = s.o.Running.Reload()
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

// editOf reads what is asked for.
func editOf(r *adminv1.EditChainRequest) (config.ChainEdit, error) {
	e := config.ChainEdit{Chain: r.GetChain()}
	var place *adminv1.UsePlace
	switch edit := r.GetEdit().(type) {
	case *adminv1.EditChainRequest_Insert:
		u := edit.Insert.GetUse()
		e.Kind, e.Stage, e.OnError, e.Inline, e.Shadow = config.EditInsert, u.GetStage(), u.GetOnError(), u.GetInline(), u.GetShadow()
		place = edit.Insert.GetPlace()
	case *adminv1.EditChainRequest_Remove:
		e.Kind, e.Stage = config.EditRemove, edit.Remove.GetStage()
	case *adminv1.EditChainRequest_Move:
		e.Kind, e.Stage = config.EditMove, edit.Move.GetStage()
		place = edit.Move.GetPlace()
	case *adminv1.EditChainRequest_Replace:
		e.Kind, e.Stage, e.By = config.EditReplace, edit.Replace.GetStage(), edit.Replace.GetBy()
	default:
		return e, status.Error(codes.InvalidArgument, "no edit is asked for")
	}
	e.Before, e.After, e.First, e.Last = place.GetBefore(), place.GetAfter(), place.GetFirst(), place.GetLast()
	return e, nil
}

func texts(list config.Errors) []string {
	var out []string
	for _, e := range list {
		out = append(out, e.Error())
	}
	return out
}

func errorTexts(err error) []string {
	if err == nil {
		return nil
	}
	if all, ok := errors.AsType[config.Errors](err); ok {
		return texts(all)
	}
	return []string{err.Error()}
}
