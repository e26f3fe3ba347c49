package service

import (
	"context"
	"io"
	"runtime"
	"runtime/pprof"
	"runtime/trace"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

const (
	// profileChunk is the most of a profile in one response, in bytes.
	profileChunk = 256 << 10
	// profileSeconds and mostProfileSeconds are how long a profile is gathered.
	profileSeconds     = 10
	mostProfileSeconds = 60
	// contended is of how many contentions one is kept while a profile of mutexes is gathered, and blocked the
	// nanoseconds that a goroutine has to wait to be kept in one of blocking.
	contended = 5
	blocked   = 100_000
)

// profiling is held while something is gathered: the runtime does it once in a process.
var profiling sync.Mutex

// GetProfile implements the service.
func (n *node) GetProfile(r *adminv1.GetProfileRequest, stream grpc.ServerStreamingServer[adminv1.GetProfileResponse]) error {
	seconds := r.GetSeconds()
	if seconds == 0 {
		seconds = profileSeconds
	}
	if seconds > mostProfileSeconds {
		return status.Errorf(codes.InvalidArgument, "seconds is at most %d", mostProfileSeconds)
	}
	n.o.Logger.Info("a profile is made", "kind", r.GetKind(), "by", Actor(stream.Context()))
	out := &profileWriter{stream: stream}
	var err error
	switch kind := r.GetKind(); kind {
	case "heap", "allocs", "goroutine":
		err = pprof.Lookup(kind).WriteTo(out, 0)
	case "cpu", "trace", "mutex", "block":
		err = gather(stream.Context(), kind, time.Duration(seconds)*time.Second, out)
	default:
		return status.Errorf(codes.InvalidArgument, "there is no profile %.32q: cpu, heap, allocs, goroutine, mutex, block or trace", kind)
	}
	if err != nil {
		return err
	}
	return out.flush()
}

// gather makes a profile of what happens from now on. It ends early, with an error, when ctx does.
func gather(ctx context.Context, kind string, long time.Duration, out io.Writer) error {
	if !profiling.TryLock() {
		return status.Error(codes.ResourceExhausted, "another profile of this process is being made: try again when it is done")
	}
	defer profiling.Unlock()
	var stop func() error
	switch kind {
	case "cpu":
		if err := pprof.StartCPUProfile(out); err != nil {
			return status.Error(codes.Unavailable, err.Error())
		}
		stop = func() error { pprof.StopCPUProfile(); return nil }
	case "trace":
		if err := trace.Start(out); err != nil {
			return status.Error(codes.Unavailable, err.Error())
		}
		stop = func() error { trace.Stop(); return nil }
	case "mutex":
		was := runtime.SetMutexProfileFraction(contended)
		stop = func() error { runtime.SetMutexProfileFraction(was); return pprof.Lookup(kind).WriteTo(out, 0) }
	case "block":
		runtime.SetBlockProfileRate(blocked)
		stop = func() error { runtime.SetBlockProfileRate(0); return pprof.Lookup(kind).WriteTo(out, 0) }
	}
	t := time.NewTimer(long)
	defer t.Stop()
	select {
	case <-t.C:
		return stop()
	case <-ctx.Done():
		_ = stop() //nolint:errcheck // nobody wants it any more
		return status.FromContextError(ctx.Err()).Err()
	}
}

// profileWriter sends what is written in chunks of 256 KiB.
type profileWriter struct {
	stream grpc.ServerStreamingServer[adminv1.GetProfileResponse]
	buf    []byte
	err    error
}

// Write implements io.Writer.
func (w *profileWriter) Write(p []byte) (int, error) {
	w.buf = append(w.buf, p...)
	for len(w.buf) >= profileChunk && w.err == nil {
		w.err = w.stream.Send(&adminv1.GetProfileResponse{Chunk: w.buf[:profileChunk]})
		w.buf = append([]byte(nil), w.buf[profileChunk:]...)
	}
	if w.err != nil {
		return 0, w.err
	}
	return len(p), nil
}

func (w *profileWriter) flush() error {
	if w.err != nil || len(w.buf) == 0 {
		return w.err
	}
	return w.stream.Send(&adminv1.GetProfileResponse{Chunk: w.buf})
}
