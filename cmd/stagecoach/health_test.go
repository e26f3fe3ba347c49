package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/stagecoachmail/stagecoach/cmd/stagecoach/internal/cli"
	"github.com/stagecoachmail/stagecoach/internal/service"
)

// serving runs a server with the health service, as that of the admin socket, until the test ends.
func serving(t *testing.T, address string) *service.Server {
	t.Helper()
	s, err := service.Listen(address, nil, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, time.Second) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s
}

// writeYAML writes a configuration file into a folder of its own.
func writeYAML(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "stagecoach.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// certificates writes the pair of egress into a folder, signed by itself: it is its own authority.
func certificates(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "egress"}, DNSNames: []string{"egress"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	bare, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{"ca.pem": {Type: "CERTIFICATE", Bytes: der}, "egress.pem": {Type: "CERTIFICATE", Bytes: der},
		"egress-key.pem": {Type: "PRIVATE KEY", Bytes: bare}} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// health runs the command until it gives the exit code that is wanted; a server needs a moment to serve.
func health(t *testing.T, want int, says string, args ...string) {
	t.Helper()
	var out, errs string
	var code int
	for range 50 {
		var err error
		out, errs, err = run(t, append([]string{"health"}, args...)...)
		if code = cli.Code(err); code == want {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if code != want || !strings.Contains(out+errs, says) {
		t.Errorf("health %q: exit code %d, want %d, and %q in\n%s%s", args, code, want, says, out, errs)
	}
}

// The socket of `up` is found by the data folder; a server that ends its work says so at once.
func TestHealthOfUp(t *testing.T) {
	t.Setenv("STAGECOACH_SOCKET", "")
	data, err := os.MkdirTemp("", "sc") // short: the path of a socket has 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(data) })
	file := writeYAML(t, "data_dir: "+data+"\nnonsense: true\n")
	health(t, 1, "admin.sock", "-c", file)
	s := serving(t, "unix:"+filepath.Join(data, "admin.sock"))
	health(t, 0, "serving", "-c", file)
	health(t, 0, "serving", "--address", "unix:"+filepath.Join(data, "admin.sock"))
	s.Health.SetServingStatus("", healthv1.HealthCheckResponse_NOT_SERVING)
	health(t, 1, "NOT_SERVING", "-c", file)
}

// A service that runs by itself is asked at its address with its own certificate, and by nobody without one.
func TestHealthOfAService(t *testing.T) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	file := writeYAML(t, fmt.Sprintf(`pki: {directory: %s}
nats: {servers: ["nats://127.0.0.1:4222"]}
ingress: {address: "127.0.0.1:1", listeners: [{name: local, address: "127.0.0.1:2525", tls: none}]}
egress: {address: %q}
chains: [{name: all, stages: [], deliver: box}]
routes: {box: {maildir: {path: box}}}
`, certificates(t), address))
	bare := strings.Replace(file, "stagecoach.yaml", "bare.yaml", 1)
	if err := os.WriteFile(bare, []byte("egress: {address: \"127.0.0.1:1\"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	health(t, 1, address, "--service", "egress", "-c", file)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- services()["egress"](ctx, runOptions{file: file}, slog.New(slog.DiscardHandler)) }()
	defer func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	health(t, 0, "serving", "--service", "egress", "-c", file)
	health(t, 0, "serving", "--service", "egress", "-c", file, "--address", address)
	health(t, 1, address, "--address", address)
	health(t, 1, address, "--address", address, "--service", "egress", "-c", bare)
	health(t, 1, "ingress has no address", "--service", "ingress", "-c", bare)
	health(t, cli.ExitUsage, "antivirus, archive", "--service", "nobody", "-c", file)
}
