package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
	"testing"
)

// trial is the testing.TB of one scenario: package rig is made for tests, and this is none. What rig does not use is missing.
type trial struct {
	testing.TB // nil
	name       string
	ctx        context.Context
	out        io.Writer

	mu       sync.Mutex
	errs     []error
	cleanups []func()
}

// try runs f as a test is run, with what it has put up for cleanup, and gives what went wrong. What it logs goes to out.
func try(ctx context.Context, name string, out io.Writer, f func(t testing.TB)) error {
	t := &trial{name: name, ctx: ctx, out: out}
	t.alone(func() { f(t) })
	for {
		t.mu.Lock()
		n := len(t.cleanups)
		if n == 0 {
			defer t.mu.Unlock()
			return errors.Join(t.errs...)
		}
		last := t.cleanups[n-1]
		t.cleanups = t.cleanups[:n-1]
		t.mu.Unlock()
		t.alone(last)
	}
}

// alone runs f in a goroutine of its own, which Fatal may end.
func (t *trial) alone(f func()) {
	var wg sync.WaitGroup
	wg.Go(f)
	wg.Wait()
}

func (t *trial) fail(text string) {
	t.mu.Lock()
	t.errs = append(t.errs, errors.New(strings.TrimSpace(text)))
	t.mu.Unlock()
}

// Helper implements testing.TB.
func (t *trial) Helper() {}

// Name implements testing.TB.
func (t *trial) Name() string { return t.name }

// Context implements testing.TB.
func (t *trial) Context() context.Context { return t.ctx }

// Failed implements testing.TB. What was interrupted has not failed: its logs are of no interest.
func (t *trial) Failed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.errs) > 0 && t.ctx.Err() == nil
}

// Cleanup implements testing.TB.
func (t *trial) Cleanup(f func()) {
	t.mu.Lock()
	t.cleanups = append(t.cleanups, f)
	t.mu.Unlock()
}

// Log implements testing.TB.
func (t *trial) Log(args ...any) { fmt.Fprint(t.out, t.name, ": ", fmt.Sprintln(args...)) }

// Logf implements testing.TB.
func (t *trial) Logf(format string, args ...any) {
	fmt.Fprintf(t.out, "%s: %s\n", t.name, fmt.Sprintf(format, args...))
}

// Error implements testing.TB.
func (t *trial) Error(args ...any) { t.fail(fmt.Sprintln(args...)) }

// Errorf implements testing.TB.
func (t *trial) Errorf(format string, args ...any) { t.fail(fmt.Sprintf(format, args...)) }

// Fatal implements testing.TB.
func (t *trial) Fatal(args ...any) {
	t.Error(args...)
	runtime.Goexit()
}

// Fatalf implements testing.TB.
func (t *trial) Fatalf(format string, args ...any) {
	t.Errorf(format, args...)
	runtime.Goexit()
}
