package embedded

import (
	"cmp"
	"context"
	"crypto/tls"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"net/smtp"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/stagecoachmail/stagecoach/internal/config"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	"github.com/stagecoachmail/stagecoach/services/antivirus"
	"github.com/stagecoachmail/stagecoach/services/archive"
	"github.com/stagecoachmail/stagecoach/services/disclaimer"
	"github.com/stagecoachmail/stagecoach/services/signer"
	"github.com/stagecoachmail/stagecoach/stage"
)

var update = flag.Bool("update", false, "write docs/metrics.md anew")

// everything has each part that counts: listeners with and without TLS, the four stages, a folder, and a smarthost that is
// down.
const everything = `
hostname: relay.example.com
postmaster: postmaster@example.com
data_dir: %[1]s
telemetry: {metrics: "127.0.0.1:0", traces: {endpoint: "http://127.0.0.1:1", sample: 1}}
ingress:
  listeners:
    - {name: local, address: "127.0.0.1:0", tls: none}
    - {name: secure, address: "127.0.0.1:0", tls: starttls}
relay:
  - {name: loopback, networks: ["127.0.0.0/8"]}
stages:
  antivirus: {config: {}}
  footer: {type: disclaimer, config: {text: "Sent by us."}}
  archive: {config: {}}
  signer: {config: {create: true}}
chains:
  - {name: away, match: {recipients: ["*@away.example"]}, stages: [antivirus], deliver: provider}
  - {name: outbound, match: {direction: [outbound, internal]}, stages: [antivirus, footer, archive, signer], deliver: outbox}
routes:
  outbox: {maildir: {path: %[1]s/outbox}}
  provider: {smarthost: {address: "127.0.0.1:1", tls: none}}
`

const eicar = `X5O!P%@AP[4\PZX54(P^)7CC)7}$EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*`

// start runs an installation of everything until the test ends.
func start(t *testing.T) *Installation {
	t.Helper()
	return startWith(t, everything, slog.New(slog.DiscardHandler))
}

func startWith(t *testing.T, text string, log *slog.Logger) *Installation {
	t.Helper()
	dir := t.TempDir()
	reading := config.Options{Mode: config.ModeUp, Factories: []stage.Factory{antivirus.Factory(), disclaimer.Factory(), archive.Factory(), signer.Factory()}}
	cfg, err := reading.Parse("stagecoach.yaml", dir, fmt.Appendf(nil, text, dir))
	if err != nil {
		t.Fatal(err)
	}
	in, err := New(t.Context(), Options{Config: cfg, Reading: reading, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	over := make(chan error, 1)
	go func() { over <- in.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-over; err != nil {
			t.Error(err)
		}
		if err := in.Close(); err != nil {
			t.Error(err)
		}
	})
	select {
	case <-in.Ready():
	case err := <-over:
		t.Fatal(err)
	}
	return in
}

// send sends one message, and gives the client's error.
func send(in *Installation, to, body string) error {
	return smtp.SendMail(in.Addr("local").String(), nil, "alice@relay.example.com", []string{to},
		[]byte("From: alice@relay.example.com\r\nTo: "+to+"\r\nSubject: hello\r\n\r\n"+body+"\r\n"))
}

// Every number of the statistics is that of what was done.
func TestStatisticsAndMetrics(t *testing.T) {
	t.Parallel()
	in := start(t)
	for range 2 {
		if err := send(in, "bob@example.net", "Good morning."); err != nil {
			t.Fatal(err)
		}
	}
	if err := send(in, "bob@example.net", eicar); err != nil {
		t.Fatal(err)
	}
	if err := send(in, "carol@away.example", "Hello."); err != nil {
		t.Fatal(err)
	}
	c, err := smtp.Dial(in.Addr("secure").String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.StartTLS(&tls.Config{InsecureSkipVerify: true}); err != nil { //nolint:gosec // its own certificate
		t.Fatal(err)
	}
	if err := c.Mail("alice@relay.example.com"); err != nil {
		t.Fatal(err)
	}
	if err := c.Rcpt("who@[300.1.1.1]"); err == nil {
		t.Error("a recipient that cannot be was taken")
	}
	if err := c.Rcpt("a@b"); err != nil {
		t.Log(err)
	}
	stats := waitFor(t, in)
	chains := map[string]*adminv1.ChainStatistics{}
	for _, c := range stats.GetChains() {
		chains[c.GetName()] = c
	}
	if o := chains["outbound"]; o.GetAccepted() != 3 || o.GetDelivered() != 2 || o.GetHeld() != 1 || o.GetWaits() != 0 {
		t.Error(o)
	}
	if a := chains["away"]; a.GetAccepted() != 1 || a.GetDelivered() != 0 || a.GetWaits() == 0 {
		t.Error(a)
	}
	if stats.GetAccepted() != 4 || stats.GetAcceptedBytes() < 300 || stats.GetLatency().GetCount() != 2 {
		t.Error(stats)
	}
	stages := map[string]*adminv1.StageStatistics{}
	for _, s := range stats.GetStages() {
		stages[s.GetName()] = s
	}
	if s := stages["antivirus"]; s.GetContinued() != 3 || s.GetQuarantined() != 1 || s.GetLatency().GetCount() != 4 || s.GetEdited() != 0 {
		t.Error(s)
	}
	if s := stages["footer"]; s.GetContinued() != 2 || s.GetEdited() != 2 {
		t.Error(s)
	}
	for _, r := range stats.GetRoutes() {
		switch {
		case r.GetName() == "outbox" && r.GetDelivered() == 2 && r.GetDeferred() == 0:
		case r.GetName() == "provider" && r.GetDelivered() == 0 && r.GetDeferred() > 0:
		default:
			t.Error(r)
		}
	}
	for _, l := range stats.GetListeners() {
		switch {
		case l.GetName() == "local" && l.GetSessions() == 4 && l.GetOpen() == 0:
		case l.GetName() == "secure" && l.GetSessions() == 1 && l.GetOpen() == 1:
		default:
			t.Error(l)
		}
	}
	documented(t, in)
	resp, err := http.Get("http://" + in.shown.Addr() + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	if resp.StatusCode != http.StatusOK {
		t.Error(resp.Status)
	}
}

// waitFor gives the statistics when everything that was sent has come to where it stays.
func waitFor(t *testing.T, in *Installation) *adminv1.GetStatisticsResponse {
	t.Helper()
	service := in.ingress.Statistics()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		s, err := service.GetStatistics(t.Context(), &adminv1.GetStatisticsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		n := uint64(0)
		for _, c := range s.GetChains() {
			n += c.GetDelivered() + c.GetHeld() + min(c.GetWaits(), 1)
		}
		refused := s.GetRefusedForGood() + s.GetRefusedForNow()
		open := uint64(0)
		for _, l := range s.GetListeners() {
			open += l.GetOpen()
		}
		if n == 4 && s.GetRunning() == 0 && refused > 0 && open == 1 || time.Now().After(end) {
			return s
		}
	}
}

var describes = regexp.MustCompile(`fqName: "([^"]+)", help: "((?:[^"\\]|\\.)*)", (?:unit: "[^"]*", )?constLabels: \{([^}]*)\}, variableLabels: \{([^}]*)\}`)

// documented compares docs/metrics.md with what the installation shows.
func documented(t *testing.T, in *Installation) {
	t.Helper()
	families, err := in.shown.Gatherer().Gather()
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]dto.MetricType{}
	for _, f := range families {
		kinds[f.GetName()] = f.GetType()
	}
	descs := make(chan *prometheus.Desc, 1000)
	registry, ok := in.shown.Gatherer().(prometheus.Collector)
	if !ok {
		t.Fatal("the registry does not describe itself")
	}
	registry.Describe(descs)
	close(descs)
	var lines []string
	for d := range descs {
		m := describes.FindStringSubmatch(d.String())
		if m == nil {
			t.Fatalf("cannot be read: %s", d)
		}
		if !strings.HasPrefix(m[1], "stagecoach_") {
			continue // of the Go runtime and the process
		}
		kind, ok := kinds[m[1]]
		if !ok && m[1] != "stagecoach_service_certificate_expiry_timestamp_seconds" {
			t.Errorf("%s was not exercised", m[1])
			continue
		}
		labels := slices.DeleteFunc(strings.Split(m[4], ","), func(s string) bool { return s == "" })
		for _, c := range strings.Split(m[3], ",") {
			if name, _, ok := strings.Cut(c, "="); ok {
				labels = append(labels, name)
			}
		}
		for i := range labels {
			labels[i] = "`" + labels[i] + "`"
		}
		lines = append(lines, fmt.Sprintf("| `%s` | %s | %s | %s |", m[1], strings.ToLower(kind.String()), strings.Join(labels, " "), strings.ReplaceAll(m[2], `\"`, `"`)))
	}
	if in.shown.Addr() == "" || len(lines) < 40 {
		t.Errorf("only %d metrics at %q", len(lines), in.shown.Addr())
	}
	lines = append(lines, "| `stagecoach_service_certificate_expiry_timestamp_seconds` | gauge |  | When the certificate ends that the service shows to other services, in Unix time. |")
	slices.SortFunc(lines, func(a, b string) int { return cmp.Compare(a, b) })
	table := strings.Join(slices.Compact(lines), "\n") + "\n"
	const path = "../../../../docs/metrics.md"
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const head = "| metric | type | labels | meaning |\n|---|---|---|---|\n"
	before, after, ok := strings.Cut(string(text), head)
	if !ok {
		t.Fatal("docs/metrics.md has no table")
	}
	end := strings.Index(after, "\n\n") + 1
	if end == 0 {
		end = len(after)
	}
	if after[:end] == table {
		return
	}
	if !*update {
		t.Errorf("docs/metrics.md does not have what is shown; write it with: go test ./internal/embedded -run TestStatisticsAndMetrics -update (in cmd/stagecoach)\n%s", table)
		return
	}
	if err := os.WriteFile(path, []byte(before+head+table+after[end:]), 0o644); err != nil {
		t.Fatal(err)
	}
}
