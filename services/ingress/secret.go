package ingress

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/stagecoachmail/stagecoach/internal/natsconn"
)

// installationSecret is a key that all ingresses of the installation share, made by the first one. It is kept in
// NATS, where they meet.
func installationSecret(ctx context.Context, nc *nats.Conn, replicas int) ([]byte, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("the installation's secret: %w", err)
	}
	kv, err := natsconn.Bucket(ctx, js, jetstream.KeyValueConfig{Bucket: "STAGECOACH_INSTALLATION", Replicas: max(replicas, 1), MaxBytes: 1 << 20})
	if err != nil {
		return nil, fmt.Errorf("the installation's secret: %w", err)
	}
	for {
		e, err := kv.Get(ctx, "secret")
		if err == nil {
			return e.Value(), nil
		}
		if !errors.Is(err, jetstream.ErrKeyNotFound) {
			return nil, fmt.Errorf("the installation's secret: %w", err)
		}
		fresh := make([]byte, 32)
		if _, err := rand.Read(fresh); err != nil {
			return nil, fmt.Errorf("the installation's secret: %w", err)
		}
		if _, err := kv.Create(ctx, "secret", fresh); err != nil && !errors.Is(err, jetstream.ErrKeyExists) {
			return nil, fmt.Errorf("the installation's secret: %w", err)
		}
	}
}
