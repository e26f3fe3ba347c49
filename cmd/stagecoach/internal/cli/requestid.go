package cli

import (
	"context"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/stagecoachmail/stagecoach/internal/service"
)

// withRequestID gives each call an id of its own: whatever lies between here and admin may send a change twice, and it is
// done once. Calls that only look have no use for it.
func withRequestID() grpc.DialOption {
	return grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, resp any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		return invoke(metadata.AppendToOutgoingContext(ctx, service.RequestIDKey, uuid.NewString()), method, req, resp, conn, opts...)
	})
}
