package doctor

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"github.com/stagecoachmail/stagecoach/internal/config"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

// greetingWait is how long a server that holds one of our ports may take to greet.
const greetingWait = 5 * time.Second

// checkPorts says whether the listeners have their ports, or could have them.
func checkPorts(ctx context.Context, e *Env) []Finding {
	status, err := e.Admin.Status(ctx)
	if err != nil {
		status = nil // checkRunning says why
	}
	// An ingress that is a process of its own has no socket to be asked on.
	perhaps := !e.Up || err != nil && !errors.Is(err, errNotRunning)
	return each(e.Config.Ingress.Listeners, func(l config.Listener) notes {
		var n notes
		n.port(ctx, e, l, status, perhaps)
		return n
	})
}

// port looks at one listener. perhaps: one of ours may hold it, though it is not in the status.
func (n *notes) port(ctx context.Context, e *Env, l config.Listener, status *adminv1.GetStatusResponse, perhaps bool) {
	subject := l.Name + " " + l.Address
	for _, r := range status.GetListeners() {
		if r.GetName() == l.Name {
			n.ok(subject, "the running stagecoach listens here")
			return
		}
	}
	_, port, _ := net.SplitHostPort(l.Address)
	opened, err := e.Ports.Listen(ctx, l.Address)
	switch {
	case err == nil:
		_ = opened.Close() // it was only tried
		n.ok(subject, "can be opened")
	case errors.Is(err, syscall.EADDRINUSE):
		n.taken(ctx, e, l, port, perhaps)
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		n.fail(subject, "Ports below 1024 need a right: AmbientCapabilities=CAP_NET_BIND_SERVICE in the systemd unit, or `sysctl net.ipv4.ip_unprivileged_port_start="+port+"`; "+
			"or this is not the user that stagecoach runs as.", "the port may not be opened by uid %d", e.UID)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		n.fail(subject, "Write an address of this machine (`ip address` shows them) or :"+port+" into ingress.listeners.", "the address is not one of this machine")
	default:
		n.fail(subject, "Write an address of this machine into ingress.listeners.", "the port cannot be opened: %v", err)
	}
}

// taken says by whom, as far as the greeting tells: ours has our hostname in it.
func (n *notes) taken(ctx context.Context, e *Env, l config.Listener, port string, perhaps bool) {
	subject := l.Name + " " + l.Address
	text, err := e.greeting(ctx, l)
	if perhaps && err == nil && strings.HasPrefix(text, "220 "+e.Config.Hostname+" ") {
		n.ok(subject, "is open, and greets as %s", e.Config.Hostname)
		return
	}
	who := ""
	if err == nil {
		who = fmt.Sprintf(", which greets with %q", text)
	}
	n.fail(subject, "`ss -ltnp 'sport = :"+port+"'` names the program: stop it, or choose another port in ingress.listeners.", "another program has this port%s", who)
}

// greeting is the first line that the server on a port says. Behind implicit TLS nobody is asked.
func (e *Env) greeting(ctx context.Context, l config.Listener) (string, error) {
	if l.TLS == config.ListenerImplicit {
		return "", errors.New("speaks TLS")
	}
	ctx, cancel := context.WithTimeout(ctx, greetingWait)
	defer cancel()
	conn, err := e.Ports.Dial(ctx, "tcp", reachable(l.Address))
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if end, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(end); err != nil {
			return "", err
		}
	}
	line, err := bufio.NewReader(io.LimitReader(conn, 512)).ReadString('\n')
	if err != nil {
		return "", err
	}
	_, _ = io.WriteString(conn, "QUIT\r\n") // out of politeness
	return strings.TrimSpace(line), nil
}

// reachable is the address by which this machine reaches a listener of its own.
func reachable(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	if a, err := netip.ParseAddr(host); host == "" || err == nil && a.IsUnspecified() {
		host = "localhost"
	}
	return net.JoinHostPort(host, port)
}
