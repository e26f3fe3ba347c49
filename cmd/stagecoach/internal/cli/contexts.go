package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"

	"github.com/stagecoachmail/stagecoach/internal/config"
)

const (
	contextEnv  = "STAGECOACH_CONTEXT"
	contextsEnv = "STAGECOACH_CONTEXTS"
	// localContext is the name under which the socket of this machine is chosen where another one is current.
	localContext = "local"
	// adminIdentity is what the certificate of admin bears, if it is that of the pki.
	adminIdentity = "admin"
	// maxContexts and maxToken bound what is read of the files, in bytes.
	maxContexts = 1 << 20
	maxToken    = 4 << 10
)

// contextFile is what stands in the file of contexts.
type contextFile struct {
	Current  string                    `yaml:"current,omitempty" json:"current"`
	Contexts map[string]*remoteContext `yaml:"contexts,omitempty" json:"contexts"`

	path string
}

// remoteContext is a Stagecoach on the network, and as whom it is called. Relative paths start at the folder of the file.
type remoteContext struct {
	// Server is host:port.
	Server string `yaml:"server" json:"server"`
	// CA has the certificates that the server's must come from; empty: those of this system.
	CA string `yaml:"ca,omitempty" json:"ca,omitempty"`
	// Certificate and Key are a person's, of the pki of the installation.
	Certificate string `yaml:"certificate,omitempty" json:"certificate,omitempty"`
	Key         string `yaml:"key,omitempty" json:"key,omitempty"`
	// TokenFile has a token instead.
	TokenFile string `yaml:"token_file,omitempty" json:"token_file,omitempty"`
	// ServerName is what the server's certificate must bear; empty: admin.
	ServerName string `yaml:"server_name,omitempty" json:"server_name,omitempty"`
}

var contextName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// check says what is wrong with a context, but for its files.
func (c *remoteContext) check() error {
	host, port, err := net.SplitHostPort(c.Server)
	switch {
	case c.Server == "":
		return errors.New("server is missing: host:port of the admin API")
	case err != nil || host == "" || port == "":
		return fmt.Errorf("server %q is not host:port", c.Server)
	case (c.Certificate == "") != (c.Key == ""):
		return errors.New("a certificate and its key go together: one of them is missing")
	case c.Certificate == "" && c.TokenFile == "":
		return errors.New("nothing says who you are: a certificate with its key, or a token_file, is needed")
	case c.Certificate != "" && c.TokenFile != "":
		return errors.New("a certificate and a token_file: only one of them can say who you are")
	case c.CA == "" && c.ServerName == "":
		return errors.New("the certificates of this system's CAs are for server names: without ca, server_name must be set")
	}
	return nil
}

// contextsPath is where the contexts of the person are; empty: nowhere.
func (a *app) contextsPath() string {
	if p := a.Getenv(contextsEnv); p != "" {
		return p
	}
	if dir := a.Getenv("XDG_CONFIG_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "stagecoach", "contexts.yaml")
	}
	if home := a.Getenv("HOME"); home != "" {
		return filepath.Join(home, ".config", "stagecoach", "contexts.yaml")
	}
	return ""
}

// contexts reads them; without a file there are none.
func (a *app) contexts() (*contextFile, error) {
	f := &contextFile{path: a.contextsPath(), Contexts: map[string]*remoteContext{}}
	if f.path == "" {
		return f, nil
	}
	data, err := readPrivate(f.path, maxContexts)
	if errors.Is(err, fs.ErrNotExist) {
		return f, nil
	}
	if err != nil {
		return nil, fmt.Errorf("contexts: %w", err)
	}
	if err := yaml.UnmarshalWithOptions(data, f, yaml.Strict()); err != nil {
		return nil, fmt.Errorf("%s is not to be read:\n%s", f.path, strings.TrimSpace(yaml.FormatError(err, false, false)))
	}
	for name, c := range f.Contexts {
		if !contextName.MatchString(name) || name == localContext || c == nil {
			return nil, fmt.Errorf("%s: %q is no name of a context, or has nothing in it", f.path, name)
		}
		if err := c.check(); err != nil {
			return nil, fmt.Errorf("%s: context %s: %w", f.path, name, err)
		}
	}
	return f, nil
}

// named gives a context.
func (f *contextFile) named(name string) (*remoteContext, error) {
	if c, ok := f.Contexts[name]; ok {
		return c, nil
	}
	where := f.path
	if where == "" {
		where = "a folder for it: neither " + contextsEnv + " nor HOME is set"
	}
	return nil, fmt.Errorf("there is no context %q in %s%s", name, where, config.Suggest(name, f.names(), "contexts"))
}

func (f *contextFile) names() []string { return slices.Sorted(maps.Keys(f.Contexts)) }

// at is a path of the file, from the current folder.
func (f *contextFile) at(path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(filepath.Dir(f.path), path)
}

// write puts the file in place of the old one, readable for its owner alone.
func (f *contextFile) write() error {
	if f.path == "" {
		return fmt.Errorf("there is no folder for contexts: set %s to a file, or HOME", contextsEnv)
	}
	var b bytes.Buffer
	if err := yaml.NewEncoder(&b).Encode(f); err != nil {
		return fmt.Errorf("contexts: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(f.path), 0o700); err != nil {
		return fmt.Errorf("contexts: %w", err)
	}
	tmp, err := os.CreateTemp(filepath.Dir(f.path), ".contexts-*") // with mode 0600
	if err != nil {
		return fmt.Errorf("contexts: %w", err)
	}
	defer os.Remove(tmp.Name()) //nolint:errcheck // it is gone if all went well
	_, err = tmp.Write(b.Bytes())
	if err := errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return fmt.Errorf("contexts: %w", err)
	}
	if err := os.Rename(tmp.Name(), f.path); err != nil {
		return fmt.Errorf("contexts: %w", err)
	}
	return nil
}

// readPrivate reads a file that nobody but its owner may read or write.
func readPrivate(path string, most int64) ([]byte, error) {
	st, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, err
	case !st.Mode().IsRegular():
		return nil, fmt.Errorf("%s is no file", path)
	case st.Mode().Perm()&0o077 != 0:
		return nil, fmt.Errorf("%s may be used by others (mode %04o), and what it says decides where you send your secrets: chmod 600 %[1]s", path, st.Mode().Perm())
	case st.Size() > most:
		return nil, fmt.Errorf("%s is larger than %d bytes", path, most)
	}
	return os.ReadFile(path)
}
