package embedded

import (
	"errors"
	"path/filepath"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"

	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/services/admin"
)

// configuration is the part of the operator's API that edits the file.
func (in *Installation) configuration() adminv1.ConfigServiceServer {
	return admin.ConfigService(admin.ConfigOptions{File: in.o.File, BuiltIn: config.Default(in.config.DataDir), Running: running{in}, Logger: in.o.Logger})
}

// running is an installation as the configuration's editor sees it.
type running struct{ in *Installation }

// Check implements admin.Running.
func (r running) Check(text []byte) (config.Errors, error) {
	c, err := r.in.o.Reading.Parse(r.in.o.File, filepath.Dir(r.in.o.File), text)
	if err != nil {
		return nil, err
	}
	return c.Warnings, nil
}

// Reload implements admin.Running.
func (r running) Reload() error {
	w := r.in.watch.Load()
	if w == nil {
		return errors.New("the configuration is not watched: restart")
	}
	return w.Reload()
}

// Revision implements admin.Running.
func (r running) Revision() string { return r.in.current.Load().Revision }

// Refused implements admin.Running.
func (r running) Refused() error {
	if w := r.in.watch.Load(); w != nil {
		return w.Err()
	}
	return nil
}
