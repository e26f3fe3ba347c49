package admin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"strconv"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/credentials"
)

// peer is a process of this machine that calls, as the kernel knows it.
type peer struct {
	credentials.CommonAuthInfo
	uid uint32
	pid int32
}

// AuthType names how the peer is known.
func (peer) AuthType() string { return "unix" }

// person is the user's name, or its number where it has none.
func (p peer) person() string {
	if u, err := user.LookupId(strconv.FormatUint(uint64(p.uid), 10)); err == nil && u.Username != "" {
		return u.Username
	}
	return fmt.Sprintf("uid %d", p.uid)
}

// peerCredentials lets the owner of this process and root in.
type peerCredentials struct {
	owner uint32
	// ask gives who is at the other end.
	ask func(net.Conn) (peer, error)
}

func newPeerCredentials() *peerCredentials {
	return &peerCredentials{owner: uint32(os.Geteuid()), ask: askKernel}
}

// askKernel reads SO_PEERCRED (unix(7)): the user that connected, whoever holds the connection now.
func askKernel(c net.Conn) (peer, error) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return peer{}, errors.New("not a unix socket")
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return peer{}, err
	}
	var cred *unix.Ucred
	var failed error
	if err := raw.Control(func(fd uintptr) { cred, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return peer{}, err
	}
	if failed != nil {
		return peer{}, failed
	}
	return peer{CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}, uid: cred.Uid, pid: cred.Pid}, nil
}

// ServerHandshake implements credentials.TransportCredentials: nothing goes over the wire.
func (c *peerCredentials) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	p, err := c.ask(conn)
	if err != nil {
		return nil, nil, fmt.Errorf("admin: who calls: %w", err)
	}
	if p.uid != c.owner && p.uid != 0 {
		return nil, nil, fmt.Errorf("admin: user %s may not call: only uid %d and root may", p.person(), c.owner)
	}
	return conn, p, nil
}

// ClientHandshake implements credentials.TransportCredentials; these are a server's.
func (*peerCredentials) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("admin: these credentials are a server's")
}

// Info implements credentials.TransportCredentials.
func (*peerCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "unix"}
}

// Clone implements credentials.TransportCredentials.
func (c *peerCredentials) Clone() credentials.TransportCredentials {
	d := *c
	return &d
}

// OverrideServerName implements credentials.TransportCredentials.
func (*peerCredentials) OverrideServerName(string) error { return nil }
