//go:build compose

package compose

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	stagev1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/stage/v1"
)

// within runs a command beside a container, in its network.
func within(container string, command ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "docker", append([]string{"run", "--rm", "--network", "container:" + container, "debian:bookworm-slim"}, command...)...).CombinedOutput()
	return string(out), err
}

// Whom each container can reach, and whether it can leave the machine: NATS is for ingress and admin, clamd for antivirus,
// the outside for ingress and egress.
func TestNetworks(t *testing.T) {
	in := demo(t)
	targets := []string{"nats:4222", "nats:8222", "clamav:3310", "antivirus:7001", "ingress:7001"}
	may := map[string][]string{
		"ingress":    {"nats:4222", "antivirus:7001", "ingress:7001"},
		"admin":      {"nats:4222", "antivirus:7001", "ingress:7001"},
		"antivirus":  {"clamav:3310", "antivirus:7001", "ingress:7001"},
		"disclaimer": {"antivirus:7001", "ingress:7001"},
		"egress":     {"antivirus:7001", "ingress:7001"},
		"clamav":     {"clamav:3310", "antivirus:7001"},
		"smarthost":  nil,
		"nats":       {"nats:4222", "ingress:7001"}, // its monitor is for its own health check, at 127.0.0.1
	}
	script := "for t in " + strings.Join(targets, " ") + "; do timeout 2 bash -c \"exec 3<>/dev/tcp/${t/:/\\/}\" 2>/dev/null && echo $t; done; true"
	for service, want := range may {
		t.Run(service, func(t *testing.T) {
			t.Parallel()
			container := in.container(service, 1)
			out, err := within(container, "bash", "-c", script)
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			got := strings.Fields(out)
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Errorf("reaches %v, want %v", got, want)
			}
			leaves := leaves(t, container)
			if outside := service == "ingress" || service == "egress" || service == "smarthost"; leaves != outside {
				t.Errorf("can leave the machine: %v", leaves)
			}
		})
	}
}

// leaves says that one of a container's networks leads off the machine.
func leaves(t *testing.T, container string) bool {
	t.Helper()
	networks, err := docker("inspect", "-f", "{{range $n, $_ := .NetworkSettings.Networks}}{{$n}} {{end}}", container)
	if err != nil {
		t.Fatal(err)
	}
	for network := range strings.FieldsSeq(networks) {
		about, err := docker("network", "inspect", "-f", "{{.Internal}} {{index .Options \"com.docker.network.bridge.enable_ip_masquerade\"}}", network)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(about, "true") && !strings.Contains(about, " false") {
			return true
		}
	}
	return false
}

// address is where a container answers on one of its networks.
func (in *install) address(t *testing.T, service, network string) string {
	t.Helper()
	out, err := docker("inspect", "-f", fmt.Sprintf("{{(index .NetworkSettings.Networks %q).IPAddress}}", in.project+"_"+network), in.container(service, 1))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// identity is the certificate of a service, with the CA that it trusts.
func (in *install) identity(t *testing.T, name string) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	dir := in.path("pki", name)
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, name+".pem"), filepath.Join(dir, name+"-key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	return pair, pool
}

// call dials a service with the certificate of another.
func (in *install) call(t *testing.T, as, service string) *grpc.ClientConn {
	t.Helper()
	pair, pool := in.identity(t, as)
	conn, err := grpc.NewClient("passthrough:///"+net.JoinHostPort(in.address(t, service, "mail"), "7001"),
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}, RootCAs: pool, ServerName: service})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// What a service's certificate is good for, tried from the containers' networks: its own work, and nothing else.
func TestOtherServicesCertificate(t *testing.T) {
	in := demo(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	list := func(as string) error {
		_, err := adminv1.NewQueueServiceClient(in.call(t, as, "ingress")).ListMessages(ctx, &adminv1.ListMessagesRequest{})
		return err
	}
	if err := list("admin"); err != nil {
		t.Errorf("admin cannot list what waits: %v", err)
	}
	for _, as := range []string{"antivirus", "egress", "signer", "nats", "smarthost"} {
		if err := list(as); err == nil {
			t.Errorf("%s can list what waits at ingress", as)
		}
	}
	if _, err := stagev1.NewStageServiceClient(in.call(t, "ingress", "signer")).Describe(ctx, &stagev1.DescribeRequest{}); err != nil {
		t.Errorf("ingress cannot ask the signer what it is: %v", err)
	}
	for _, as := range []string{"nats", "smarthost"} {
		if _, err := healthv1.NewHealthClient(in.call(t, as, "signer")).Check(ctx, &healthv1.HealthCheckRequest{}); err == nil {
			t.Errorf("%s can call the signer", as)
		}
	}
	for _, as := range []string{"ingress", "admin"} {
		if err := in.bus(t, as); err != nil {
			t.Errorf("%s cannot connect to NATS: %v", as, err)
		}
	}
	for _, as := range []string{"antivirus", "disclaimer", "archive", "signer", "egress", "smarthost", "nats"} {
		if err := in.bus(t, as); err == nil {
			t.Errorf("%s can connect to NATS", as)
		}
	}
}

// bus connects to NATS with the certificate of a service; nil: it is let in.
func (in *install) bus(t *testing.T, as string) error {
	t.Helper()
	pair, pool := in.identity(t, as)
	nc, err := net.DialTimeout("tcp", net.JoinHostPort(in.address(t, "nats", "bus"), "4222"), 5*time.Second)
	if err != nil {
		return err
	}
	defer nc.Close()
	if err := nc.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	// The server speaks first, in the clear, and byte by byte we leave it the rest for TLS.
	for b := make([]byte, 1); b[0] != '\n'; {
		if _, err := nc.Read(b); err != nil {
			return err
		}
	}
	c := tls.Client(nc, &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}, RootCAs: pool, ServerName: "nats"})
	if _, err := c.Write([]byte("CONNECT {\"verbose\":false,\"tls_required\":true}\r\nPING\r\n")); err != nil {
		return err
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err == nil && strings.TrimSpace(line) != "PONG" {
		err = errors.New(line)
	}
	return err
}

// Each container sees its own key alone, has no right that it does not need, and cannot write where it runs.
func TestContainers(t *testing.T) {
	in := demo(t)
	for _, service := range []string{"ingress", "antivirus", "disclaimer", "archive", "signer", "egress", "admin", "nats"} {
		p := pid(t, in.container(service, 1))
		status, err := os.ReadFile("/proc/" + p + "/status")
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range []string{"Uid:\t10001\t10001\t10001\t10001\n", "CapEff:\t0000000000000000\n", "CapBnd:\t0000000000000000\n", "NoNewPrivs:\t1\n"} {
			if !bytes.Contains(status, []byte(line)) {
				t.Errorf("%s has not %q", service, line)
			}
		}
		keys, err := filepath.Glob("/proc/" + p + "/root/pki/*-key.pem")
		if err != nil || len(keys) != 1 || filepath.Base(keys[0]) != service+"-key.pem" {
			t.Errorf("%s sees the keys %v (%v)", service, keys, err)
		}
		mounts, err := os.ReadFile("/proc/" + p + "/mounts")
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(mounts)) {
			f := strings.Fields(line)
			readOnly := strings.HasPrefix(f[3], "ro")
			if want := f[1] == "/" || f[1] == "/pki" || f[1] == "/etc/stagecoach" && service != "admin"; want && !readOnly {
				t.Errorf("%s can write to %s", service, f[1])
			}
		}
	}
}

// The operator's API at its published port answers who has a certificate of this installation for a person that the
// configuration names, and nobody else.
func TestAdminAPI(t *testing.T) {
	in := demo(t)
	address := fmt.Sprintf("127.0.0.1:%d", in.ports["ADMIN"])
	_, pool := in.identity(t, "admin")
	ask := func(certificates ...tls.Certificate) error {
		conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS13, Certificates: certificates, RootCAs: pool, ServerName: "admin"})))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		_, err = adminv1.NewQueueServiceClient(conn).ListMessages(ctx, &adminv1.ListMessagesRequest{})
		return err
	}
	person := func(name string) tls.Certificate {
		t.Helper()
		out, err := in.run("", "run", "--rm", "--no-deps", "-T", "pki", "pki", "person", name, "--dir", "/ca", "--ca-dir", "/ca")
		if err != nil {
			t.Fatalf("pki person: %v\n%s", err, out)
		}
		pair, err := tls.LoadX509KeyPair(in.path("ca", "people", name+".pem"), in.path("ca", "people", name+"-key.pem"))
		if err != nil {
			t.Fatal(err)
		}
		return pair
	}
	if err := ask(person("operator")); err != nil {
		t.Errorf("the operator: %v", err)
	}
	if err := ask(person("mallory")); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a person whom the configuration does not name: %v", err)
	}
	if err := ask(); status.Code(err) != codes.Unauthenticated {
		t.Errorf("nobody: %v", err)
	}
	for _, service := range []string{"ingress", "egress", "admin"} {
		pair, _ := in.identity(t, service)
		if err := ask(pair); err == nil {
			t.Errorf("the certificate of %s is good for the operator's API", service)
		}
	}
	if _, err := in.operate("", "status", "--json"); err != nil && !strings.Contains(err.Error(), "exit status 1") {
		t.Errorf("status: %v", err)
	}
}
