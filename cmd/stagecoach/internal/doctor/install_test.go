package doctor

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
	"github.com/nats-io/nats-server/v2/server"

	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/services/antivirus"
	"github.com/stagecoachmail/stagecoach/services/signer"
	"github.com/stagecoachmail/stagecoach/stage"
)

const configText = `
hostname: relay.example.com
postmaster: it@example.com
nats: {servers: ["nats://NATS"], monitor: "http://MONITOR"}
pki: {directory: pki}
ingress:
  address: "127.0.0.1:7001"
  certificate: {file: tls/cert.pem, key_file: tls/key.pem}
  listeners:
    - {name: mx, address: "LISTEN"}
  limits: {message_size: 25MB}
domains:
  - {name: example.com, recipients: any}
  - {name: example.org, recipients: any}
relay:
  - {name: mailserver, networks: [10.0.0.10/32], senders: ["*@example.com", "*@news.example.com"]}
stages:
  antivirus: {address: "127.0.0.1:7002", config: {clamd: "tcp://CLAMD"}}
  signer: {address: "127.0.0.1:7003", config: {}}
chains:
  - name: inbound
    match: {direction: [inbound, internal]}
    stages: [antivirus]
    deliver: box
  - name: partner
    match: {recipients: ["*@partner.example"]}
    stages: [signer]
    deliver: internet
  - name: outbound
    stages: [antivirus, signer]
    deliver: provider
egress: {address: "127.0.0.1:7004"}
routes:
  provider:
    smarthost:
      address: "smtp.provider.example:587"
      auth: {username: relay, password_file: secrets/smarthost}
      ca_file: pki/ca.pem
  internet: {mx: {}}
  box: {maildir: {path: box}}
`

// install is an installation in which all is well, with everything around it. A test changes one thing and looks.
type install struct {
	t   *testing.T
	dir string
	// text of the configuration, and what its words in capitals stand for.
	text  string
	words map[string]string
	ca    *authority
	// smarthost as it is offered; changed before look.
	smarthost *smtp.Server
	tlsFor    func() tls.Certificate
	dns       *fakeDNS
	clock     *fakeClock
	disk      *fakeDisk
	admin     *fakeAdmin
	servers   *localServers
	up        bool
	config    *config.Config // after look
}

// domains of the installation, each with a key.
func domains() []string { return []string{"example.com", "example.org", "news.example.com"} }

func newInstall(t *testing.T, bus *server.Server) *install {
	t.Helper()
	in := &install{t: t, dir: t.TempDir(), text: configText, clock: &fakeClock{state: ClockState{Synchronised: true, Error: 3 * time.Millisecond}},
		disk: &fakeDisk{usage: map[string]DiskUsage{}, took: 2 * time.Millisecond}, admin: &fakeAdmin{}, ca: newAuthority(t)}
	in.words = map[string]string{
		"NATS": strings.TrimPrefix(bus.ClientURL(), "nats://"), "MONITOR": bus.MonitorAddr().String(), "LISTEN": "127.0.0.1:0",
		"CLAMD": serveClamd(t, "ClamAV 1.4.1/27486/"+time.Now().UTC().Format(time.ANSIC)),
	}
	in.dns = &fakeDNS{t: t,
		mx: map[string][]string{"example.com": {"relay.example.com."}, "example.org": {"mx.filter.example."}},
		ip: map[string][]string{"relay.example.com": {"192.0.2.10"}, "smtp.provider.example": {"198.51.100.25"}, "mx.filter.example": {"198.51.100.77"}},
		ptr: map[string][]string{
			"192.0.2.10": {"relay.example.com."},
		},
		txt:   map[string][]string{"_spf.provider.example": {"v=spf1 ip4:203.0.113.0/24 ~all"}},
		alias: map[string]string{}, down: map[string]bool{}}
	in.write("secrets/smarthost", "correct horse\n")
	for _, typ := range []string{"ingress", "egress", "admin", "antivirus", "signer"} {
		in.ca.issue(typ, in.path("pki", typ+".pem"), in.path("pki", typ+"-key.pem"), year, typ)
	}
	in.write("pki/ca.pem", in.ca.pem)
	in.ca.issue("smtp", in.path("tls", "cert.pem"), in.path("tls", "key.pem"), year, "relay.example.com")
	for _, d := range domains() {
		in.dns.txt[d] = []string{"v=spf1 ip4:192.0.2.10 include:_spf.provider.example -all", "unrelated=1"}
		in.dns.txt["_dmarc."+d] = []string{"v=DMARC1; p=reject; rua=mailto:dmarc@example.com"}
		in.key(d, "s1")
	}
	in.tlsFor = func() tls.Certificate { return in.ca.certificate(year, "smtp.provider.example") }
	in.smarthost = smtp.NewServer(backend{})
	in.smarthost.Domain = "smtp.provider.example"
	in.smarthost.MaxMessageBytes = 50e6
	return in
}

const year = 365 * 24 * time.Hour

func (in *install) path(elem ...string) string {
	return filepath.Join(append([]string{in.dir}, elem...)...)
}

func (in *install) write(name, text string) {
	in.t.Helper()
	writeFile(in.t, in.path(name), text)
}

func writeFile(t *testing.T, file, text string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, []byte(text), 0o600)); err != nil {
		t.Fatal(err)
	}
}

// key makes a key for domain and publishes it.
func (in *install) key(domain, selector string) {
	in.t.Helper()
	files, err := signer.WriteKeys(in.path("data", "keys"), domain, selector, signer.Ed25519)
	if err != nil {
		in.t.Fatal(err)
	}
	in.dns.txt[files[0].Record.Name] = []string{files[0].Record.Text}
}

// change replaces a part of the configuration, which must be there.
func (in *install) change(old, new string) {
	in.t.Helper()
	if !strings.Contains(in.text, old) {
		in.t.Fatalf("%q is not in the configuration", old)
	}
	in.text = strings.ReplaceAll(in.text, old, new)
}

// look starts what has to run and makes all checks.
func (in *install) look() []Finding {
	in.t.Helper()
	text := in.text
	for word, value := range in.words {
		text = strings.ReplaceAll(text, word, value)
	}
	in.write("stagecoach.yaml", text)
	reading := config.Options{Factories: []stage.Factory{antivirus.Factory(), signer.Factory()}, Gateways: func() config.Gateways { return config.Gateways{} }}
	if in.up {
		reading.Mode = config.ModeUp
	}
	cfg, err := reading.Load(in.path("stagecoach.yaml"))
	if err == nil {
		if err := errors.Join(os.MkdirAll(cfg.DataDir, 0o700), os.MkdirAll(cfg.TempDir, 0o700)); err != nil {
			in.t.Fatal(err)
		}
		in.config = cfg
	}
	if in.servers == nil {
		at := in.run(in.smarthost, in.tlsFor)
		filter := smtp.NewServer(backend{})
		filter.Domain = "mx.filter.example"
		in.servers = &localServers{resolver: in.dns, hosts: map[string]string{"smtp.provider.example:587": at, "198.51.100.77:25": in.run(filter, nil)}}
	}
	e := &Env{Config: cfg, Err: err, File: in.path("stagecoach.yaml"), Up: in.up, Now: time.Now, Resolver: in.dns, Ports: ports{}, Clock: in.clock, Disk: in.disk,
		Admin: in.admin, Servers: in.servers, UID: os.Geteuid(), ClamdFiles: []string{in.path("clamd.conf")}}
	return Run(in.t.Context(), e, Checks())
}

// run serves SMTP until the test ends.
func (in *install) run(s *smtp.Server, certificate func() tls.Certificate) string {
	in.t.Helper()
	if certificate != nil {
		s.TLSConfig = &tls.Config{Certificates: []tls.Certificate{certificate()}, MinVersion: tls.VersionTLS12}
	}
	s.ErrorLog = quiet{}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		in.t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	in.t.Cleanup(func() { _ = l.Close(); _ = s.Close(); <-done })
	return l.Addr().String()
}

type quiet struct{}

func (quiet) Printf(string, ...any) {}
func (quiet) Println(...any)        {}

// backend takes one login, and no mail: doctor sends none.
type backend struct{}

func (backend) NewSession(*smtp.Conn) (smtp.Session, error) { return session{}, nil }

type session struct{}

var errMail = &smtp.SMTPError{Code: 554, Message: "a probe must not send mail"}

func (session) Reset()                               {}
func (session) Logout() error                        { return nil }
func (session) Mail(string, *smtp.MailOptions) error { panic("mail was sent") }
func (session) Rcpt(string, *smtp.RcptOptions) error { return errMail }
func (session) Data(io.Reader) error                 { return errMail }
func (session) AuthMechanisms() []string             { return []string{sasl.Plain} }
func (session) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, username, password string) error {
		if username != "relay" || password != "correct horse" {
			return &smtp.SMTPError{Code: 535, EnhancedCode: smtp.EnhancedCode{5, 7, 8}, Message: "Error: authentication failed\x1b[31m"}
		}
		return nil
	}), nil
}

// startNATS runs a server for a test and its subtests.
func startNATS(t *testing.T, sync bool) *server.Server {
	t.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, HTTPHost: "127.0.0.1", HTTPPort: server.RANDOM_PORT,
		JetStream: true, StoreDir: t.TempDir(), SyncAlways: sync, SyncInterval: time.Minute, MaxPayload: 8 << 20, NoLog: true, NoSigs: true})
	if err != nil {
		t.Fatal(err)
	}
	go s.Start()
	if !s.ReadyForConnections(20 * time.Second) {
		t.Fatal("NATS is not ready")
	}
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	return s
}

// authority issues certificates.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  string
	n    int64
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, n: 1}
	a.key = a.newKey()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Test CA"}, NotBefore: time.Now().Add(-2 * year), NotAfter: time.Now().Add(2 * year),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.pem = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return a
}

func (a *authority) newKey() *ecdsa.PrivateKey {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	return key
}

// certificate is good until lasts from now on, for names.
func (a *authority) certificate(lasts time.Duration, names ...string) tls.Certificate {
	a.t.Helper()
	a.n++
	key := a.newKey()
	template := &x509.Certificate{SerialNumber: big.NewInt(a.n), Subject: pkix.Name{CommonName: names[0]}, DNSNames: names,
		NotBefore: time.Now().Add(-year), NotAfter: time.Now().Add(lasts)}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// issue writes a certificate and its key.
func (a *authority) issue(what, file, keyFile string, lasts time.Duration, names ...string) {
	a.t.Helper()
	c := a.certificate(lasts, names...)
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		a.t.Fatal(fmt.Errorf("%s: %w", what, err))
	}
	writeFile(a.t, file, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]})))
	writeFile(a.t, keyFile, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
}
