package cli

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A folder for each service; in a loop what changes is told, until it is stopped.
func TestPKIKeep(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	args := []string{"pki", "keep", "--dir", filepath.Join(dir, "pki"), "--ca-dir", filepath.Join(dir, "ca"), "ingress", "nats"}
	p := &person{}
	if code := p.runs(t, args...); code != ExitDone || strings.Count(p.stdout, "\tmade\t") != 3 {
		t.Fatalf("exit code %d: %s%s", code, p.stdout, p.stderr)
	}
	if _, err := os.Stat(filepath.Join(dir, "pki", "nats", "nats-key.pem")); err != nil {
		t.Error(err)
	}
	p = &person{}
	if code := p.runs(t, args...); code != ExitDone || strings.Count(p.stdout, "\tkept\t") != 2 {
		t.Errorf("once more, exit code %d: %s%s", code, p.stdout, p.stderr)
	}
	p = &person{}
	if code := p.runs(t, "pki", "keep", "--dir", filepath.Join(dir, "pki"), "ingress"); code != ExitUsage || !strings.Contains(p.stderr, "--ca-dir is missing") {
		t.Errorf("without --ca-dir, exit code %d: %s", code, p.stderr)
	}
	if err := os.Remove(filepath.Join(dir, "ca", "ca.pem")); err != nil {
		t.Fatal(err)
	}
	p = &person{}
	if code := p.runs(t, args...); code != ExitFailed || !strings.Contains(p.stderr, "one is missing") {
		t.Errorf("half a CA, exit code %d: %s", code, p.stderr)
	}
}

// The loop makes what has gone, and ends when it is told to.
func TestPKIKeepEvery(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan int, 1)
	p := &person{ctx: ctx}
	go func() {
		done <- p.runs(t, "pki", "keep", "--every", "20ms", "--dir", filepath.Join(dir, "pki"), "--ca-dir", filepath.Join(dir, "ca"), "nats")
	}()
	file := filepath.Join(dir, "pki", "nats", "nats.pem")
	there := func() {
		t.Helper()
		for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			if _, err := os.Stat(file); err == nil {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("%s is not made", file)
			}
		}
	}
	there()
	if err := os.RemoveAll(filepath.Dir(file)); err != nil {
		t.Fatal(err)
	}
	there()
	stop()
	if code := <-done; code != ExitDone {
		t.Errorf("exit code %d: %s", code, p.stderr)
	}
}
