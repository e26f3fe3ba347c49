package natsconn

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// bucketTry is how long one request for a bucket waits for its answer, bucketPause the time between two requests, and
	// bucketLimit when it is given up.
	bucketTry   = 5 * time.Second
	bucketPause = 250 * time.Millisecond
	bucketLimit = time.Minute
	// A cluster that has not formed yet, or has no place for the bucket so far.
	codeNotAvailable jetstream.ErrorCode = 10008
	codeNoPeers      jetstream.ErrorCode = 10005
)

// Bucket makes a bucket, or brings its limits to what cfg says. A cluster that has just formed drops such a request, or
// refuses it: it is asked again for up to a minute.
func Bucket(ctx context.Context, js jetstream.JetStream, cfg jetstream.KeyValueConfig) (jetstream.KeyValue, error) {
	end := time.Now().Add(bucketLimit)
	for {
		try, cancel := context.WithTimeout(ctx, bucketTry)
		kv, err := js.CreateOrUpdateKeyValue(try, cfg)
		cancel()
		if err == nil || !forming(err) || ctx.Err() != nil || time.Now().After(end) {
			return kv, err
		}
		t := time.NewTimer(bucketPause)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil, err
		case <-t.C:
		}
	}
}

// forming says that a cluster may answer otherwise soon.
func forming(err error) bool {
	if api, ok := errors.AsType[*jetstream.APIError](err); ok {
		return api.ErrorCode == codeNoPeers || api.ErrorCode == codeNotAvailable
	}
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrNoResponders) || errors.Is(err, nats.ErrTimeout)
}
