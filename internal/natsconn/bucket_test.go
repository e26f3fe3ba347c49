package natsconn

import (
	"context"
	"errors"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// slow is a cluster that answers so many requests badly before it makes the bucket.
type slow struct {
	jetstream.JetStream
	errs  []error
	asked int
}

func (s *slow) CreateOrUpdateKeyValue(context.Context, jetstream.KeyValueConfig) (jetstream.KeyValue, error) {
	s.asked++
	if len(s.errs) == 0 {
		return nil, nil
	}
	err := s.errs[0]
	s.errs = s.errs[1:]
	return nil, err
}

// What a cluster says while it forms is asked again; what it refuses is not.
func TestBucketWaitsForTheCluster(t *testing.T) {
	t.Parallel()
	s := &slow{errs: []error{context.DeadlineExceeded, nats.ErrNoResponders, &jetstream.APIError{ErrorCode: codeNoPeers}}}
	if _, err := Bucket(t.Context(), s, jetstream.KeyValueConfig{}); err != nil || s.asked != 4 {
		t.Errorf("asked %d times: %v", s.asked, err)
	}
	full := &jetstream.APIError{ErrorCode: 10047}
	s = &slow{errs: []error{full, full}}
	if _, err := Bucket(t.Context(), s, jetstream.KeyValueConfig{}); !errors.Is(err, error(full)) || s.asked != 1 {
		t.Errorf("a refusal: asked %d times: %v", s.asked, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s = &slow{errs: []error{context.Canceled, nats.ErrTimeout}}
	if _, err := Bucket(ctx, s, jetstream.KeyValueConfig{}); err == nil || s.asked != 1 {
		t.Errorf("after the end: asked %d times: %v", s.asked, err)
	}
}
