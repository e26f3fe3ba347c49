package signer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/internal/service"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

// listBytes bounds a list of keys.
const listBytes = 3 << 20

// Service serves the DKIM keys of the stages that run here: those of the configuration that current gives, in stages.
func Service(current func() *config.Config, stages *chain.Stages, log *slog.Logger) adminv1.DkimServiceServer {
	return &dkimService{current: current, stages: stages, log: log, now: time.Now}
}

// Services adds Service to the server of a stage's program; it is a serve.Services.
func Services(s grpc.ServiceRegistrar, current func() *config.Config, stages *chain.Stages, log *slog.Logger) {
	adminv1.RegisterDkimServiceServer(s, Service(current, stages, log))
}

type dkimService struct {
	adminv1.UnimplementedDkimServiceServer
	current func() *config.Config
	stages  *chain.Stages
	log     *slog.Logger
	now     func() time.Time

	creating sync.Mutex
}

// ring is the keyring of a stage that runs here.
type ring struct {
	name string
	*keyring
}

// rings are those of a stage, or of all; release when done.
func (s *dkimService) rings(name string) (out []ring, release func(), err error) {
	var releases []func()
	release = func() {
		for _, f := range releases {
			f()
		}
	}
	known := false
	for _, st := range s.current().StagesOf(Type) {
		if name != "" && name != st.Name {
			continue
		}
		known = true
		running, end, ok := s.stages.Use(st.Name)
		if !ok {
			continue
		}
		releases = append(releases, end)
		if signer, ok := running.(*Signer); ok {
			out = append(out, ring{st.Name, signer.ring})
		}
	}
	switch {
	case len(out) > 0:
		return out, release, nil
	case known:
		err = status.Errorf(codes.FailedPrecondition, "no stage of the type %s runs here", Type)
	case name != "":
		err = status.Errorf(codes.NotFound, "there is no stage %q of the type %s", name, Type)
	default:
		err = status.Errorf(codes.NotFound, "there is no stage of the type %s", Type)
	}
	release()
	return nil, nil, err
}

// ListDkimKeys implements the service.
func (s *dkimService) ListDkimKeys(ctx context.Context, r *adminv1.ListDkimKeysRequest) (*adminv1.ListDkimKeysResponse, error) {
	domain := ""
	if d := r.GetDomain(); d != "" {
		var err error
		if domain, err = domainName(d); err != nil {
			return nil, status.Errorf(codes.InvalidArgument, "domain: %v", err)
		}
	}
	rings, release, err := s.rings(r.GetStage())
	if err != nil {
		return nil, err
	}
	defer release()
	resp := &adminv1.ListDkimKeysResponse{}
	size := 0
	for _, one := range rings {
		keys, err := one.inventory(ctx, domain)
		if err != nil {
			return nil, status.Errorf(codes.FailedPrecondition, "stage %s: %v", one.name, err)
		}
		for _, k := range keys {
			p := k.proto(one.name)
			if size += proto.Size(p); size > listBytes {
				return nil, status.Error(codes.ResourceExhausted, "there are too many keys for one answer; name a domain")
			}
			resp.Keys = append(resp.Keys, p)
		}
	}
	return resp, nil
}

// CreateDkimKeys implements the service.
func (s *dkimService) CreateDkimKeys(ctx context.Context, r *adminv1.CreateDkimKeysRequest) (*adminv1.CreateDkimKeysResponse, error) {
	domain, err := domainName(r.GetDomain())
	if err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "domain: %v", err)
	}
	selector := r.GetSelector()
	if selector == "" {
		selector = "s" + s.now().UTC().Format("20060102")
	}
	for _, kind := range []Kind{RSA, Ed25519} {
		if err := checkSelector(selector + "-" + string(kind)); err != nil {
			return nil, status.Errorf(codes.InvalidArgument, "selector: %v", err)
		}
	}
	rings, release, err := s.rings(r.GetStage())
	if err != nil {
		return nil, err
	}
	defer release()
	if len(rings) > 1 {
		var names []string
		for _, one := range rings {
			names = append(names, one.name)
		}
		return nil, status.Errorf(codes.InvalidArgument, "stage: there are several of the type %s: say one of %s", Type, strings.Join(names, ", "))
	}
	one := rings[0]
	s.creating.Lock()
	defer s.creating.Unlock()
	if err := one.roomFor(domain, 2); err != nil {
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	files, err := WriteKeys(one.keyDir, domain, selector)
	for _, f := range files {
		s.log.Info("DKIM key made", "stage", one.name, "domain", f.Domain, "selector", f.Selector, "by", service.Actor(ctx))
	}
	switch {
	case errors.Is(err, fs.ErrExist):
		return nil, status.Errorf(codes.AlreadyExists, "%v: choose another selector; one that was published is never given another key", err)
	case err != nil:
		return nil, status.Errorf(codes.FailedPrecondition, "%v%s", err, made(files))
	}
	keys, err := one.inventory(ctx, domain)
	if err != nil {
		return nil, status.Errorf(codes.FailedPrecondition, "stage %s: %v%s", one.name, err, made(files))
	}
	resp := &adminv1.CreateDkimKeysResponse{}
	for _, f := range files {
		for _, k := range keys {
			if k.file == f.File {
				resp.Keys = append(resp.Keys, k.proto(one.name))
			}
		}
	}
	return resp, nil
}

// made says what is there nevertheless.
func made(files []KeyFile) string {
	var out strings.Builder
	for _, f := range files {
		fmt.Fprintf(&out, "; %s was made", f.File)
	}
	return out.String()
}
