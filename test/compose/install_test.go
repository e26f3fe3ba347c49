//go:build compose

package compose

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// containerUser is whom the data belongs to.
const containerUser = 10001

// The user that tests log in as.
const (
	user     = "alice"
	password = "a coach and four"
)

// install is one installation: a copy of deploy/compose, started under a project of its own.
type install struct {
	dir, project string
	// files are the compose files, with -f before each; more are arguments of up.
	files, more []string
	env         []string
	ports       map[string]int
}

var (
	shared     *install
	sharedOnce sync.Once
)

// demo is the installation that tests share which leave it as they found it: compose.yaml with the profile demo.
func demo(t *testing.T) *install {
	t.Helper()
	sharedOnce.Do(func() {
		in := newInstall(t, "demo", "compose.yaml")
		in.edit(t, "config.demo/stagecoach.yaml", func(s string) string {
			// A stage to be inserted.
			return strings.Replace(s, "\n  archive:", "\n  notice: {type: disclaimer, address: \"disclaimer:7001\", config: {text: \""+notice+"\"}}\n  archive:", 1)
		})
		in.up(t)
		shared = in
		in.addUser(t)
	})
	if shared == nil {
		t.Fatal("the installation did not start")
	}
	logOnFailure(t, shared)
	return shared
}

// newInstall copies deploy/compose; nothing runs yet.
func newInstall(t *testing.T, name string, files ...string) *install {
	t.Helper()
	dir, err := os.MkdirTemp("", "sc") // short: there is a unix socket in it
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cp", "-r", filepath.Join("..", "..", "deploy", "compose"), dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	in := &install{dir: filepath.Join(dir, "compose"), project: fmt.Sprintf("sctest%s%d", name, os.Getpid()), ports: map[string]int{}}
	for _, d := range []string{"data", "data.single"} { // of somebody who works in the checkout
		if err := os.RemoveAll(filepath.Join(in.dir, d)); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range files {
		in.files = append(in.files, "-f", f)
	}
	// The config folder belongs to who may change it by the API.
	configs, err := filepath.Glob(filepath.Join(in.dir, "config*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range configs {
		if err := chown(c); err != nil {
			t.Fatal(err)
		}
	}
	in.env = []string{"COMPOSE_PROFILES=demo", "STAGECOACH_CONFIG=./config.demo", "STAGECOACH_SMTP_ADDRESS=127.0.0.1"}
	for _, p := range []string{"SMTP", "SUBMISSION", "SUBMISSIONS", "ADMIN", "SMTP_2", "SUBMISSION_2", "SUBMISSIONS_2"} {
		in.ports[p] = freePort(t)
		name, second := strings.CutSuffix(p, "_2")
		if second {
			name += "_PORT_2"
		} else {
			name += "_PORT"
		}
		in.env = append(in.env, fmt.Sprintf("STAGECOACH_%s=%d", name, in.ports[p]))
	}
	// Signatures are not fetched: these tests need no network.
	in.more = []string{"--scale", "freshclam=0"}
	return in
}

func chown(dir string) error {
	return filepath.Walk(dir, func(path string, _ os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		return os.Chown(path, containerUser, containerUser)
	})
}

// freePort finds one below those of outgoing connections.
func freePort(t *testing.T) int {
	t.Helper()
	for p := 20000 + os.Getpid()%9000; p < 32000; p++ {
		if usedPorts[p] {
			continue
		}
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", p))
		if err != nil {
			continue
		}
		usedPorts[p] = true
		_ = l.Close()
		return p
	}
	t.Fatal("no free port")
	return 0
}

var usedPorts = map[int]bool{}

// edit changes a file of the copy. A container sees the change: the name leads to a new file.
func (in *install) edit(t *testing.T, name string, change func(string) string) {
	t.Helper()
	path := filepath.Join(in.dir, name)
	old, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := change(string(old))
	if text == string(old) {
		t.Fatalf("%s was not changed", name)
	}
	if err := os.WriteFile(path+".new", []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(path+".new", containerUser, containerUser); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// run runs docker compose.
func (in *install) run(stdin string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	all := append([]string{"compose", "-p", in.project}, in.files...)
	c := exec.CommandContext(ctx, "docker", append(all, args...)...)
	c.Dir, c.Env, c.Stdin = in.dir, append(os.Environ(), in.env...), strings.NewReader(stdin)
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	err := c.Run()
	return out.String(), err
}

// compose is run where it has to work.
func (in *install) compose(t testing.TB, args ...string) string {
	t.Helper()
	out, err := in.run("", args...)
	if err != nil {
		t.Fatalf("docker compose %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// up starts everything and waits until all are healthy.
func (in *install) up(t *testing.T) {
	t.Helper()
	start := time.Now()
	out, err := in.run("", append([]string{"up", "-d", "--wait", "--wait-timeout", "120", "--no-build"}, in.more...)...)
	if err != nil {
		ps, _ := in.run("", "ps", "-a")
		logs, _ := in.run("", "logs", "--no-color", "--tail", "20")
		in.down()
		t.Fatalf("up: %v\n%s\n%s\n%s", err, out, ps, logs)
	}
	t.Logf("all healthy after %v", time.Since(start).Round(time.Second))
}

// down ends it and takes everything away, as `down -v` does not.
func (in *install) down() {
	if out, err := in.run("", "down", "-v", "--timeout", "5"); err != nil {
		fmt.Printf("compose tests: %s is still there: %v\n%s", in.project, err, out)
	}
	_ = os.RemoveAll(filepath.Dir(in.dir)) // what is left lies in a temporary folder
}

func logOnFailure(t *testing.T, in *install) {
	t.Cleanup(func() {
		if t.Failed() {
			ps, _ := in.run("", "ps", "-a")
			logs, _ := in.run("", "logs", "--no-color", "--tail", "30")
			t.Logf("%s\n%s", ps, logs)
		}
	})
}

// path is one below the data.
func (in *install) path(elem ...string) string {
	return filepath.Join(append([]string{in.dir, "data"}, elem...)...)
}

// operate runs a command of the operator, as he would.
func (in *install) operate(stdin string, args ...string) (string, error) {
	return in.run(stdin, append([]string{"exec", "-T", "admin", "stagecoach"}, args...)...)
}

// copyPassword puts the password of the demo's smarthost beside the configuration of the cluster.
func (in *install) copyPassword(t *testing.T) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(in.dir, "config.demo", "password"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(in.dir, "config.cluster", "password"), data, 0o644); err != nil {
		t.Fatal(err)
	}
}

func (in *install) addUser(t *testing.T) {
	t.Helper()
	if out, err := in.operate(password+"\n", "user", "add", user); err != nil {
		t.Fatalf("user add: %v\n%s", err, out)
	}
}

// api is the operator's API, by the socket of admin.
func (in *install) api(t *testing.T) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("unix:"+in.path("admin", "admin.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// pid is the process of a container on this machine: what is killed by it was not stopped by hand.
func pid(t testing.TB, container string) string {
	t.Helper()
	out, err := docker("inspect", "-f", "{{.State.Pid}}", container)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// docker runs a command of the engine's client.
func docker(args ...string) (string, error) {
	out, err := exec.Command("docker", args...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("docker %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out)), err
}

// container is the name of a service's container.
func (in *install) container(service string, n int) string {
	return fmt.Sprintf("%s-%s-%d", in.project, service, n)
}

// eventually waits for something that has to come.
func eventually(t testing.TB, what string, limit time.Duration, is func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !is(); time.Sleep(200 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("after %v still not: %s", limit, what)
		}
	}
}
