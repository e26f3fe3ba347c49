package embedded

import (
	"github.com/stagecoachmail/stagecoach/internal/service"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	"github.com/stagecoachmail/stagecoach/stage/serve"
)

// node shows this process, which is everything. There is nobody else: drained, mail is taken by no one.
func (in *Installation) node() adminv1.NodeServiceServer {
	o := service.NodeOptions{Service: "up", Revision: running{in}.Revision, Stages: serve.NodeStages(in.stages),
		Drain: in.ingress.Drain, Sessions: in.ingress.Sessions, Alone: true, Logger: in.o.Logger}
	if in.o.File != "" {
		o.File = file{running{in}}
	}
	return service.NodeService(o)
}

// file is the configuration file, which is watched while the installation runs.
type file struct{ running }

// Err implements service.NodeFile.
func (f file) Err() error { return f.Refused() }

// FileRevision implements service.NodeFile.
func (f file) FileRevision() string {
	if w := f.in.watch.Load(); w != nil {
		return w.FileRevision()
	}
	return ""
}
