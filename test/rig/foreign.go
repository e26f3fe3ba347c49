package rig

import (
	"os"
	"os/exec"
	"syscall"
	"time"
)

// StartForeign starts a program that is not ours beside the installation, in the rig's folder. Its output goes to
// <name>.log; it ends with the test at the latest.
func (r *Rig) StartForeign(name, program string, args ...string) *Proc {
	r.T.Helper()
	p := r.launch(name, program, args...)
	r.T.Cleanup(func() {
		if p.Running() {
			_ = p.Stop(10 * time.Second) // how it ends is its own affair
		}
	})
	return p
}

// launch starts a process whose output goes to <name>.log.
func (r *Rig) launch(name, program string, args ...string) *Proc {
	r.T.Helper()
	log, err := os.OpenFile(r.Path(name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		r.T.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(program, args...)
	cmd.Dir = r.Dir
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // nothing outlives the test
	if err := cmd.Start(); err != nil {
		r.T.Fatal(err)
	}
	p := &Proc{Name: name, cmd: cmd, done: make(chan struct{})}
	go func() { p.err = cmd.Wait(); close(p.done) }()
	return p
}
