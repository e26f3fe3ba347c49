package ingress

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/notices"
)

// What an ingress knows is what the postmaster is told.
func TestNoticeSource(t *testing.T) {
	o := newOffice(t, false)
	pki := t.TempDir()
	ends := time.Now().Add(240 * time.Hour).Truncate(time.Second)
	certify(t, filepath.Join(pki, "ingress.pem"), ends)
	for _, name := range []string{"ingress-key.pem", "odd.pem"} {
		if err := os.WriteFile(filepath.Join(pki, name), []byte("no certificate"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	in := o.open(t, func(opts *Options) {
		cfg := *opts.Config
		cfg.PKI, cfg.DataDir = &config.PKI{Directory: pki}, t.TempDir()
		opts.Config = &cfg
	})
	s := in.noticeSource()
	if got := s.Stops(); len(got) > 0 {
		t.Errorf("stops: %v", got)
	}
	if got := s.Certificates(); len(got) != 1 || !got[0].Ends.Equal(ends) || !strings.Contains(got[0].Name, "ingress.pem") {
		t.Errorf("certificates (one of the listeners is self-signed, and of nobody's concern): %v", got)
	}
	eventually(t, "the streams are measured", func() bool { return len(s.Fills()) == 4 })
	for _, f := range s.Fills() {
		if f.Limit == 0 || f.Used > f.Limit || f.Effect == "" || !strings.HasPrefix(f.Name, "the stream ") && !strings.HasPrefix(f.Name, "the disk under ") {
			t.Errorf("%+v", f)
		}
	}

	shard := in.shard()
	small := o.postRaw(t, shard, toQuarantine, []byte("Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n\r\nHello\r\n"), "anna@example.com", "bob@example.net", "carol@example.net")
	large := o.postRaw(t, shard, toQuarantine, []byte("Subject: large\r\n\r\n"+strings.Repeat("0123456789abcd\r\n", 40000)), "", "bob@example.net")
	o.post(t, shard, toRetry, "anna@example.com", "bob@example.net")
	list, all := s.Held(t.Context(), 200)
	if all != 2 || len(list) != 2 {
		t.Fatalf("held: %v", list)
	}
	slices.SortFunc(list, func(a, b notices.Held) int { return strings.Compare(a.ID, b.ID) })
	if h := list[0]; h.ID != small || h.Room != "quarantine" || h.Sender != "anna@example.com" || fmt.Sprint(h.Recipients) != "[bob@example.net carol@example.net]" || h.Subject != "Grüße" || h.Why != "odd" || h.Since.IsZero() {
		t.Errorf("%+v", h)
	}
	if h := list[1]; h.ID != large || h.Subject != "large" {
		t.Errorf("%+v", h)
	}
	if list, all := s.Held(t.Context(), 1); all != 2 || len(list) != 1 {
		t.Errorf("%d of %d", len(list), all)
	}

	o.post(t, shard, chain.Fate{Kind: chain.Deferred, Concern: chain.AboutRoute, About: "out", Reply: &mail.Reply{Code: 535, Enhanced: "5.7.8", Text: "bad credentials"}}, "anna@example.com", "bob@example.net")
	if got := s.Stops(); len(got) != 1 || got[0].Kind != notices.Login || got[0].Name != "out" || got[0].Waiting != 1 || got[0].Since.IsZero() || !strings.Contains(got[0].Reason, "535") {
		t.Errorf("stops: %v", got)
	}
	in = &Ingress{o: Options{Conn: o.gone(t)}}
	if got := in.stops(); len(got) != 1 || got[0].Kind != notices.Intake || got[0].Name != "NATS" {
		t.Errorf("stops: %v", got)
	}
}

// Mail of ours that has to wait can be read again.
func TestOwnMailWaits(t *testing.T) {
	o := newOffice(t, false)
	o.egress.says(toPark)
	raw := "Subject: told\r\n\r\nHello.\r\n"
	if err := o.notify(t.Context(), address("it@example.com"), func(string, time.Time) []byte { return []byte(raw) }); err != nil {
		t.Fatal(err)
	}
	var ids []string
	eventually(t, "it waits", func() bool { ids = o.list(t, nil); return len(ids) == 1 })
	log := o.shard().log
	m, err := log.Load(t.Context(), ids[0])
	if err != nil {
		t.Fatal(err)
	}
	if !m.Envelope.ReversePath.IsNull() || m.Envelope.Origin.Relay != "self" || m.Envelope.Recipients[0].Address.String() != "it@example.com" {
		t.Errorf("%+v", m.Envelope)
	}
	c, err := log.Content(t.Context(), m.ID, m.Body, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Release()
	if got, err := mail.ReadAll(c); err != nil || string(got) != raw {
		t.Errorf("%q, %v", got, err)
	}
	if err := (&Ingress{}).notify(t.Context(), address("it@example.com"), nil); err == nil {
		t.Error("without a log it is sent")
	}
}

// gone is a connection to NATS that is no more.
func (o *office) gone(t *testing.T) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect("", nats.InProcessServer(o.nats))
	if err != nil {
		t.Fatal(err)
	}
	nc.Close()
	return nc
}

func certify(t *testing.T, file string, ends time.Time) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: ends}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}
