package pki

import (
	"context"
	"log/slog"
	"os"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/peer"

	"github.com/stagecoachmail/stagecoach/internal/service"
)

func open(t *testing.T, f Folder, name string) *service.PKI {
	t.Helper()
	p, err := service.OpenPKI(f.Dir, name)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// serve runs a service whom callers may call, and gives its address.
func serve(t *testing.T, pki *service.PKI, callers ...string) string {
	t.Helper()
	s, err := service.Listen("127.0.0.1:0", pki, callers, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx, time.Second) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return s.Addr().String()
}

// call makes a connection of its own, and gives the serial number of who answered.
func call(t *testing.T, caller *service.PKI, address, callee string) (serial string, err error) {
	t.Helper()
	conns := service.NewConnections(caller)
	defer conns.Close()
	conn, err := conns.Conn(address, callee)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var p peer.Peer
	if _, err := healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{}, grpc.Peer(&p)); err != nil {
		return "", err
	}
	return p.AuthInfo.(credentials.TLSInfo).State.PeerCertificates[0].SerialNumber.String(), nil
}

// The services take the identities, and know each other by them.
func TestServicesTakeThem(t *testing.T) {
	f, _ := folder(t, "ingress", "egress", "admin", "antivirus")
	for _, name := range []string{"ingress", "egress", "admin", "antivirus"} {
		open(t, f, name)
	}
	address := serve(t, open(t, f, "antivirus"), "ingress")
	if _, err := call(t, open(t, f, "ingress"), address, "antivirus"); err != nil {
		t.Errorf("ingress calls antivirus: %v", err)
	}
	if _, err := call(t, open(t, f, "egress"), address, "antivirus"); err == nil {
		t.Error("egress may call antivirus")
	}
	if _, err := call(t, open(t, f, "ingress"), address, "egress"); err == nil {
		t.Error("antivirus passes for egress")
	}
	other, _ := folder(t, "ingress")
	if _, err := call(t, open(t, other, "ingress"), address, "antivirus"); err == nil {
		t.Error("ingress of another CA may call")
	}
}

// A running service takes up what was renewed; one that looks between the two renames goes on with the old pair.
func TestRenewWhileServing(t *testing.T) {
	f, c := folder(t, "ingress", "egress")
	server, client := open(t, f, "egress"), open(t, f, "ingress")
	address := serve(t, server, "ingress")
	serial := func() string {
		t.Helper()
		s, err := call(t, client, address, "egress")
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	first := serial()

	ca, err := f.authority()
	if err != nil {
		t.Fatal(err)
	}
	p, err := ca.issue(c.at, "egress", []string{"egress"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	cert, key := f.files("egress")
	temp, err := stage(key, f.CAFile(), p.key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(temp, key); err != nil {
		t.Fatal(err)
	}
	if got := serial(); got != first {
		t.Errorf("with half a pair the service shows %s, not the old %s", got, first)
	}
	if temp, err = stage(cert, f.CAFile(), p.cert); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(temp, cert); err != nil {
		t.Fatal(err)
	}
	if got := serial(); got != p.leaf.SerialNumber.String() {
		t.Errorf("with the whole pair it shows %s, not %s", got, p.leaf.SerialNumber)
	}

	renewed(t, f, Renewal{All: true})
	if got, want := serial(), leafOf(t, f, "egress").SerialNumber.String(); got != want {
		t.Errorf("after the renewal it shows %s, not %s", got, want)
	}
}

// Calls go on while both sides are renewed again and again.
func TestRenewUnderCalls(t *testing.T) {
	f, _ := folder(t, "ingress", "egress")
	server, client := open(t, f, "egress"), open(t, f, "ingress")
	address := serve(t, server, "ingress")
	done := make(chan error, 1)
	go func() {
		var err error
		for range 30 {
			if _, _, err = f.Renew(Renewal{All: true}); err != nil {
				break
			}
		}
		done <- err
	}()
	for calls := 0; ; calls++ {
		if _, err := call(t, client, address, "egress"); err != nil {
			t.Errorf("call %d: %v", calls, err)
		}
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
			return
		default:
		}
	}
}
