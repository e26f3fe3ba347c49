package service

import (
	"context"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// AdminServices is the package of the operator's API.
const AdminServices = "stagecoach.admin.v1"

// Only lets nobody but callers call the services of a protobuf package, whoever else may call the server: their
// certificate must bear one of those names. What it returns is for Listen; where pki is nil there are no names, and
// everybody on this machine may call these services like all others.
func Only(pki *PKI, pkg string, callers ...string) []grpc.ServerOption {
	if pki == nil {
		return nil
	}
	check := func(ctx context.Context, method string) error {
		if !strings.HasPrefix(method, "/"+pkg+".") || bears(ctx, callers) {
			return nil
		}
		return status.Errorf(codes.PermissionDenied, "%s may be called with a certificate for %s only", method, strings.Join(callers, " or "))
	}
	return []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			if err := check(ctx, info.FullMethod); err != nil {
				return nil, err
			}
			return next(ctx, req)
		}),
		grpc.ChainStreamInterceptor(func(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			if err := check(s.Context(), info.FullMethod); err != nil {
				return err
			}
			return next(srv, s)
		}),
	}
}

// bears says that the certificate at the other end of a call bears one of the names.
func bears(ctx context.Context, names []string) bool {
	return slices.ContainsFunc(namesOf(ctx), func(n string) bool { return slices.Contains(names, n) })
}
