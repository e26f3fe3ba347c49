// Command bench measures whole installations under load, and compares them with a bare relay in the same run: see README.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stagecoachmail/stagecoach/test/bench/internal/corpus"
	"github.com/stagecoachmail/stagecoach/test/bench/internal/ledger"
	"github.com/stagecoachmail/stagecoach/test/rig"
)

// seed makes the corpora the same in every run.
const seed = 1

// light is the rate in messages per second at which latency is measured where the flags do not say otherwise.
const light = 20

// options are the flags.
type options struct {
	relays, corpora []string
	rate            float64
	sessions        int
	measure         time.Duration
	json            string
}

func main() {
	o, err := parse(os.Args[1:], os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		err = run(ctx, o, os.Stdout, os.Stderr)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func parse(args []string, out io.Writer) (options, error) {
	var o options
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(out)
	mode := f.String("mode", strings.Join(relays, ","), "what is loaded, by commas: sink (no relay), bare, up (Stagecoach in one process), services (in several)")
	names := f.String("corpus", strings.Join(corpus.Names, ","), "what is sent, by commas: "+strings.Join(corpus.Names, ", "))
	f.Float64Var(&o.rate, "rate", -1, "messages per second; 0: as fast as they are taken; below: all corpora as fast as they are taken, and the mixed one at 20")
	f.IntVar(&o.sessions, "sessions", 16, "SMTP sessions at once")
	f.DurationVar(&o.measure, "for", 8*time.Second, "how long mail is sent in each measurement, twice as long at a fixed rate, and a fifth of it before, to warm up")
	f.StringVar(&o.json, "json", "", "file for the report as JSON")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	o.relays, o.corpora = strings.Split(*mode, ","), strings.Split(*names, ",")
	for _, r := range o.relays {
		if !slices.Contains(relays, r) {
			return o, fmt.Errorf("-mode: there is no %q, only %s", r, strings.Join(relays, ", "))
		}
	}
	for _, c := range o.corpora {
		if !slices.Contains(corpus.Names, c) {
			return o, fmt.Errorf("-corpus: there is no %q, only %s", c, strings.Join(corpus.Names, ", "))
		}
	}
	if f.NArg() > 0 || o.sessions < 1 || o.measure < 100*time.Millisecond {
		return o, errors.New("no arguments beside flags; -sessions is 1 at least, -for 100ms")
	}
	return o, nil
}

// scenarios are the measurements that the flags ask for; what is compared stands side by side.
func (o options) scenarios() []scenario {
	var all []scenario
	add := func(corpus string, rate float64) {
		for _, r := range o.relays {
			s := scenario{Relay: r, Corpus: corpus, Rate: rate, Sessions: o.sessions, For: o.measure}
			switch {
			case r == sinkAlone && rate > 0:
				continue // it would show nothing
			case r == sinkAlone:
				s.For /= 4 // it has little to vary
			case rate > 0:
				s.For *= 2 // there are few messages
			}
			all = append(all, s)
		}
	}
	for _, c := range o.corpora {
		add(c, max(o.rate, 0))
	}
	if o.rate < 0 && slices.Contains(o.corpora, "mixed") {
		add("mixed", light)
	}
	return all
}

// run measures, writes the report, and fails if a scenario did.
func run(ctx context.Context, o options, out, log io.Writer) error {
	env, err := survey()
	if err != nil {
		return err
	}
	defer rig.Cleanup()
	b := &bench{corpora: map[string]*corpus.Corpus{}, draining: draining, log: log}
	if b.programs, err = os.MkdirTemp("", "scbench"); err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(b.programs) }()
	if err := b.prepare(ctx, o); err != nil {
		return err
	}
	results, err := b.all(ctx, o.scenarios())
	compare(results)
	r := report{Environment: env, Seconds: o.measure.Seconds(), Results: results}
	r.print(out)
	if o.json != "" {
		err = errors.Join(err, r.save(o.json))
	}
	return err
}

// all runs scenarios, also when one has failed. The error names each that did; what was measured is there in any case.
func (b *bench) all(ctx context.Context, scenarios []scenario) ([]result, error) {
	began := time.Now()
	var results []result
	var failed []error
	for _, s := range scenarios {
		fmt.Fprintf(b.log, "%4.0f s  %s\n", time.Since(began).Seconds(), s)
		res, err := b.run(ctx, s)
		if ctx.Err() != nil {
			failed = append(failed, errors.New("interrupted"))
			break
		}
		if err != nil {
			fmt.Fprintf(b.log, "FAILED: %v\n", err)
			failed = append(failed, err)
			res.Error = err.Error()
		}
		results = append(results, res)
	}
	fmt.Fprintf(b.log, "%4.0f s  done\n", time.Since(began).Seconds())
	return results, errors.Join(failed...)
}

// prepare builds what is measured, and makes the messages.
func (b *bench) prepare(ctx context.Context, o options) error {
	const module = "github.com/stagecoachmail/stagecoach/test/bench/"
	cmd := exec.CommandContext(ctx, "go", "build", "-o", b.programs+"/", module+"bare", module+"clamd")
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building bare and clamd: %w: %s", err, text)
	}
	if slices.Contains(o.relays, inOne) || slices.Contains(o.relays, inMany) {
		if err := try(ctx, "building Stagecoach", b.log, func(t testing.TB) { rig.Binary(t, "stagecoach", "") }); err != nil {
			return err
		}
	}
	for _, name := range o.corpora {
		c, err := corpus.New(name, seed, ledger.TokenSize)
		if err != nil {
			return err
		}
		b.corpora[name] = c
	}
	return nil
}
