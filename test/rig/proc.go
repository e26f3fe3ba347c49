package rig

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Proc is one process of the installation.
type Proc struct {
	Name string
	cmd  *exec.Cmd
	done chan struct{}
	err  error
}

// build is the programs of the workspace with one set of build tags.
type build struct {
	once sync.Once
	err  error
	dir  string
}

var (
	buildsMu sync.Mutex
	builds   = map[string]*build{} // by tags
)

// Binary gives the path of a program of the workspace, built once per test binary and set of build tags (comma
// separated, added to those in $STAGECOACH_TEST_TAGS): "stagecoach" or "nats-server".
func Binary(t testing.TB, name, tags string) string {
	t.Helper()
	tags = strings.Trim(os.Getenv("STAGECOACH_TEST_TAGS")+","+tags, ",")
	buildsMu.Lock()
	b := builds[tags]
	if b == nil {
		b = &build{}
		builds[tags] = b
	}
	buildsMu.Unlock()
	b.once.Do(func() { b.dir, b.err = compile(tags) })
	if b.err != nil {
		t.Fatalf("building the programs: %v", b.err)
	}
	return filepath.Join(b.dir, name)
}

func compile(tags string) (dir string, err error) {
	if dir, err = os.MkdirTemp("", "scbin"); err != nil {
		return "", err
	}
	root, err := exec.Command("go", "env", "GOWORK").Output()
	if err != nil {
		return dir, err
	}
	cmd := exec.Command("go", "build", "-tags", tags, "-o", dir+string(filepath.Separator), "github.com/stagecoachmail/stagecoach/cmd/stagecoach", "github.com/nats-io/nats-server/v2")
	cmd.Dir = filepath.Dir(strings.TrimSpace(string(root)))
	if out, err := cmd.CombinedOutput(); err != nil {
		return dir, fmt.Errorf("%w: %s", err, out)
	}
	return dir, nil
}

// Cleanup removes the built programs; call it at the end of TestMain.
func Cleanup() {
	buildsMu.Lock()
	defer buildsMu.Unlock()
	for _, b := range builds {
		if b.dir != "" {
			_ = os.RemoveAll(b.dir)
		}
	}
}

// Start starts everything and waits until mail is accepted.
func (r *Rig) Start() {
	r.T.Helper()
	for _, name := range r.Names() {
		r.StartProc(name)
	}
	for _, instance := range r.Instances {
		r.WaitSMTP(instance)
	}
	if r.People != "" {
		r.waitRecord()
	}
}

// Names are the processes of the mode, in the order in which they are started.
func (r *Rig) Names() []string {
	if r.Mode == Up {
		return []string{"up"}
	}
	names := append([]string{"nats"}, StageTypes...)
	names = append(names, "egress")
	for _, in := range r.Instances {
		names = append(names, "ingress-"+in)
	}
	if r.People != "" {
		names = append(names, "admin")
	}
	return names
}

// StartProc starts (or starts again) one process, with more arguments if there are any. Its output goes to <name>.log.
func (r *Rig) StartProc(name string, more ...string) *Proc {
	r.T.Helper()
	bin := Binary(r.T, "stagecoach", r.Tags)
	var args []string
	switch instance, ingress := strings.CutPrefix(name, "ingress-"); {
	case name == "up":
		args = []string{"up", "--config", r.ConfigFile()}
	case name == "nats" && r.Mode == PlainNATS:
		bin = Binary(r.T, "nats-server", r.Tags)
		conf := r.WriteFile("nats.conf", fmt.Sprintf("listen: %q\nhttp: %q\nmax_payload: 8MB\njetstream {store_dir: %q%s}\n", r.Addr("nats"), r.Addr("monitor"), r.Path("nats"), r.sync()))
		args = []string{"-c", conf}
	case name == "nats" && r.SecureNATS:
		args = []string{"nats", "--listen", r.Addr("nats"), "--monitor", "", "--data", r.Path("nats"), "--nats-config", r.natsConfig()}
	case name == "nats":
		args = []string{"nats", "--listen", r.Addr("nats"), "--monitor", r.Addr("monitor"), "--data", r.Path("nats")}
	case ingress && instance != r.Instances[0]:
		args = []string{"run", "ingress", "--config", r.Path("stagecoach-" + instance + ".yaml"), "--instance", instance}
	case ingress:
		args = []string{"run", "ingress", "--config", r.ConfigFile(), "--instance", instance}
	default:
		args = []string{"run", name, "--config", r.ConfigFile()}
	}
	p := r.launch(name, bin, append(args, more...)...)
	r.mu.Lock()
	r.procs[name] = p
	r.mu.Unlock()
	return p
}

// StartNamed starts the program with these arguments, under a name of its own: a second process of a service.
func (r *Rig) StartNamed(name string, args ...string) *Proc {
	r.T.Helper()
	p := r.launch(name, Binary(r.T, "stagecoach", r.Tags), args...)
	r.mu.Lock()
	r.procs[name] = p
	r.mu.Unlock()
	return p
}

// sync is how a plain nats-server is told to write to disk before it acknowledges.
func (r *Rig) sync() string {
	if r.LazyNATS {
		return ""
	}
	return ", sync_interval: always"
}

// Proc finds a process by its name.
func (r *Rig) Proc(name string) *Proc {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.procs[name]
}

// WaitSMTP waits until an ingress greets.
func (r *Rig) WaitSMTP(instance string) {
	r.T.Helper()
	proc := "up"
	if r.Mode != Up {
		proc = "ingress-" + instance
	}
	r.Eventually("ingress "+instance+" accepts mail", 40*time.Second, func() bool {
		if p := r.Proc(proc); p != nil && !p.Running() {
			r.T.Fatalf("%s ended: %v", proc, p.err)
		}
		nc, err := net.DialTimeout("tcp", r.Addr("smtp-"+instance), time.Second)
		if err != nil {
			return false
		}
		defer nc.Close()
		_ = nc.SetDeadline(time.Now().Add(5 * time.Second))
		b := make([]byte, 3)
		_, err = nc.Read(b)
		return err == nil && string(b) == "220"
	})
}

// Signal sends a signal to the process.
func (p *Proc) Signal(s syscall.Signal) { _ = p.cmd.Process.Signal(s) }

// Pid is the process id.
func (p *Proc) Pid() int { return p.cmd.Process.Pid }

// Kill ends the process at once, as kill -9 does, and waits until it is gone.
func (p *Proc) Kill() {
	p.Signal(syscall.SIGKILL)
	<-p.done
}

// Stop asks the process to end, waits, and returns how it ended.
func (p *Proc) Stop(limit time.Duration) error {
	p.Signal(syscall.SIGCONT)
	p.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
		return p.err
	case <-time.After(limit):
		p.Kill()
		return fmt.Errorf("%s did not stop within %v", p.Name, limit)
	}
}

// Running says whether the process lives.
func (p *Proc) Running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// PeakRSS is the largest resident set of the process so far, in bytes.
func (p *Proc) PeakRSS(t testing.TB) int64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.SplitSeq(string(b), "\n") {
		var kb int64
		if n, _ := fmt.Sscanf(line, "VmHWM: %d kB", &kb); n == 1 {
			return kb << 10
		}
	}
	t.Fatal("no VmHWM")
	return 0
}

// StopAll ends every process, the ones that accept first.
func (r *Rig) StopAll() {
	r.mu.Lock()
	conns := r.conns
	r.conns = nil
	r.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
	}
	names := r.Names()
	for i := len(names) - 1; i >= 0; i-- {
		if p := r.Proc(names[i]); p != nil && p.Running() {
			if err := p.Stop(30 * time.Second); err != nil {
				r.T.Errorf("stopping %s: %v", names[i], err)
			}
		}
	}
}
