package service

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// healthPatience bounds one question. Who asks, asks again.
const healthPatience = 4 * time.Second

// HealthQuestion is whom AskHealth asks.
type HealthQuestion struct {
	// Service is the type of a service that runs by itself; it is asked with its own certificate if there is pki. Empty:
	// Address is asked in plaintext.
	Service string
	// Address is host:port, unix:path, or the URL of an HTTP health check (http://host:port/path), where 200 is good.
	// Empty: that of Service in File.
	Address string
	// File is the configuration file.
	File string
	// Own says that the process on this machine is meant, not any one behind a name.
	Own bool
}

// AskHealth is nil if the service says, by the gRPC health protocol, that it serves. It takes 4 seconds at most.
func AskHealth(ctx context.Context, q HealthQuestion) error {
	ctx, cancel := context.WithTimeout(ctx, healthPatience)
	defer cancel()
	if strings.HasPrefix(q.Address, "http://") {
		return askHTTP(ctx, q.Address)
	}
	address, pki, err := q.target()
	if err != nil {
		return err
	}
	conns := NewConnections(pki)
	defer conns.Close()
	conn, err := conns.Conn(address, q.Service)
	if err != nil {
		return err
	}
	answer, err := healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{})
	if err != nil {
		return fmt.Errorf("%s: %s", address, status.Convert(err).Message())
	}
	if answer.GetStatus() != healthv1.HealthCheckResponse_SERVING {
		return fmt.Errorf("%s says %s", address, answer.GetStatus())
	}
	return nil
}

func askHTTP(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	_ = res.Body.Close() //nolint:errcheck // what it says beside its status is not read
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s says %s", url, res.Status)
	}
	return nil
}

// target is what to ask, and as whom (nil: nobody).
func (q HealthQuestion) target() (address string, _ *PKI, err error) {
	if q.Service == "" {
		return q.Address, nil, nil
	}
	l, err := readLayout(q.File)
	if err != nil {
		return "", nil, err
	}
	if address = q.Address; address == "" {
		if address, err = l.address(q.Service); err != nil {
			return "", nil, err
		}
	}
	if q.Own {
		address = ownAddress(address)
	}
	if l.PKI.Directory == "" {
		return address, nil, nil
	}
	pki, err := OpenPKI(l.PKI.Directory, q.Service)
	return address, pki, err
}

// ownAddress is where this machine's process of a service answers: behind a name there may be others. A service whose
// address has a name, and one without a host, listen on every interface.
func ownAddress(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil || strings.HasPrefix(address, "unix:") {
		return address
	}
	if ip, err := netip.ParseAddr(host); err == nil && !ip.IsUnspecified() {
		return address
	}
	return net.JoinHostPort("127.0.0.1", port)
}

// layout is what the question needs of a configuration file: where the services are. Whether the file is right is not
// asked, since a service goes on with what it had when a file with errors is put under it.
type layout struct {
	PKI struct {
		Directory string `yaml:"directory"`
	} `yaml:"pki"`
	Ingress endpoint            `yaml:"ingress"`
	Egress  endpoint            `yaml:"egress"`
	Admin   endpoint            `yaml:"admin"`
	Stages  map[string]endpoint `yaml:"stages"`
}

type endpoint struct {
	Type    string `yaml:"type"`
	Address string `yaml:"address"`
}

func readLayout(file string) (*layout, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("find the service: %w: name another configuration file", err)
	}
	l := new(layout)
	if err := yaml.Unmarshal(data, l); err != nil {
		return nil, fmt.Errorf("find the service: %s is not to be read: see `stagecoach check %s`", file, file)
	}
	if d := l.PKI.Directory; d != "" && !filepath.IsAbs(d) {
		l.PKI.Directory = filepath.Join(filepath.Dir(file), d)
	}
	return l, nil
}

// address is where the service listens.
func (l *layout) address(name string) (string, error) {
	switch name {
	case "ingress":
		return theOne(name, []string{l.Ingress.Address})
	case "egress":
		return theOne(name, []string{l.Egress.Address})
	case "admin":
		return theOne(name, []string{l.Admin.Address})
	}
	var found []string
	for stage, e := range l.Stages {
		if cmp.Or(e.Type, stage) == name {
			found = append(found, e.Address)
		}
	}
	return theOne(name, found)
}

func theOne(name string, addresses []string) (string, error) {
	slices.Sort(addresses)
	addresses = slices.DeleteFunc(slices.Compact(addresses), func(a string) bool { return a == "" })
	switch len(addresses) {
	case 0:
		return "", fmt.Errorf("%s has no address in the configuration: name it with --address", name)
	case 1:
		return addresses[0], nil
	}
	return "", errors.New(name + " has several addresses (" + strings.Join(addresses, ", ") + "): name one with --address")
}

// HealthMain is what a service's program does with -health: it asks the process of its own kind on this machine, and
// gives the exit code, 0 if that serves. address is what the process was told to listen on; empty: what the file says.
func HealthMain(typ, file, address string) int {
	if err := AskHealth(context.Background(), HealthQuestion{Service: typ, File: file, Address: address, Own: true}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}
