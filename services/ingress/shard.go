package ingress

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"time"

	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/dispatch"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/spool"
)

// shard is a log that this process owns, with the dispatcher that works for it.
type shard struct {
	log        *spool.Shard
	dispatcher *dispatch.Dispatcher
	stop       context.CancelFunc
	stopped    chan struct{}
}

// logOf is a spool.Shard as the dispatcher sees it.
type logOf struct {
	*spool.Shard
	config func() *config.Config
}

// Content implements dispatch.Log.
func (l logOf) Content(ctx context.Context, id string, body spool.Body) (mail.Content, error) {
	return l.Shard.Content(ctx, id, body, l.config().TempDir)
}

// options are those of the shard named instance.
func (in *Ingress) options(instance string) spool.Options {
	return spool.Options{Conn: in.o.Conn, Instance: instance, Process: processName(), Holder: in.o.Instance, Replicas: in.o.Config.NATS.Replicas,
		Logger: in.o.Logger, ExclusiveOwner: in.o.Exclusive, FreeSpace: in.o.FreeSpace, Times: in.o.Times,
		Appended: in.tally.Spool().Appended, Tap: in.events.tap}
}

// processName is unique among all processes that ever ran.
func processName() string {
	var b [12]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// openShard takes the own shard over.
func (in *Ingress) openShard(ctx context.Context) (*shard, error) {
	log, found, err := spool.Open(ctx, in.options(in.o.Instance))
	if err != nil {
		return nil, err
	}
	return in.work(log, found), nil
}

// work starts a dispatcher on a shard that was just taken over.
func (in *Ingress) work(log *spool.Shard, found *spool.Recovered) *shard {
	in.mu.Lock()
	paused := in.paused
	in.mu.Unlock()
	l := logOf{Shard: log, config: func() *config.Config { return in.policy.View().Config() }}
	d := dispatch.New(dispatch.Options{Log: l, Runner: in.o.Runner, Policy: in.policy, Logger: in.o.Logger, Now: time.Now, NotBefore: found.NotBefore, UnknownDelay: in.o.Times.Unknown, Paused: paused,
		RoutePaused: in.pauses.paused, Tally: in.tally, Tracer: in.o.Telemetry.Tracer()})
	ctx, stop := context.WithCancel(context.Background())
	s := &shard{log: log, dispatcher: d, stop: stop, stopped: make(chan struct{})}
	go func() {
		defer close(s.stopped)
		d.Run(ctx)
	}()
	d.Recover(found.Run)
	return s
}

// close lets messages under way come to their fate until ctx ends, and gives the shard up.
func (s *shard) close(ctx context.Context) {
	s.stop()
	<-s.stopped
	if s.dispatcher.Close(ctx) {
		s.log.MarkIdle()
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	_ = s.log.Close(last) //nolint:errcheck // what could not be written is in the log, and the next owner reads it
}

// abandon ends the work on a shard that is lost.
func (s *shard) abandon() {
	s.stop()
	<-s.stopped
	now, cancel := context.WithCancel(context.Background())
	cancel()
	s.dispatcher.Close(now)
	_ = s.log.Close(now) //nolint:errcheck // it is lost already
}
