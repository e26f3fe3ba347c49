package admin

import (
	"context"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/stagecoachmail/stagecoach/internal/service"
)

const (
	requestsBucket = "STAGECOACH_REQUESTS"
	// requestsFor is how long a request id is remembered.
	requestsFor = 24 * time.Hour
	// requestsBytes bounds the bucket. When it is full, changes with an id are refused.
	requestsBytes = 512 << 20
	// maxAnswer is the largest answer that is kept, in bytes.
	maxAnswer = 512 << 10
	// requestsWait is how long the bucket may take to answer.
	requestsWait = 10 * time.Second
	// stretch is how much work it is to guess a password from what is kept of its request.
	stretch = 100_000
)

// requestIDForm is what a request id may be.
var requestIDForm = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// requestIDOf is the id that the caller gave the call; empty: none.
func requestIDOf(ctx context.Context) string {
	if v := metadata.ValueFromIncomingContext(ctx, service.RequestIDKey); len(v) > 0 {
		return v[0]
	}
	return ""
}

// requests remembers the changes that came with an id, and what was answered: the same call again gives the same answer
// and does nothing. It is kept in NATS, where all admins see it.
type requests struct {
	conn     *nats.Conn
	replicas func() int
	log      *slog.Logger
	now      func() time.Time

	mu sync.Mutex
	kv jetstream.KeyValue
}

// kept is a request as it is stored.
type kept struct {
	Format int       `json:"format"` // 1
	At     time.Time `json:"at"`
	Method string    `json:"method"`
	// Sum tells requests apart.
	Sum []byte `json:"sum"`
	// Done: it has an outcome, which is Status, or else Answer.
	Done bool `json:"done,omitempty"`
	// Status is a google.rpc.Status.
	Status []byte `json:"status,omitempty"`
	// Answer is a google.protobuf.Any; empty: it was too large to be kept.
	Answer []byte `json:"answer,omitempty"`
}

const keptFormat = 1

func (r *requests) open(ctx context.Context) (jetstream.KeyValue, error) {
	if r.conn == nil {
		return nil, errNoNATS
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.kv != nil {
		return r.kv, nil
	}
	js, err := jetstream.New(r.conn)
	if err != nil {
		return nil, err
	}
	kv, err := js.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: requestsBucket, Description: "changes that came with a request id, and their answers",
		TTL: requestsFor, MaxBytes: requestsBytes, MaxValueSize: 2 * maxAnswer, Storage: jetstream.FileStorage, Replicas: r.replicas()})
	if err != nil {
		return nil, fmt.Errorf("the bucket %s: %w", requestsBucket, err)
	}
	r.kv = kv
	return kv, nil
}

func (r *requests) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.kv = nil
}

func (r *requests) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	rule, known := ruleOf(info.FullMethod)
	id := requestIDOf(ctx)
	if id == "" || !known || rule.does != changes {
		return next(ctx, req)
	}
	m, ok := req.(proto.Message)
	if !ok || !requestIDForm.MatchString(id) {
		return nil, status.Errorf(codes.InvalidArgument, "%s: 1 to 64 letters, digits, _ and -", service.RequestIDKey)
	}
	person := sha256.Sum256([]byte(service.Actor(ctx) + "\x00" + id))
	key := hex.EncodeToString(person[:])
	sum, err := sumOf(m, id)
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	k := &kept{Format: keptFormat, At: r.now().UTC(), Method: info.FullMethod, Sum: sum}
	revision, first, err := r.claim(ctx, key, k)
	switch {
	case err != nil:
		return nil, status.Errorf(codes.Unavailable, "nothing was done: the request id cannot be kept: %v", err)
	case first != nil:
		return first.again(k)
	}
	resp, err := next(ctx, req)
	if notBegun(err) {
		r.release(ctx, key, revision)
		return resp, err
	}
	k.outcome(resp, err)
	r.finish(ctx, key, k, revision)
	return resp, err
}

// claim makes the request this call's. If the id is known already, first is what is known of it.
func (r *requests) claim(ctx context.Context, key string, k *kept) (revision uint64, first *kept, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestsWait)
	defer cancel()
	kv, err := r.open(ctx)
	if err != nil {
		return 0, nil, err
	}
	data, err := json.Marshal(k)
	if err != nil {
		return 0, nil, err
	}
	revision, err = kv.Create(ctx, key, data)
	switch {
	case err == nil:
		return revision, nil, nil
	case !errors.Is(err, jetstream.ErrKeyExists):
		r.forget()
		return 0, nil, err
	}
	e, err := kv.Get(ctx, key)
	if err != nil {
		return 0, nil, err
	}
	first = new(kept)
	if err := json.Unmarshal(e.Value(), first); err != nil {
		return 0, nil, err
	}
	if first.Format != keptFormat {
		return 0, nil, fmt.Errorf("it is kept in format %d, of another version of this program", first.Format)
	}
	return 0, first, nil
}

// again answers a call whose id was seen before.
func (k *kept) again(now *kept) (any, error) {
	switch {
	case k.Method != now.Method || !hmac.Equal(k.Sum, now.Sum):
		return nil, status.Errorf(codes.InvalidArgument, "another request had this %s at %s", service.RequestIDKey, k.At.Format(time.RFC3339))
	case !k.Done:
		return nil, status.Errorf(codes.Aborted, "the first call with this %s has no outcome yet, or its process died: it began at %s; see what it did before you do it again with a fresh one",
			service.RequestIDKey, k.At.Format(time.RFC3339))
	case len(k.Status) > 0:
		s := new(spb.Status)
		if err := proto.Unmarshal(k.Status, s); err != nil {
			return nil, status.Errorf(codes.Internal, "the first answer cannot be read: %v", err)
		}
		return nil, status.FromProto(s).Err()
	case len(k.Answer) == 0:
		return nil, status.Errorf(codes.AlreadyExists, "it was done at %s; the answer was too large to be kept", k.At.Format(time.RFC3339))
	}
	a := new(anypb.Any)
	if err := proto.Unmarshal(k.Answer, a); err != nil {
		return nil, status.Errorf(codes.Internal, "the first answer cannot be read: %v", err)
	}
	m, err := a.UnmarshalNew()
	if err != nil {
		return nil, status.Errorf(codes.Internal, "the first answer cannot be read: %v", err)
	}
	return m, nil
}

// outcome notes how the call ended.
func (k *kept) outcome(resp any, err error) {
	k.Done = true
	if err != nil {
		k.Status, _ = proto.Marshal(status.Convert(err).Proto()) //nolint:errcheck // a status can be written
		if len(k.Status) > maxAnswer {
			k.Status, _ = proto.Marshal(&spb.Status{Code: int32(status.Code(err)), Message: cut(status.Convert(err).Message())}) //nolint:errcheck // as above
		}
		return
	}
	m, ok := resp.(proto.Message)
	if !ok {
		return
	}
	a, err := anypb.New(m)
	if err != nil {
		return
	}
	if data, err := proto.Marshal(a); err == nil && len(data) <= maxAnswer {
		k.Answer = data
	}
}

// finish keeps the outcome, also when the caller is gone.
func (r *requests) finish(ctx context.Context, key string, k *kept, revision uint64) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestsWait)
	defer cancel()
	kv, err := r.open(ctx)
	if err == nil {
		var data []byte
		if data, err = json.Marshal(k); err == nil {
			_, err = kv.Update(ctx, key, data, revision)
		}
	}
	if err != nil {
		r.forget()
		r.log.Warn("admin: the answer to a request id is not kept: the same call again is told to look first", "method", shortMethod(k.Method), "error", err)
	}
}

// release gives up a claim: nothing was done.
func (r *requests) release(ctx context.Context, key string, revision uint64) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestsWait)
	defer cancel()
	if kv, err := r.open(ctx); err == nil {
		_ = kv.Purge(ctx, key, jetstream.LastRevision(revision)) //nolint:errcheck // the same call again is told to look first
	}
}

// sumOf tells requests apart. Of one with a secret it is hard to compute, so that nobody guesses the secret from it.
func sumOf(m proto.Message, id string) ([]byte, error) {
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return nil, err
	}
	shown := proto.Clone(m)
	redact(shown.ProtoReflect())
	if !proto.Equal(shown, m) {
		return pbkdf2.Key(sha256.New, string(data), []byte(id), stretch, sha256.Size)
	}
	sum := sha256.Sum256(data)
	return sum[:], nil
}
