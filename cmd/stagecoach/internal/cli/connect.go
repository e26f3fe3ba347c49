package cli

import (
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

// socketPath finds the socket of the running Stagecoach.
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
	path, err := a.socketPath()
	if err != nil {
		return nil, err
	}
	// The first connection is made here, since the system says why there is none, and gRPC only that there is none.
	first, err := dialSocket(ctx, path)
	if err != nil {
		return nil, unreachable(path, err)
	}
	var mu sync.Mutex
	conn, err := grpc.NewClient("passthrough:///admin",
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("localhost"),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			mu.Lock()
			defer mu.Unlock()
			if c := first; c != nil {
				first = nil
				return c, nil
			}
			return dialSocket(ctx, path)
		}),
		// What changes something is never sent twice behind the person's back.
		grpc.WithDisableRetry(), grpc.WithDisableServiceConfig(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxReceive)),
	)
	if err != nil {
		_ = first.Close() //nolint:errcheck // nothing was said on it
		return nil, err
	}
	conn.Connect()
	return conn, nil
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
