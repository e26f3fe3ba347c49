package embedded

import (
	"errors"
	"path/filepath"

	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/services/admin"
)

// configuration is the part of the operator's API that edits the file.
func (in *Installation) configuration() *admin.Configuration {
	return admin.ConfigService(admin.ConfigOptions{File: in.o.File, BuiltIn: config.Default(in.config.DataDir),
		History: filepath.Join(in.config.DataDir, "history"), Running: running{in}, Logger: in.o.Logger})
}

// running is an installation as the configuration's editor sees it.
type running struct{ in *Installation }

// Parse implements admin.Running.
func (r running) Parse(text []byte) (*config.Config, error) {
	return r.in.o.Reading.Parse(r.in.o.File, filepath.Dir(r.in.o.File), text)
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
