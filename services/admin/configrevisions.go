package admin

import (
	"context"
	"errors"
	"strconv"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

const (
	// revisionsPage is how many revisions a page has unless the caller says.
	revisionsPage = 50
)

// ListRevisions implements adminv1.ConfigServiceServer.
func (s *Configuration) ListRevisions(_ context.Context, r *adminv1.ListRevisionsRequest) (*adminv1.ListRevisionsResponse, error) {
	size := int(r.GetPageSize())
	if size == 0 {
		size = revisionsPage
	}
	if size > historyKept {
		return nil, status.Errorf(codes.InvalidArgument, "page_size is at most %d", historyKept)
	}
	below := ^uint64(0)
	if t := r.GetPageToken(); t != "" {
		var err error
		if below, err = strconv.ParseUint(t, 10, 64); err != nil {
			return nil, status.Error(codes.InvalidArgument, "this is no page_token of this list")
		}
	}
	file, err := s.openedHistory()
	if err != nil {
		return nil, err
	}
	resp := &adminv1.ListRevisionsResponse{}
	seen := false // the newest entry of the file's revision is the current one
	for _, e := range s.history.list() {
		current := !seen && e.Revision == file
		seen = seen || current
		if e.number >= below {
			continue
		}
		if n := len(resp.GetRevisions()); n == size {
			resp.NextPageToken = strconv.FormatUint(e.number+1, 10)
			break
		}
		resp.Revisions = append(resp.Revisions, revisionMessage(e, current))
	}
	return resp, nil
}

// openedHistory opens the history, and gives the revision of the file as it stands.
func (s *Configuration) openedHistory() (string, error) {
	if s.o.File == "" {
		return "", status.Error(codes.FailedPrecondition, noFile)
	}
	text, err := s.text()
	if err != nil {
		return "", err
	}
	file := revisionOf(text)
	if err := s.history.open(file); err != nil {
		return "", status.Errorf(codes.FailedPrecondition, "the history of the configuration cannot be read: %v", err)
	}
	return file, nil
}

func revisionMessage(e historyEntry, current bool) *adminv1.ConfigRevision {
	return &adminv1.ConfigRevision{Revision: e.Revision, At: timestamppb.New(e.At), By: e.By, What: e.What, Comment: e.Comment, Current: current}
}

// GetRevision implements adminv1.ConfigServiceServer.
func (s *Configuration) GetRevision(_ context.Context, r *adminv1.GetRevisionRequest) (*adminv1.GetRevisionResponse, error) {
	file, err := s.text()
	if err != nil {
		return nil, err
	}
	e, text, err := s.revision(r.GetRevision(), file)
	if err != nil {
		return nil, err
	}
	with := file
	if r.GetWith() != "" {
		if _, with, err = s.revision(r.GetWith(), file); err != nil {
			return nil, err
		}
	}
	resp := &adminv1.GetRevisionResponse{Revision: revisionMessage(e, e.Revision == revisionOf(file)), Text: string(text), Diff: unified(s.o.File, string(text), string(with))}
	if old, err := s.o.Running.Parse(text); err == nil {
		if now, err := s.o.Running.Parse(with); err == nil {
			resp.Plan = planItems(old, now)
		}
	}
	return resp, nil
}

// revision finds a revision of the history and its text; without a name the one before the file as it stands.
func (s *Configuration) revision(name string, file []byte) (historyEntry, []byte, error) {
	if _, err := s.openedHistory(); err != nil {
		return historyEntry{}, nil, err
	}
	var e historyEntry
	var err error
	if name == "" {
		e, err = s.history.before(revisionOf(file))
	} else {
		e, err = s.history.find(name)
	}
	switch {
	case errors.Is(err, errAmbiguous):
		return e, nil, status.Errorf(codes.InvalidArgument, "%q: %v", name, err)
	case err != nil:
		return e, nil, status.Error(codes.NotFound, err.Error())
	}
	text, err := s.history.text(e)
	if errors.Is(err, errDamaged) {
		return e, nil, status.Error(codes.DataLoss, err.Error())
	}
	if err != nil {
		return e, nil, status.Errorf(codes.FailedPrecondition, "the history of the configuration cannot be read: %v", err)
	}
	return e, text, nil
}
