package main

import (
	"bytes"
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestTry(t *testing.T) {
	var did []string
	do := func(what string) func() { return func() { did = append(did, what) } }
	var out bytes.Buffer
	err := try(t.Context(), "a try", &out, func(tb testing.TB) {
		tb.Cleanup(do("first"))
		tb.Cleanup(func() { do("second")(); tb.Fatalf("in the %s", "cleanup") })
		tb.Cleanup(func() { tb.Cleanup(do("put up late")) })
		tb.Logf("said %d", 1)
		tb.Errorf("goes on")
		if !tb.Failed() {
			tb.Error("not failed")
		}
		tb.Fatal("ends")
		do("after the end")()
	})
	if got := fmt.Sprint(err); got != "goes on\nends\nin the cleanup" {
		t.Errorf("error %q", got)
	}
	if want := []string{"put up late", "second", "first"}; !slices.Equal(did, want) {
		t.Errorf("did %q, want %q", did, want)
	}
	if out.String() != "a try: said 1\n" {
		t.Errorf("said %q", out.String())
	}
	if err := try(t.Context(), "good", &out, func(tb testing.TB) { tb.Helper() }); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if err := try(ctx, "interrupted", &out, func(tb testing.TB) {
		cancel()
		tb.Error("broken off")
		if tb.Failed() {
			t.Error("what was interrupted has failed")
		}
	}); err == nil {
		t.Error("what was interrupted has succeeded")
	}
}

// canceller is a log that cancels when a line is written.
type canceller struct {
	bytes.Buffer
	at     string
	cancel func()
}

func (c *canceller) Write(b []byte) (int, error) {
	if strings.Contains(string(b), c.at) {
		c.cancel()
	}
	return c.Buffer.Write(b)
}

// What was measured before an interruption is shown, and it is no success.
func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	o, err := parse(strings.Fields("-mode sink,bare -corpus 10k,mixed -rate 0 -for 400ms -sessions 2"), t.Output())
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	log := &canceller{at: "bare 10k closed", cancel: cancel}
	if err := run(ctx, o, &out, log); err == nil || err.Error() != "interrupted" {
		t.Errorf("error %v", err)
	}
	if strings.Contains(log.String(), "sink mixed") {
		t.Errorf("it went on:\n%s", log.String())
	}
	rows := regexp.MustCompile(`10k +(\S+) `).FindAllStringSubmatch(out.String(), -1)
	if len(rows) != 1 || rows[0][1] != sinkAlone || strings.Contains(out.String(), "FAILED") {
		t.Errorf("printed\n%s", out.String())
	}
}
