// Package demo shows a whole installation at work on one machine: it starts everything with a smarthost that demands TLS
// and a login, sends a handful of messages, tells what happens to them, and leaves nothing behind.
package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/stagecoachmail/stagecoach/cmd/stagecoach/internal/embedded"
	"github.com/stagecoachmail/stagecoach/internal/config"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	"github.com/stagecoachmail/stagecoach/services/admin"
	"github.com/stagecoachmail/stagecoach/stage"
)

const (
	// limit is when the demo gives up.
	limit = 55 * time.Second
	// downtime is how long the second smarthost does not answer.
	downtime = 10 * time.Second
	// poll is how often the traces are looked at.
	poll = 200 * time.Millisecond
)

// ErrUnexpected says that something did not become of a message that should have.
var ErrUnexpected = errors.New("the demo did not go as it should")

// Options of a demo.
type Options struct {
	// Out gets the progress and the table.
	Out io.Writer
	// Factories are the types of stages that there are; antivirus, disclaimer, archive and signer are needed.
	Factories []stage.Factory
}

// demo is one that runs.
type demo struct {
	out   io.Writer
	start time.Time
	ca    *authority
	main  *smarthost
	late  *smarthost
	conn  *grpc.ClientConn
	all   []*progress
	log   *tail
	dir   string
}

// Run gives the demo, in at most a minute. The error is ErrUnexpected where a message did not end as it should.
func Run(ctx context.Context, o Options) (err error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	d := &demo{out: o.Out, start: time.Now(), log: &tail{}}
	if d.dir, err = os.MkdirTemp("", "stagecoach-demo-"); err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, os.RemoveAll(d.dir))
		if err != nil {
			_, _ = fmt.Fprintf(d.out, "\nthe last lines of the log:\n%s", d.log) // the error is what matters
		}
	}()
	in, listen, err := d.prepare(ctx, o)
	if err != nil {
		return err
	}
	running, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- in.Run(running) }()
	defer func() {
		stop()
		err = errors.Join(err, <-done, in.Close())
		d.main.stop()
		d.late.stop()
	}()
	select {
	case <-in.Ready():
	case err := <-done:
		done <- nil
		return err
	}
	d.say("stagecoach", "is up, and takes mail at %s", listen)
	if d.conn, err = grpc.NewClient("unix:"+filepath.Join(d.dir, "data", admin.SocketName), grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		return err
	}
	defer d.conn.Close()
	if err := d.send(ctx, in); err != nil {
		return err
	}
	if err := d.follow(ctx); err != nil {
		return err
	}
	return d.conclude(ctx)
}

// prepare makes certificates, smarthosts, messages and the installation.
func (d *demo) prepare(ctx context.Context, o Options) (*embedded.Installation, string, error) {
	var err error
	if d.ca, err = newAuthority("Stagecoach demo"); err != nil {
		return nil, "", err
	}
	host, err := d.ca.forHost(hostName)
	if err != nil {
		return nil, "", err
	}
	author, err := d.ca.forMail("alice@" + company)
	if err != nil {
		return nil, "", err
	}
	all, err := samples(author)
	if err != nil {
		return nil, "", err
	}
	for i := range all {
		d.all = append(d.all, &progress{sample: &all[i]})
	}
	if d.main, err = newSmarthost(host); err != nil {
		return nil, "", err
	}
	if d.late, err = newSmarthost(host); err != nil {
		return nil, "", err
	}
	if err := d.main.start(); err != nil {
		return nil, "", err
	}
	d.say("smarthost", "listens at %s, demands TLS and a login", d.main.address)
	listen, err := freeAddress()
	if err != nil {
		return nil, "", err
	}
	if err := errors.Join(d.ca.writeFile(filepath.Join(d.dir, "ca.pem")), os.WriteFile(filepath.Join(d.dir, "password"), []byte(password+"\n"), 0o600)); err != nil {
		return nil, "", err
	}
	reading := config.Options{Mode: config.ModeUp, Factories: o.Factories}
	cfg, err := reading.Parse("(demo)", d.dir, []byte(configuration(d.dir, listen, d.main.address, d.late.address)))
	if err != nil {
		return nil, "", err
	}
	in, err := embedded.New(ctx, embedded.Options{Config: cfg, Reading: reading, Logger: slog.New(slog.NewTextHandler(d.log, nil))})
	return in, listen, err
}

// say tells what happened, and when.
func (d *demo) say(who, format string, args ...any) {
	_, _ = fmt.Fprintf(d.out, "%5.1f s  %-11s %s\n", time.Since(d.start).Seconds(), who, fmt.Sprintf(format, args...)) // a reader who has gone misses the rest
}

func (d *demo) send(ctx context.Context, in *embedded.Installation) error {
	for _, p := range d.all {
		var err error
		if p.id, err = send(ctx, in.Addr("mailserver"), p.sample); err != nil {
			return fmt.Errorf("%s: %w", p.sample.name, err)
		}
		p.accepted = time.Now()
		d.say(p.sample.name, "accepted: 250 %s (%s)", p.id, p.sample.what)
	}
	return nil
}

// follow tells of every message until all have come to their end, and starts the second smarthost in between.
func (d *demo) follow(ctx context.Context) error {
	traces := adminv1.NewTraceServiceClient(d.conn)
	comeBack := time.NewTimer(downtime)
	defer comeBack.Stop()
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		open := 0
		for _, p := range d.all {
			lines, err := p.look(ctx, traces)
			if err != nil {
				return fmt.Errorf("%s: %w", p.sample.name, err)
			}
			for _, l := range lines {
				d.say(p.sample.name, "%s", l)
			}
			if p.became == "" {
				open++
			}
		}
		if open == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %d messages have come to no end in %s", ErrUnexpected, open, limit)
		case <-comeBack.C:
			if err := d.late.start(); err != nil {
				return err
			}
			d.say("smarthost", "the second one answers now, at %s", d.late.address)
		case <-tick.C:
		}
	}
}

// tail keeps the end of a log.
type tail struct {
	mu sync.Mutex
	b  []byte
}

// tailSize is how much of the log is kept, in bytes.
const tailSize = 4 << 10

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if len(t.b) > 2*tailSize {
		t.b = bytes.Clone(t.b[len(t.b)-tailSize:])
	}
	return len(p), nil
}

// String is whole lines.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := t.b
	if len(b) > tailSize {
		b = b[len(b)-tailSize:]
		if i := bytes.IndexByte(b, '\n'); i >= 0 {
			b = b[i+1:]
		}
	}
	return string(b)
}
