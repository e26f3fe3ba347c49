package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stagecoachmail/stagecoach/test/rig"
)

// broken has an error in each of the lines that are marked, and nothing else.
const broken = `hostname: relay.example.com
data_dir: data
nats: {servers: ["nats://127.0.0.1:4222"]}
pki: {directory: pki}
ingress:
  address: "127.0.0.1:7001"
  listeners:
    - {name: local, address: "127.0.0.1:PORT", tls: none, colour: blue} # unknown
domains:
  - {name: example.com, recipients: any}
relay:
  - {name: everyone, networks: ["0.0.0.0/0"]} # open
stages:
  antivirus: {address: "127.0.0.1:7002", config: {max_scans: none}} # config
  footer: {type: disclaimer, address: "127.0.0.1:7003", config: {text: "The footer."}}
chains:
  - name: inbound
    match: {direction: [inbound, internal]}
    stages: [antivirus, footr] # dangling stage
    deliver: inbox
  - name: outbound
    match: {direction: outbound}
    stages: [antivirus]
    deliver: provdier # dangling route
egress: {address: "127.0.0.1:7004"}
routes:
  provider:
    smarthost:
      address: "smarthost.example:587"
      tls: none
      auth: {username: u, password_env: HOME} # in the clear
  inbox: {maildir: {path: inbox}}
`

func TestBrokenConfiguration(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Up)
	file := r.WriteFile("broken.yaml", strings.Replace(broken, "PORT", fmt.Sprint(r.Port("smtp-one")), 1))
	program := rig.Binary(t, "stagecoach", "")
	for _, args := range [][]string{{"check", "--up", file}, {"check", file}, {"up", "--config", file}, {"run", "ingress", "--config", file, "--instance", "one"}, {"run", "egress", "--config", file}, {"run", "antivirus", "--config", file}} {
		t.Run(strings.Join(append(args[:1:1], filepath.Base(args[1])), " "), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			cmd := exec.CommandContext(ctx, program, args...)
			cmd.Dir = r.Dir
			out, err := cmd.CombinedOutput()
			if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 2 {
				t.Fatalf("it ended with %v:\n%s", err, out)
			}
			for i, line := range strings.Split(broken, "\n") {
				text, mark, marked := strings.Cut(line, " # ")
				text = strings.Replace(text, "PORT", fmt.Sprint(r.Port("smtp-one")), 1)
				at := fmt.Sprintf("broken.yaml:%d:", i+1)
				switch found := strings.Contains(string(out), at); {
				case marked && !found && !(mark == "config" && args[0] == "run" && args[1] != "antivirus"): // each service reads its own configs
					t.Errorf("nothing is said of %s (%s)", at, mark)
				case found && !marked:
					t.Errorf("an error in %s", at)
				case found && !strings.Contains(string(out), "| "+text) && !strings.Contains(string(out), strings.TrimSpace(text)):
					t.Errorf("the text of %s is not shown", at)
				}
			}
			if t.Failed() {
				t.Logf("%s", out)
			}
		})
	}
	if _, err := os.Stat(r.Path("data")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something was started: there is a data folder (%v)", err)
	}
	if c, err := net.Dial("tcp", r.Addr("smtp-one")); err == nil {
		_ = c.Close()
		t.Error("something listens")
	}
}
