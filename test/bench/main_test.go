package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stagecoachmail/stagecoach/test/rig"
)

// TestMain makes a relay of us where a test has put us in the place of the bare one; the folder says which.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == bareRelay {
		if err := badRelay(os.Args[1:], filepath.Base(filepath.Dir(os.Args[0]))); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	code := m.Run()
	rig.Cleanup()
	os.Exit(code)
}

// measure runs the command as the flags say, and gives what it printed and the report.
func measure(t *testing.T, args ...string) (string, report, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "report.json")
	o, err := parse(append(args, "-json", file), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	rerr := run(t.Context(), o, &out, t.Output())
	var r report
	b, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	if err != nil {
		t.Fatalf("%v, after %v", err, rerr)
	}
	return out.String(), r, rerr
}

// plausible are the figures that any relay shows.
func plausible(t *testing.T, x result) {
	t.Helper()
	what := x.scenario.String()
	for name, f := range map[string]float64{"messages": float64(x.Messages), "size": x.KB, "accepted": x.Accepted, "completed": x.Completed, "MB/s": x.MB, "data to 250": x.Accept.P50,
		"bench": x.BenchCPU} {
		if f <= 0 {
			t.Errorf("%s: %s is %g", what, name, f)
		}
	}
	// A message is at the sink before its 250 is at the loader, which in a measurement this short is some percent of it.
	if x.Completed > x.Accepted*1.25 || x.Accept.Max < x.Accept.P99 || x.Accept.P99 < x.Accept.P50 {
		t.Errorf("%s: accepted %g/s, completed %g/s, latency %+v", what, x.Accepted, x.Completed, x.Accept)
	}
	if x.Relay == sinkAlone {
		return
	}
	sum := 0.0
	for _, p := range x.Processes {
		sum += p.CPU
		if p.Peak < 1 {
			t.Errorf("%s: %s has %g MiB", what, p.Name, p.Peak)
		}
	}
	if len(x.Processes) == 0 || x.CPU <= 0 || x.CPU != sum || x.Delivery.P99 <= 0 {
		t.Errorf("%s: CPU %g, of the processes %g; delivery %+v", what, x.CPU, sum, x.Delivery)
	}
}

func TestBareRelay(t *testing.T) {
	if testing.Short() {
		t.Skip("measures, which under the race detector means nothing")
	}
	text, r, err := measure(t, "-mode", "sink,bare", "-corpus", "10k,mixed", "-for", "400ms", "-sessions", "4")
	if err != nil {
		t.Fatal(err)
	}
	var did []string
	for _, x := range r.Results {
		did = append(did, x.scenario.String())
		plausible(t, x)
		if x.Rate == light && (x.Messages < 14 || x.Messages > 18) {
			t.Errorf("%d messages in 0.8 s at %d a second", x.Messages, light)
		}
	}
	if want := []string{"sink 10k closed", "bare 10k closed", "sink mixed closed", "bare mixed closed", "bare mixed 20/s"}; !slices.Equal(did, want) {
		t.Errorf("%v, want %v", did, want)
	}
	for _, want := range []string{"Closed loop, 4 sessions", "Open loop, 20/s", "fsync of 4 KiB"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing from\n%s", want, text)
		}
	}
	if e := r.Environment; e.Cores == 0 || e.Kernel == "" || e.Fsync.P50 <= 0 || e.MemoryGiB <= 0 || e.Load == "" {
		t.Errorf("environment %+v", e)
	}
}

// The whole chain, with what it has to have done to the mail.
func TestStagecoach(t *testing.T) {
	if testing.Short() {
		t.Skip("starts whole installations")
	}
	_, r, err := measure(t, "-mode", "bare,up,services", "-corpus", "mixed", "-rate", "0", "-for", "500ms", "-sessions", "4")
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range r.Results {
		plausible(t, x)
		if x.Relay == bareRelay {
			continue
		}
		if x.Times == nil || x.Times.CPU <= 0 || x.Times.Completed <= 0 {
			t.Errorf("%s: times the bare relay: %+v", x.scenario, x.Times)
		}
		if len(x.Beside) != 1 || x.Beside[0].Name != "clamd" || x.Relay == inMany && len(x.Processes) != 7 {
			t.Errorf("%s: %d processes, and beside them %+v", x.scenario, len(x.Processes), x.Beside)
		}
	}
}

func TestCompare(t *testing.T) {
	at := func(relay string, rate, cpu, completed float64) result {
		return result{scenario: scenario{Relay: relay, Corpus: "10k", Rate: rate}, CPU: cpu, Completed: completed, Peak: 10}
	}
	all := []result{at(sinkAlone, 0, 0, 1000), at(bareRelay, 0, 2, 100), at(inOne, 0, 6, 50), at(inOne, 20, 6, 50)}
	failed := at(inMany, 0, 0, 0)
	failed.Error = "lost"
	all = append(all, failed)
	compare(all)
	for i, want := range []*times{nil, nil, {CPU: 3, Completed: 0.5, Peak: 1}, nil, nil} {
		if got := all[i].Times; (got == nil) != (want == nil) || got != nil && *got != *want {
			t.Errorf("%s: %+v, want %+v", all[i].scenario, got, want)
		}
	}
}

func TestFlags(t *testing.T) {
	for _, c := range []struct {
		args string
		want string // scenarios, or the error
	}{
		{"-mode up -corpus mixed", "up mixed closed 8s, up mixed 20/s 16s"},
		{"-mode sink,up -corpus mixed,1m -rate 50 -for 2s", "up mixed 50/s 4s, up 1m 50/s 4s"},
		{"-mode sink,services -corpus 10m -rate 0 -for 2s", "sink 10m closed 500ms, services 10m closed 2s"},
		{"-mode one", `-mode: there is no "one", only sink, bare, up, services`},
		{"-corpus 2m", `-corpus: there is no "2m", only 10k, mixed, 1m, 10m`},
		{"-for 1ms", "no arguments beside flags; -sessions is 1 at least, -for 100ms"},
		{"more", "no arguments beside flags; -sessions is 1 at least, -for 100ms"},
	} {
		o, err := parse(strings.Fields(c.args), io.Discard)
		got := fmt.Sprint(err)
		if err == nil {
			var all []string
			for _, s := range o.scenarios() {
				all = append(all, fmt.Sprint(s, " ", s.For))
			}
			got = strings.Join(all, ", ")
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s", c.args, got, c.want)
		}
	}
	if _, err := parse([]string{"-h"}, io.Discard); err != flag.ErrHelp {
		t.Errorf("-h: %v", err)
	}
	o, err := parse(nil, io.Discard)
	if err != nil || len(o.scenarios()) != 4*4+3 || o.measure > 10*time.Second {
		t.Errorf("without flags: %d scenarios, %v", len(o.scenarios()), err)
	}
}
