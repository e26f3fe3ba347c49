package bus

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/stagecoachmail/stagecoach/cmd/stagecoach/internal/pki"
)

// composed starts a server by the file of deploy/compose, with certificates of its own.
func composed(t *testing.T, look time.Duration) (*Server, pki.Folder) {
	t.Helper()
	dir := t.TempDir()
	f := pki.Folder{Dir: filepath.Join(dir, "pki"), Now: time.Now}
	if _, err := f.Init([]pki.Service{{Name: "nats", Also: []string{"localhost"}}, {Name: "ingress"}, {Name: "admin"}, {Name: "antivirus"}}); err != nil {
		t.Fatal(err)
	}
	from := filepath.Join("..", "..", "..", "..", "deploy", "compose", "nats")
	for _, name := range []string{"nats.conf", "permissions.conf"} {
		text, err := os.ReadFile(filepath.Join(from, name))
		if err != nil {
			t.Fatal(err)
		}
		text = []byte(strings.NewReplacer("/pki/", f.Dir+"/", "store_dir: /data", "store_dir: "+filepath.Join(dir, "data"), `http: "127.0.0.1:8222"`, "").Replace(string(text)))
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := start(t, Options{Dir: dir, Listen: "127.0.0.1:0", ConfigFile: filepath.Join(dir, "nats.conf"), Look: look})
	t.Cleanup(s.Stop)
	return s, f
}

// as connects with the certificate of a service.
func as(t *testing.T, s *Server, f pki.Folder, name string) (*nats.Conn, error) {
	t.Helper()
	url := "tls://localhost" + s.URL()[strings.LastIndexByte(s.URL(), ':'):]
	opts := []nats.Option{nats.RootCAs(f.CAFile()), nats.Timeout(5 * time.Second), nats.NoReconnect(), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})}
	if name != "" {
		opts = append(opts, nats.ClientCert(filepath.Join(f.Dir, name+".pem"), filepath.Join(f.Dir, name+"-key.pem")))
	}
	nc, err := nats.Connect(url, opts...)
	if err == nil {
		t.Cleanup(nc.Close)
	}
	return nc, err
}

func jet(t *testing.T, nc *nats.Conn) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// short is a time in which what is allowed is answered.
func short(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	t.Cleanup(cancel)
	return ctx
}

// Only ingress and admin are let in, each into an account of its own; neither can touch the other's streams, and admin
// cannot take anything from the record.
func TestComposePermissions(t *testing.T) {
	t.Parallel()
	s, f := composed(t, time.Hour)
	for _, name := range []string{"antivirus", "nats", ""} {
		if nc, err := as(t, s, f, name); err == nil {
			nc.Close()
			t.Errorf("a client with the certificate of %q was let in", name)
		}
	}
	ingress, err := as(t, s, f, "ingress")
	if err != nil {
		t.Fatal(err)
	}
	admin, err := as(t, s, f, "admin")
	if err != nil {
		t.Fatal(err)
	}
	mail, record := jet(t, ingress), jet(t, admin)
	if _, err := record.CreateStream(short(t), jetstream.StreamConfig{Name: "AUDIT", Subjects: []string{"stagecoach.audit"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := record.Publish(short(t), "stagecoach.audit", []byte("x")); err != nil {
		t.Errorf("admin cannot write the record: %v", err)
	}
	if _, err := record.CreateKeyValue(short(t), jetstream.KeyValueConfig{Bucket: "STAGECOACH_REQUESTS"}); err != nil {
		t.Errorf("admin has no bucket for requests: %v", err)
	}
	if _, err := mail.CreateStream(short(t), jetstream.StreamConfig{Name: "SPOOL_one", Subjects: []string{"spool.one"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := mail.Publish(short(t), "spool.one", []byte("x")); err != nil {
		t.Errorf("ingress cannot write its log: %v", err)
	}
	if err := record.DeleteStream(short(t), "AUDIT"); err == nil {
		t.Error("admin deleted the record")
	}
	if st, err := record.Stream(short(t), "AUDIT"); err != nil {
		t.Error(err)
	} else {
		if err := st.Purge(short(t)); err == nil {
			t.Error("admin purged the record")
		}
		if err := st.DeleteMsg(short(t), 1); err == nil {
			t.Error("admin deleted an entry of the record")
		}
	}
	if _, err := mail.Stream(short(t), "AUDIT"); !errors.Is(err, jetstream.ErrStreamNotFound) {
		t.Errorf("ingress sees the record: %v", err)
	}
	if _, err := record.Stream(short(t), "SPOOL_one"); !errors.Is(err, jetstream.ErrStreamNotFound) {
		t.Errorf("admin sees the log of mail: %v", err)
	}
	if _, err := mail.Publish(short(t), "stagecoach.audit", nil); err == nil {
		t.Error("ingress wrote into the record")
	}
	if _, err := record.Publish(short(t), "spool.one", nil); err == nil {
		t.Error("admin wrote into the log of mail")
	}
	// What tells ingress that the server syncs.
	answer, err := ingress.Request("$SYS.REQ.SERVER.PING.JSZ", nil, 2*time.Second)
	if err != nil {
		t.Errorf("ingress asks whether the server syncs: %v", err)
	} else if !strings.Contains(string(answer.Data), `"sync_always":true`) {
		t.Errorf("the server says of itself: %.500s", answer.Data)
	}
	for _, subject := range []string{"$SYS.REQ.SERVER.PING.CONNZ", "$SYS.REQ.SERVER.PING.JSZ"} {
		nc := admin
		if strings.HasSuffix(subject, "CONNZ") {
			nc = ingress
		}
		if _, err := nc.Request(subject, nil, 200*time.Millisecond); err == nil {
			t.Errorf("%s is answered", subject)
		}
	}
}

// A renewed certificate is shown to the next client, without a restart.
func TestRenewedCertificate(t *testing.T) {
	t.Parallel()
	s, f := composed(t, 10*time.Millisecond)
	serial := func() string {
		pair, err := tls.LoadX509KeyPair(filepath.Join(f.Dir, "ingress.pem"), filepath.Join(f.Dir, "ingress-key.pem"))
		if err != nil {
			t.Fatal(err)
		}
		pool := x509.NewCertPool()
		ca, err := os.ReadFile(f.CAFile())
		if err != nil || !pool.AppendCertsFromPEM(ca) {
			t.Fatal(err)
		}
		var shown string
		nc, err := nats.Connect("tls://localhost"+s.URL()[strings.LastIndexByte(s.URL(), ':'):], nats.Secure(&tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair},
			VerifyConnection: func(cs tls.ConnectionState) error {
				shown = fmt.Sprint(cs.PeerCertificates[0].SerialNumber)
				return nil
			}}))
		if err != nil {
			t.Fatal(err)
		}
		nc.Close()
		return shown
	}
	before := serial()
	if before != serial() {
		t.Fatal("it changed by itself")
	}
	if _, _, err := f.Renew(pki.Renewal{Names: []string{"nats"}, All: true}); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); serial() == before; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the renewed certificate is not in use after 10 s")
		}
	}
	if _, err := as(t, s, f, "antivirus"); err == nil {
		t.Error("after the renewal everybody is let in")
	}
}
