package e2e

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stagecoachmail/stagecoach/test/rig"
)

// desk is where a person works: a folder with contexts.
type desk struct {
	r *rig.Rig
}

// runs executes the program there.
func (d desk) runs(args ...string) (stdout, stderr string, code int) {
	d.r.T.Helper()
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(d.r.T.Context(), rig.Binary(d.r.T, "stagecoach", ""), args...)
	cmd.Dir = d.r.T.TempDir()
	cmd.Env = []string{"STAGECOACH_CONTEXTS=" + d.r.Path("contexts.yaml")}
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			d.r.T.Fatal(err)
		}
		code = exit.ExitCode()
	}
	return out.String(), errs.String(), code
}

// context adds a context for a person by certificate.
func (d desk) context(name, person string, ca *rig.CA) {
	d.r.T.Helper()
	dir := d.r.Path("people-" + name)
	ca.IssuePerson(d.r.T, dir, person)
	d.add(name, "--ca", d.r.Path("pki", "ca.pem"), "--certificate", dir+"/"+person+".pem", "--key", dir+"/"+person+"-key.pem")
}

func (d desk) add(name string, more ...string) {
	d.r.T.Helper()
	if _, errs, code := d.runs(append([]string{"context", "add", name, "--server", d.r.Addr("admin")}, more...)...); code != 0 {
		d.r.T.Fatalf("context add %s: %s", name, errs)
	}
}

// The commands work from elsewhere: by certificate and by token, as far as the role goes, against one process and against
// all services by themselves. Who is not let in hears why.
func TestRemote(t *testing.T) {
	const token = "a-token-for-this-test-alone"
	for _, mode := range []rig.Mode{rig.Up, rig.Services} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			r := rig.New(t, mode)
			r.People = fmt.Sprintf("{name: alice, role: admin}, {name: vera, role: viewer}, {name: oscar, role: operator, token_sha256: %x}", sha256.Sum256([]byte(token)))
			sink := prepare(t, r)
			r.Start()
			id := r.MustSend("alice@example.com", []string{"bob@example.net"}, threeParts)
			sink.Wait(id, 20*time.Second)
			d := desk{r}
			d.context("alice", "alice", r.CA)
			d.context("vera", "vera", r.CA)
			d.context("mallory", "mallory", r.CA)
			d.context("forged", "alice", rig.NewCA(t))
			d.add("token", "--ca", r.Path("pki", "ca.pem"), "--token-file", r.WriteFile("token", token+"\n"))
			d.add("guess", "--ca", r.Path("pki", "ca.pem"), "--token-file", r.WriteFile("guess", "another\n"))
			r.CA.Issue(t, r.Path("service"), "ingress", "ingress")
			d.add("service", "--ca", r.Path("pki", "ca.pem"), "--certificate", r.Path("service", "ingress.pem"), "--key", r.Path("service", "ingress-key.pem"))
			r.Eventually("alice is answered", 20*time.Second, func() bool {
				_, _, code := d.runs("chain", "list", "--context", "alice")
				return code == 0
			})

			near, _, _ := d.runs("route", "list", "--socket", r.Path("data", "admin.sock"))
			for _, c := range []struct {
				who, command string
				code         int
				out, err     string
			}{
				{"alice", "route list", 0, near, ""},
				{"vera", "route list", 0, near, ""},
				{"token", "route list", 0, near, ""},
				{"alice", "trace " + id, 0, "antivirus", ""},
				{"alice", "archive list --recipient bob@example.net", 0, id, ""},
				{"token", "route pause provider", 0, "", ""},
				{"vera", "route resume provider", 2, "", "not allowed: "},
				{"token", "dkim new example.org", 2, "", "not allowed: "},
				{"alice", "dkim new example.org --selector far", 0, "far-rsa._domainkey.example.org", ""},
				{"alice", "chain remove outbound footer --dry-run", 0, "-    stages: [antivirus, footer, archive, signer]", ""},
				{"token", "chain remove outbound footer", 2, "", "not allowed: "},
				{"token", "route resume provider", 0, "", ""},
				{"mallory", "route list", 2, "", "not allowed: "},
				{"forged", "route list", 2, "", "alice.pem"},
				{"guess", "route list", 2, "", "the token in "},
				{"service", "route list", 2, "", "ingress.pem"},
				{"alice", "route list --server " + r.SMTP(), 2, "", "speaks no TLS"},
				{"alice", "route list --server " + r.Addr("nobody"), 2, "", "nothing answers at " + r.Addr("nobody")},
			} {
				out, errs, code := d.runs(append(strings.Fields(c.command), "--context", c.who)...)
				if code != c.code || !strings.Contains(out, c.out) || !strings.Contains(errs, c.err) || strings.Contains(errs, "rpc error") {
					t.Errorf("%s: %s: exit code %d\n%s%s", c.who, c.command, code, out, errs)
				}
			}
			if mode == rig.Services { // a service that is not admin
				if _, errs, code := d.runs("route", "list", "--context", "alice", "--server", r.Addr("signer")); code != 2 || !strings.Contains(errs, "not for admin") {
					t.Errorf("the signer is taken for admin: exit code %d: %s", code, errs)
				}
			}
		})
	}
}
