package archive

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/internal/config"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	"github.com/stagecoachmail/stagecoach/stage"
)

// chunkSize is the largest chunk of a message, in bytes.
const chunkSize = 256 << 10

// Service serves the archives of the configuration that current gives: what their stages have kept, whether they run
// here or not.
func Service(current func() *config.Config, log *slog.Logger) adminv1.ArchiveServiceServer {
	return &service{current: current, log: log, patience: listTime}
}

// Services adds Service to the server of a stage's program; it is a serve.Services.
func Services(s grpc.ServiceRegistrar, current func() *config.Config, _ *chain.Stages, log *slog.Logger) {
	adminv1.RegisterArchiveServiceServer(s, Service(current, log))
}

type service struct {
	adminv1.UnimplementedArchiveServiceServer
	current  func() *config.Config
	log      *slog.Logger
	patience time.Duration // of a page
}

// instance is the archive of a stage.
type instance struct {
	name string
	*Archive
}

// archives opens the archives of a stage, or of all stages; stages that share a folder are one, by the first name.
func (s *service) archives(name string) ([]instance, error) {
	cfg := s.current()
	var out []instance
	seen := map[string]bool{}
	known := false
	for _, st := range cfg.StagesOf(Type) {
		c, ok := st.Decoded.(Config)
		if !ok || name != "" && name != st.Name {
			continue
		}
		known = true
		dir := c.Dir(stage.Settings{ConfigDir: cfg.Dir, DataDir: cfg.DataDir})
		if seen[dir] {
			continue
		}
		seen[dir] = true
		a, err := Open(dir)
		if errors.Is(err, fs.ErrNotExist) && name == "" {
			continue // its stage keeps it elsewhere, or has not run yet
		}
		if err != nil {
			return nil, status.Errorf(codes.FailedPrecondition, "the archive of stage %s cannot be read here: %v", st.Name, err)
		}
		out = append(out, instance{st.Name, a})
	}
	switch {
	case name != "" && !known:
		return nil, status.Errorf(codes.NotFound, "there is no stage %q of the type %s", name, Type)
	case !known:
		return nil, status.Errorf(codes.NotFound, "there is no stage of the type %s", Type)
	case len(out) == 0:
		return nil, status.Error(codes.FailedPrecondition, "no archive is on this machine yet: its stage has not run here")
	}
	return out, nil
}

// GetArchived implements the service.
func (s *service) GetArchived(r *adminv1.GetArchivedRequest, stream grpc.ServerStreamingServer[adminv1.GetArchivedResponse]) error {
	all, err := s.archives(r.GetStage())
	if err != nil {
		return err
	}
	found, e, err := find(stream.Context(), all, r.GetId())
	if err != nil {
		return err
	}
	v := len(e.Versions) - 1
	if sum := r.GetSha256(); sum != "" {
		if v = slices.IndexFunc(e.Versions, func(v Version) bool { return v.SHA256 == sum }); v < 0 {
			return status.Errorf(codes.NotFound, "message %q has no form with the SHA-256 %.70q", e.ID, sum)
		}
	}
	if err := stream.Send(&adminv1.GetArchivedResponse{Kind: &adminv1.GetArchivedResponse_Message{Message: entryProto(found.name, e)}}); err != nil {
		return err
	}
	if r.GetWithoutContent() {
		return nil
	}
	err = sendBlob(stream, &e.Versions[v])
	if status.Code(err) == codes.DataLoss {
		s.log.Error("an archived message is damaged", "stage", found.name, "id", e.ID, "sha256", e.Versions[v].SHA256, "error", err)
	}
	return err
}

// find looks for a message in each archive.
func find(ctx context.Context, all []instance, id string) (instance, *Entry, error) {
	for _, in := range all {
		if err := ctx.Err(); err != nil {
			return in, nil, status.FromContextError(err).Err()
		}
		e, err := in.Get(id)
		switch {
		case err == nil:
			return in, e, nil
		case errors.Is(err, ErrDamaged):
			return in, nil, status.Errorf(codes.DataLoss, "stage %s: %v", in.name, err)
		case !errors.Is(err, ErrNotFound):
			return in, nil, status.Errorf(codes.Unavailable, "stage %s: %v", in.name, err)
		}
	}
	return instance{}, nil, status.Errorf(codes.NotFound, "no archive has a message %q", id)
}

// sendBlob sends the bytes of a version. Only its end says that they are those that were archived.
func sendBlob(stream grpc.ServerStreamingServer[adminv1.GetArchivedResponse], v *Version) error {
	blob, err := v.Open()
	if errors.Is(err, fs.ErrNotExist) {
		return status.Errorf(codes.DataLoss, "the bytes of the message are gone: %v", err)
	}
	if err != nil {
		return status.Error(codes.Unavailable, err.Error())
	}
	defer blob.Close()
	buf := make([]byte, chunkSize)
	for {
		n, err := io.ReadFull(blob, buf)
		if n > 0 && !errors.Is(err, ErrDamaged) {
			if err := stream.Send(&adminv1.GetArchivedResponse{Kind: &adminv1.GetArchivedResponse_Chunk{Chunk: buf[:n]}}); err != nil {
				return err
			}
		}
		switch {
		case err == nil:
		// First: what is damaged may wrap the unexpected end of a file.
		case errors.Is(err, ErrDamaged):
			return status.Errorf(codes.DataLoss, "the bytes are not those that were archived: %v", err)
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return nil
		default:
			return status.Error(codes.Unavailable, err.Error())
		}
	}
}

func entryProto(name string, e *Entry) *adminv1.ArchivedMessage {
	out := &adminv1.ArchivedMessage{Stage: name, Id: valid(e.ID), Damaged: e.Damaged}
	if !e.Received.IsZero() {
		out.Received = timestamppb.New(e.Received)
	}
	for i := range e.Versions {
		v := &e.Versions[i]
		p := &adminv1.ArchivedVersion{Archived: timestamppb.New(v.Archived), Envelope: chain.EnvelopeProto(&v.Envelope), Sha256: v.SHA256, Size: uint64(max(v.Size, 0))}
		for _, id := range v.Recipients {
			p.Recipients = append(p.Recipients, valid(string(id)))
		}
		out.Versions = append(out.Versions, p)
	}
	return out
}
