package service

import (
	"context"
	"strings"
	"sync/atomic"

	"google.golang.org/grpc"
)

// calls counts the calls under way that carry mail: those of RelayService and StageService.
type calls struct{ n atomic.Int64 }

// Calls is how many calls of RelayService and StageService are under way.
func (s *Server) Calls() int { return int(s.calls.n.Load()) }

func carriesMail(method string) bool {
	return strings.HasPrefix(method, "/"+relayServices+".") || strings.HasPrefix(method, "/"+stageServices+".")
}

func (c *calls) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if carriesMail(info.FullMethod) {
		c.n.Add(1)
		defer c.n.Add(-1)
	}
	return next(ctx, req)
}

func (c *calls) stream(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	if carriesMail(info.FullMethod) {
		c.n.Add(1)
		defer c.n.Add(-1)
	}
	return next(srv, s)
}
