package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"

	"github.com/goccy/go-yaml"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

const (
	defaultConfig = "stagecoach.yaml"
	socketName    = "admin.sock"
	socketEnv     = "STAGECOACH_SOCKET"
	// maxSocketPath is what fits into sun_path on Linux, with its final NUL.
	maxSocketPath = 107
	// maxReceive bounds one answer in bytes: a page of waiting messages has the edits of their hops with it.
	maxReceive = 64 << 20
)

// outline is what the commands need of a configuration file. Whether it is right is not their concern: `check` and the
// services say that, and who operates may not be allowed to read the secrets that it names.
type outline struct {
	DataDir string         `yaml:"data_dir"`
	Stages  map[string]any `yaml:"stages"`
	Chains  []struct {
		Name string `yaml:"name"`
	} `yaml:"chains"`
}

// outline reads the configuration file; without one it is empty. dir is where its relative paths start.
func (a *app) outline() (o outline, dir string, err error) {
	file := a.config
	if file == "" {
		file = defaultConfig
	}
	data, err := os.ReadFile(file)
	switch {
	case err != nil && a.config == "" && errors.Is(err, fs.ErrNotExist):
		return o, ".", nil
	case err != nil:
		return o, "", fmt.Errorf("find the data folder: %w: name another file with -c, or the socket with --socket", err)
	}
	if err := yaml.Unmarshal(data, &o); err != nil {
		return o, "", fmt.Errorf("find the data folder: %s is not to be read: see `stagecoach check %s`, or name the socket with --socket", file, file)
	}
	return o, filepath.Dir(file), nil
}

// target finds the running Stagecoach that is meant: one on the network, or else the socket of one on this machine.
func (a *app) target() (socket string, r *remote, err error) {
	far, near := a.server != "" || a.context != "", a.socket != "" || a.config != ""
	name, byEnv := a.context, a.Getenv(contextEnv)
	switch {
	case far && near:
		return "", nil, usagef("--server and --context are for a Stagecoach on the network, --socket and -c for one of this machine: use one kind")
	case near:
		socket, err = a.socketPath()
		return socket, nil, err
	case name != "":
	case byEnv != "" && a.Getenv(socketEnv) != "" && !far:
		return "", nil, usagef("%s and %s are both set: say which is meant, with --context or --socket, or unset one", contextEnv, socketEnv)
	case byEnv != "":
		name = byEnv
	case a.Getenv(socketEnv) != "" && !far:
		return a.Getenv(socketEnv), nil, nil
	}
	var f *contextFile
	if name != localContext {
		if f, err = a.contexts(); err != nil {
			return "", nil, err
		}
		name = cmp.Or(name, f.Current)
	}
	switch {
	case a.server != "" && (name == "" || name == localContext):
		return "", nil, usagef("--server %s: who you are there stands in a context: name one with --context, or add one with `stagecoach context add NAME --server %[1]s …`", a.server)
	case name == "" || name == localContext:
		socket, err = a.socketPath()
		return socket, nil, err
	}
	c, err := f.named(name)
	if err != nil {
		return "", nil, err
	}
	here := *c
	if a.server != "" {
		here.Server = a.server
	}
	if err := here.check(); err != nil {
		return "", nil, usagef("context %s: %w", name, err)
	}
	if r, err = f.remote(&here, a.Now); err != nil {
		return "", nil, fmt.Errorf("context %s: %w", name, err)
	}
	return "", r, nil
}

// onFiles refuses the flags that name another machine, for what is done with files of this one.
func (a *app) onFiles(flag string) error {
	if a.server != "" || a.context != "" {
		return usagef("%s is about files of this machine: it goes without --server and --context", flag)
	}
	return nil
}

// socketPath finds the socket of the running Stagecoach of this machine.
func (a *app) socketPath() (string, error) {
	if a.socket != "" {
		return a.socket, nil
	}
	// A file that was named says more about what is meant than the environment.
	if env := a.Getenv(socketEnv); env != "" && a.config == "" {
		return env, nil
	}
	o, dir, err := a.outline()
	if err != nil {
		return "", err
	}
	switch {
	case o.DataDir == "":
		return filepath.Join(dir, "data", socketName), nil
	case filepath.IsAbs(o.DataDir):
		return filepath.Join(o.DataDir, socketName), nil
	}
	return filepath.Join(dir, o.DataDir, socketName), nil
}

// dial connects to the running Stagecoach. Every command that asks one goes through here.
func (a *app) dial(ctx context.Context) (*grpc.ClientConn, error) {
	path, remote, err := a.target()
	if err != nil {
		return nil, err
	}
	if a.remote = remote; remote != nil {
		return remote.dial(ctx)
	}
	// The first connection is made here, since the system says why there is none, and gRPC only that there is none.
	first, err := dialSocket(ctx, path)
	if err != nil {
		return nil, unreachable(path, err)
	}
	var mu sync.Mutex
	conn, err := grpc.NewClient("passthrough:///admin", append(dialOptions(),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("localhost"),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			mu.Lock()
			defer mu.Unlock()
			if c := first; c != nil {
				first = nil
				return c, nil
			}
			return dialSocket(ctx, path)
		}))...)
	if err != nil {
		_ = first.Close() //nolint:errcheck // nothing was said on it
		return nil, err
	}
	conn.Connect()
	return conn, nil
}

// dialOptions are those of every connection, by the socket and over the network.
func dialOptions() []grpc.DialOption {
	return []grpc.DialOption{
		// What changes something is never sent twice behind the person's back.
		grpc.WithDisableRetry(), grpc.WithDisableServiceConfig(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxReceive)),
		withRequestID(),
	}
}

func dialSocket(ctx context.Context, path string) (net.Conn, error) {
	if len(path) > maxSocketPath {
		if wd, err := os.Getwd(); err == nil {
			if rel, err := filepath.Rel(wd, path); err == nil && len(rel) < len(path) {
				path = rel
			}
		}
	}
	var d net.Dialer
	return d.DialContext(ctx, "unix", path)
}

// errNotRunning says that nobody serves the socket.
var errNotRunning = errors.New("nothing answers")

// unreachable says what to do about a socket that cannot be connected to.
func unreachable(path string, err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s: no permission: %s may use it, and root", path, owner(path))
	case errors.Is(err, syscall.ENOTSOCK):
		return fmt.Errorf("%s is not a socket: name that of the running Stagecoach with --socket, or its configuration with -c", path)
	case errors.Is(err, syscall.EINVAL) || len(path) > maxSocketPath:
		return fmt.Errorf("%s: the path of a socket has at most %d bytes: go into the folder and name it from there", path, maxSocketPath)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w at %s: is `stagecoach up` running in this folder?\n"+
			"If it runs elsewhere, name its configuration with -c FILE, or its socket with --socket PATH", errNotRunning, path)
	}
	return fmt.Errorf("connect to %s: %w", path, err)
}

// owner is whom the socket belongs to, or the folder that keeps others away from it.
func owner(path string) string {
	for p := path; ; p = filepath.Dir(p) {
		st, err := os.Stat(p)
		if err != nil {
			if p == filepath.Dir(p) {
				return "its owner"
			}
			continue
		}
		sys, ok := st.Sys().(*syscall.Stat_t)
		if !ok {
			return "its owner"
		}
		id := strconv.FormatUint(uint64(sys.Uid), 10)
		if u, err := user.LookupId(id); err == nil {
			return "user " + u.Username
		}
		return "user " + id
	}
}
