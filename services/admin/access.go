package admin

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"encoding/hex"
	"log/slog"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	grpcpeer "google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/internal/service"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

// How a caller is known.
const (
	byCertificate = "certificate"
	byToken       = "token"
	bySocket      = "socket"
)

// caller is who makes a call.
type caller struct {
	name string
	role adminv1.Role
	by   string
	// ends is when the certificate does; zero without.
	ends time.Time
	// from is the address; empty: the socket.
	from string
	// probe: it is the identity admin of the pki, which may ask for health alone.
	probe bool
	// token is the hash that the person's token had.
	token string
}

type callerKey struct{}

func withCaller(ctx context.Context, c caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// callerOf is who makes the call of ctx: as the port found out, or the kernel.
func callerOf(ctx context.Context) (caller, bool) {
	if c, ok := ctx.Value(callerKey{}).(caller); ok {
		return c, true
	}
	if p, ok := grpcpeer.FromContext(ctx); ok {
		if who, ok := p.AuthInfo.(peer); ok {
			return caller{name: who.person(), role: admins, by: bySocket}, true
		}
	}
	return caller{}, false
}

// access finds out who calls over the network, and says what he may.
type access struct {
	config   func() *config.Config
	attempts *attempts
	log      *slog.Logger
	now      func() time.Time
	// stopping ends when no more calls are taken: what is endless ends with it.
	stopping context.Context
}

// identity is the service whose certificate may ask for health.
const identity = "admin"

// identify finds out who calls from an address with these credentials: the header Authorization, or else the certificate
// of the connection. ca is nil where certificates are not asked for. The error is a status.
func (a *access) identify(ctx context.Context, from, authorization string, state *tls.ConnectionState, ca *service.Authority) (caller, error) {
	switch {
	case authorization != "":
		return a.byToken(ctx, from, authorization)
	case ca != nil && state != nil && len(state.PeerCertificates) > 0:
		return a.byCertificate(from, state, ca)
	}
	return caller{}, status.Error(codes.Unauthenticated, "nobody is known at the other end: show the certificate of a person (`stagecoach pki person`), or send `authorization: Bearer TOKEN`")
}

func (a *access) byCertificate(from string, state *tls.ConnectionState, ca *service.Authority) (caller, error) {
	leaf := state.PeerCertificates[0]
	if err := ca.Verify(state.PeerCertificates, a.now()); err != nil {
		return caller{}, status.Errorf(codes.Unauthenticated, "the certificate is not taken: %v", err)
	}
	if name := service.PersonOf(leaf); name != "" {
		c := caller{name: name, by: byCertificate, ends: leaf.NotAfter, from: from}
		c.role = a.roleOf(c)
		if c.role == adminv1.Role_ROLE_UNSPECIFIED {
			a.log.Warn("admin: somebody who may not call", "name", name, "from", from)
			return caller{}, status.Errorf(codes.PermissionDenied, "%s is not among admin.people of the configuration", name)
		}
		return c, nil
	}
	if slices.Contains(leaf.DNSNames, identity) && len(leaf.URIs) == 0 {
		return caller{name: identity, by: byCertificate, ends: leaf.NotAfter, from: from, probe: true}, nil
	}
	return caller{}, status.Error(codes.PermissionDenied, "this is the certificate of a service: `stagecoach pki person` makes those of persons")
}

// byToken compares with all tokens, whichever fits, so the time that it takes tells nothing.
func (a *access) byToken(ctx context.Context, from, authorization string) (caller, error) {
	source := sourceOf(from)
	if !a.attempts.may(source) {
		return caller{}, status.Error(codes.ResourceExhausted, "too many wrong tokens from this address: wait a minute")
	}
	kind, token, _ := strings.Cut(authorization, " ")
	sum := sha256.Sum256([]byte(strings.TrimSpace(token)))
	hash := hex.EncodeToString(sum[:])
	c := caller{by: byToken, from: from}
	for _, p := range a.config().Admin.People {
		if p.TokenSHA256 != "" && subtle.ConstantTimeCompare([]byte(hash), []byte(p.TokenSHA256)) == 1 {
			c.name, c.role, c.token = p.Name, roles[p.Role], hash
		}
	}
	if c.name == "" || !strings.EqualFold(kind, "bearer") || token == "" {
		a.log.Warn("admin: a wrong token", "from", from)
		a.attempts.failed(ctx, source)
		return caller{}, status.Error(codes.Unauthenticated, "the token is not one that is known: `stagecoach admin token` makes one")
	}
	return c, nil
}

// roleOf is the role that a person has by the configuration in force; none: he may not call.
func (a *access) roleOf(c caller) adminv1.Role {
	for _, p := range a.config().Admin.People {
		if p.Name == c.name && (c.by != byToken || p.TokenSHA256 == c.token) {
			return roles[p.Role]
		}
	}
	return adminv1.Role_ROLE_UNSPECIFIED
}

// may says whether a caller may call a method now: people come and go while a call runs. The error is a status.
func (a *access) may(c caller, method string) error {
	r, known := ruleOf(method)
	if c.by == bySocket {
		if !known {
			return status.Errorf(codes.Unimplemented, "there is no method %s", method)
		}
		return nil
	}
	if !c.ends.IsZero() && a.now().After(c.ends) {
		return status.Error(codes.Unauthenticated, "the certificate has ended")
	}
	if c.probe {
		if strings.HasPrefix(method, healthPrefix) {
			return nil
		}
		return status.Error(codes.PermissionDenied, "the certificate of the service admin may ask for health alone: `stagecoach pki person` makes those of persons")
	}
	role := a.roleOf(c)
	switch {
	case role == adminv1.Role_ROLE_UNSPECIFIED:
		return status.Errorf(codes.PermissionDenied, "%s is not among admin.people of the configuration any more", c.name)
	case !known:
		return status.Errorf(codes.Unimplemented, "there is no method %s", method)
	case role < r.least:
		return status.Errorf(codes.PermissionDenied, "%s needs the role %s, and %s has %s", shortMethod(method), roleName(r.least), c.name, roleName(role))
	}
	return nil
}

// shortMethod is a method without its package: QueueService/ListMessages.
func shortMethod(full string) string {
	s := strings.TrimPrefix(full, "/")
	if strings.HasPrefix(s, service.AdminServices+".") {
		return strings.TrimPrefix(s, service.AdminServices+".")
	}
	return s
}
