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
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

// Running is what runs by the configuration file.
type Running interface {
	// Parse reads a text as the running process does; the error is a config.Errors, or why it could not be looked at.
	Parse(text []byte) (*config.Config, error)
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
	// History is the folder where the history of the file is kept: <data_dir>/history. Nobody else may write there.
	History string
	Running Running
	Logger  *slog.Logger
}

// Configuration is the ConfigService: it shows the configuration file and edits it. The file is the one truth, and what
// is changed here is changed there.
type Configuration struct {
	adminv1.UnimplementedConfigServiceServer
	o       ConfigOptions
	file    configFile
	history *history
	mu      sync.Mutex // one change after the other
}

// ConfigService makes one. The file as it stands comes into the history; where that cannot be kept it is logged, and
// tried again at the next change.
func ConfigService(o ConfigOptions) *Configuration {
	s := &Configuration{o: o, file: configFile{path: o.File}, history: newHistory(o.History)}
	if o.File != "" {
		s.enter(func([]byte) bool { return true })
	}
	return s
}

// InForce is told each revision that came into force, whoever made it: what was changed in the file by hand so comes
// into the history. It may be called while a change is made.
func (s *Configuration) InForce(revision string) {
	if s.o.File != "" {
		s.enter(func(text []byte) bool { return revisionOf(text) == revision })
	}
}

// enter puts the file as it stands into the history, if it is the one that is meant.
func (s *Configuration) enter(meant func(text []byte) bool) {
	text, err := s.file.read()
	if err == nil && !meant(text) {
		return // it was changed again, and will be looked at again
	}
	if err == nil {
		if err = s.history.open(revisionOf(text)); err == nil {
			err = s.history.enter(text, historyEntry{What: byHand})
		}
	}
	if err != nil {
		s.o.Logger.Error("configuration: its history cannot be kept", "folder", s.o.History, "error", err)
	}
	if damaged := s.history.tellDamaged(); len(damaged) > 0 {
		s.o.Logger.Warn("configuration: a part of its history cannot be read", "folder", s.o.History, "files", damaged)
	}
}

// byHand is what is known of a change that was not made here.
const byHand = "the file was changed"

// revisionOf is the name of a text.
func revisionOf(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

func (s *Configuration) text() ([]byte, error) {
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
func (s *Configuration) GetConfig(context.Context, *adminv1.GetConfigRequest) (*adminv1.GetConfigResponse, error) {
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
