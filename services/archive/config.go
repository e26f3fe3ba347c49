package archive

import (
	"errors"
	"path/filepath"
	"strings"

	"github.com/stagecoachmail/stagecoach/stage"
)

// Config is the operator's part.
type Config struct {
	// Path is the folder of the archive. A relative one starts at the folder of the configuration file; empty is
	// the folder "archive" in the data directory. It has to be a file system with hard links and a true fsync.
	Path string `yaml:"path"`
}

// Validate refuses a path that no file system takes.
func (c *Config) Validate() error {
	if strings.ContainsRune(c.Path, 0) {
		return errors.New("path: a NUL character cannot stand in a path")
	}
	return nil
}

// Dir is where the archive of an instance with this config lies.
func (c *Config) Dir(s stage.Settings) string {
	switch {
	case c.Path == "":
		return filepath.Join(s.DataDir, "archive")
	case filepath.IsAbs(c.Path):
		return filepath.Clean(c.Path)
	default:
		return filepath.Join(s.ConfigDir, c.Path)
	}
}
