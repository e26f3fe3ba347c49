package antivirus

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/stagecoachmail/stagecoach/mail"
)

const (
	// maxScanTime is when a scan that nobody waits for any more is given up. clamd's own MaxScanTime is shorter.
	maxScanTime = 15 * time.Minute
	// maxUnclaimed and unclaimedFor bound the answers that came after their waiters had gone.
	maxUnclaimed = 1024
	unclaimedFor = time.Hour
)

// digest names the bytes that are scanned.
type digest [sha256.Size]byte

// scans runs the scans of one clamd, so many at a time. clamd does not stop a scan when its client goes away, so a
// scan does not end with the call that asked for it: it keeps its place until clamd answers, and who asks for the same
// bytes again meanwhile waits for that answer instead of starting another scan. An answer that nobody waited for is
// kept for the next attempt; else a message that takes longer than its stage's timeout would be scanned for ever.
type scans struct {
	at    endpoint
	slots chan struct{}
	now   func() time.Time

	ctx    context.Context
	cancel context.CancelFunc
	group  sync.WaitGroup

	mu  sync.Mutex
	all map[digest]*scan // running, and unclaimed
}

type scan struct {
	done   chan struct{}
	cancel context.CancelFunc
	// reply and err may be read when done is closed.
	reply reply
	err   error

	// Under the lock of scans:
	waiters  int
	sent     bool
	finished time.Time // zero while it runs
}

func newScans(at endpoint, atOnce int, now func() time.Time) *scans {
	ctx, cancel := context.WithCancel(context.Background())
	return &scans{at: at, slots: make(chan struct{}, atOnce), now: now, ctx: ctx, cancel: cancel, all: make(map[digest]*scan)}
}

// Close gives up what still runs and waits until it has ended. No Scan may be running.
func (s *scans) Close() error {
	s.cancel()
	s.group.Wait()
	return nil
}

// Scan has clamd scan c, whose digest is sum. It returns when clamd has answered or ctx ends.
func (s *scans) Scan(ctx context.Context, sum digest, c mail.Content) (reply, error) {
	sc := s.join(sum, c)
	select {
	case <-sc.done:
		s.leave(sum, sc)
		return sc.reply, sc.err
	case <-ctx.Done():
		if s.leave(sum, sc) {
			return reply{}, fmt.Errorf("clamd: still scanning: %w", context.Cause(ctx))
		}
		return reply{}, fmt.Errorf("clamd: %w", context.Cause(ctx))
	}
}

// join finds the scan of these bytes, or starts it.
func (s *scans) join(sum digest, c mail.Content) *scan {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire()
	if sc, ok := s.all[sum]; ok {
		sc.waiters++
		return sc
	}
	ctx, cancel := context.WithTimeoutCause(s.ctx, maxScanTime, errScanTime)
	sc := &scan{done: make(chan struct{}), cancel: cancel, waiters: 1}
	s.all[sum] = sc
	c.Retain()
	s.group.Go(func() {
		defer cancel()
		defer c.Release()
		r, err := s.run(ctx, sc, c)
		s.finish(sum, sc, r, err)
	})
	return sc
}

var (
	errScanTime = errors.New("no answer within 15 minutes")
)

// run waits for a place and scans.
func (s *scans) run(ctx context.Context, sc *scan, c mail.Content) (reply, error) {
	select {
	case s.slots <- struct{}{}:
	case <-ctx.Done():
		return reply{}, fmt.Errorf("clamd: waiting for a place: %w", context.Cause(ctx))
	}
	defer func() { <-s.slots }()
	return instream(ctx, s.at, c, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		sc.sent = true
	})
}

func (s *scans) finish(sum digest, sc *scan, r reply, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sc.reply, sc.err, sc.finished = r, err, s.now()
	close(sc.done)
	// An error is no answer: the next one who asks starts a new scan.
	if s.all[sum] == sc && (sc.waiters > 0 || err != nil) {
		delete(s.all, sum)
	}
}

// leave is called by each waiter at the end. It says whether the scan goes on.
func (s *scans) leave(sum digest, sc *scan) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	sc.waiters--
	switch {
	case !sc.finished.IsZero():
		if s.all[sum] == sc {
			delete(s.all, sum) // claimed
		}
		return false
	case sc.waiters == 0 && !sc.sent:
		// clamd has not begun: closing the connection ends it.
		delete(s.all, sum)
		sc.cancel()
		return false
	}
	return true
}

// expire drops unclaimed answers that are old, and makes room for one more.
func (s *scans) expire() {
	now := s.now()
	unclaimed := 0
	var oldest digest
	var since time.Time
	for sum, sc := range s.all {
		switch {
		case sc.finished.IsZero():
		case now.Sub(sc.finished) >= unclaimedFor:
			delete(s.all, sum)
		default:
			unclaimed++
			if since.IsZero() || sc.finished.Before(since) {
				oldest, since = sum, sc.finished
			}
		}
	}
	if unclaimed >= maxUnclaimed {
		delete(s.all, oldest)
	}
}
