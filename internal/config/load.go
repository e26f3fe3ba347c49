package config

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"

	"github.com/stagecoachmail/stagecoach/stage"
)

// Mode says in what arrangement the configuration is to run.
type Mode int

const (
	// ModeService: every service is a process of its own. Each stage, ingress and egress has an address; `nats` is
	// needed, and `pki` unless everything is on this machine.
	ModeService Mode = iota
	// ModeUp: everything in one process with an embedded NATS. Addresses of what is linked in are not used; a stage
	// that is not linked in is dialled.
	ModeUp
)

// Options say for whom a file is read. The zero value is what `stagecoach check` wants: separate processes, every
// file looked at.
type Options struct {
	Mode Mode
	// Service is whose files and secrets must be there: "ingress", "egress" or the type of a stage; empty: all of
	// them. What does not depend on this machine is checked always.
	Service string
	// Factories that are linked in: their configs are decoded. Of the built-in types that are not, the traits are
	// known and the config is hashed only.
	Factories []stage.Factory
	// Getenv finds an environment variable; nil: os.LookupEnv.
	Getenv func(string) (string, bool)
	// Gateways are the addresses under which a container sees every client from outside it; nil: ContainerGateways.
	Gateways func() Gateways
}

// Load reads a file as a process of its own does that has the given factories; every file that it names must be
// there. Options.Load says more. The error is an Errors, or that of reading the file.
func Load(path string, factories ...stage.Factory) (*Config, error) {
	return Options{Factories: factories}.Load(path)
}

// Parse is Load for bytes: name is the file's name in errors, dir the folder where relative paths start.
func Parse(name, dir string, data []byte, factories ...stage.Factory) (*Config, error) {
	return Options{Factories: factories}.Parse(name, dir, data)
}

// Load reads and checks a file. The error is an Errors, or that of reading the file.
func (o Options) Load(path string) (*Config, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, err
	}
	return o.Parse(path, filepath.Dir(path), data)
}

// readFile reads no more than Parse takes, and what it needs to say that there is more.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	return data, nil
}

// Parse reads and checks the bytes of a file: name is its name in errors, dir the folder where relative paths start.
// The error is an Errors with everything that is wrong.
func (o Options) Parse(name, dir string, data []byte) (*Config, error) {
	p := &problems{file: name}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	if o.Getenv == nil {
		o.Getenv = os.LookupEnv
	}
	if o.Gateways == nil {
		o.Gateways = ContainerGateways
	}
	sum := sha256.Sum256(data)
	b := &builder{
		o: o, p: p,
		c: &Config{Dir: dir, Revision: hex.EncodeToString(sum[:]), Stages: map[string]*Stage{}, Routes: map[string]*Route{}},
	}
	if root := readTree(p, data); root != nil {
		d := &decoder{p}
		if root.kind != kindMap {
			d.wrong(root, "", "a mapping of keys")
			return nil, p.err()
		}
		d.value(root, reflect.ValueOf(&b.raw).Elem(), "")
		b.root = root.spot
		b.build(d)
	}
	if err := p.err(); err != nil {
		return nil, err
	}
	b.c.Warnings = sorted(p.warnings)
	return b.c, nil
}

// builder makes the Config of what was read, checking as it goes.
type builder struct {
	o    Options
	p    *problems
	raw  rawFile
	root spot
	c    *Config
}

func (b *builder) build(d *decoder) {
	b.installation()
	b.ingress()
	b.domains()
	b.relay()
	b.stages(d)
	b.routes()
	b.chains()
	b.domainsTaken()
	b.public()
	b.admin()
	b.telemetry()
	b.addresses()
}

// wants says that the files of a service must be there.
func (b *builder) wants(service string) bool {
	return b.o.Service == "" || b.o.Service == service
}

func (b *builder) factory(typ string) (stage.Factory, bool) {
	i := slices.IndexFunc(b.o.Factories, func(f stage.Factory) bool { return f.Type == typ })
	if i < 0 {
		return stage.Factory{}, false
	}
	return b.o.Factories[i], true
}

// stageNames are the names of all stages of the file, of the broken ones too: what names one is not dangling.
func (b *builder) stageNames() []string {
	return slices.Collect(maps.Keys(b.c.Stages))
}
