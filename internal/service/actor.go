package service

import (
	"context"

	"google.golang.org/grpc/metadata"
)

// actorKey is the metadata by which admin tells a service who asks.
const actorKey = "stagecoach-actor"

// WithActor gives a context for calls in the name of a person. Only admin knows who asks; whatever a caller of admin
// says of himself does not come this far.
func WithActor(ctx context.Context, name string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, actorKey, name)
}

// AsActor gives the context of a call that came in, in the name of a person; what the caller said of himself is gone.
func AsActor(ctx context.Context, name string) context.Context {
	md, _ := metadata.FromIncomingContext(ctx)
	md = md.Copy()
	md.Set(actorKey, name)
	return metadata.NewIncomingContext(ctx, md)
}

// Actor is the person in whose name a call is made; "unknown" where the caller did not say.
func Actor(ctx context.Context) string {
	if v := metadata.ValueFromIncomingContext(ctx, actorKey); len(v) > 0 && v[0] != "" {
		return v[len(v)-1]
	}
	return "unknown"
}
