package stage

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Settings are what the house gives to a stage; the operator's part is its config.
type Settings struct {
	// Instance is the name of the stage in the configuration ("footer-de").
	Instance string
	// Hostname is the installation's name.
	Hostname string
	// Logger is never nil.
	Logger *slog.Logger
	// ConfigDir is the folder of the configuration file: relative paths in a config start here.
	ConfigDir string
	// DataDir is where the installation keeps what lasts (archive, keys).
	DataDir string
	// TempDir is for temporary files, on disk.
	TempDir string
	// Now is the clock.
	Now func() time.Time
	// Metrics takes what a stage counts beside its calls, which are counted for it; nil: nobody looks. A stage of the same
	// name may be made again after a change of its config: what is registered already is to be used again
	// (prometheus.AlreadyRegisteredError). Labels hold the instance and small fixed sets.
	Metrics prometheus.Registerer
}

// Validator is a config that can check itself. Its error is shown at the config's place in the file;
// it names the key and says what to do.
type Validator interface{ Validate() error }

// Factory makes the instances of one type of stage. The house has an explicit list of them; nothing registers itself.
type Factory struct {
	// Type is the name in the configuration ("disclaimer").
	Type string
	// Traits are the worst case of every configuration.
	Traits Traits

	decode func(into func(any) error) (any, error)
	build  func(Settings, any) (Stage, error)
}

// NewFactory describes a type of stage with config C. defaults gives the config before the file is read. build may
// return a Stage that is also an io.Closer; it is closed after its last Process has returned.
func NewFactory[C any](typ string, traits Traits, defaults func() C, build func(Settings, C) (Stage, error)) Factory {
	return Factory{
		Type:   typ,
		Traits: traits,
		decode: func(into func(any) error) (any, error) {
			c := defaults()
			if err := into(&c); err != nil {
				return nil, err
			}
			if v, ok := any(&c).(Validator); ok {
				if err := v.Validate(); err != nil {
					return nil, err
				}
			}
			return c, nil
		},
		build: func(s Settings, c any) (Stage, error) {
			cfg, ok := c.(C)
			if !ok {
				return nil, fmt.Errorf("stage %s: config is a %T", typ, c)
			}
			return build(s, cfg)
		},
	}
}

// Decode reads and validates a config: into fills the pointer it is given, strictly.
func (f Factory) Decode(into func(any) error) (any, error) { return f.decode(into) }

// New builds an instance from a config that Decode returned.
func (f Factory) New(s Settings, config any) (Stage, error) { return f.build(s, config) }
