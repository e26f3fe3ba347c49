package config

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/stage"
)

var update = flag.Bool("update", false, "write the .want files")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// footer is a stage's config as its author writes it.
type footer struct {
	Text  string        `yaml:"text"`
	Every time.Duration `yaml:"every"`
	Limit Size          `yaml:"limit"`
	Rules []rule        `yaml:"rules"`
	Ratio float64       `yaml:"ratio"`
	Names map[string]rule
}

type rule struct {
	Name  string `yaml:"name"`
	Count uint8  `yaml:"count"`
}

func (f *footer) Validate() error {
	var errs []error
	if f.Text == "" {
		errs = append(errs, errors.New("text: is required"))
	}
	for i, r := range f.Rules {
		if r.Count == 13 {
			errs = append(errs, fmt.Errorf("rules[%d].count: 13 brings bad luck", i))
		}
	}
	return errors.Join(errs...)
}

func footerFactory() stage.Factory {
	return stage.NewFactory("disclaimer", Builtin()["disclaimer"], func() footer { return footer{Ratio: 0.5} },
		func(stage.Settings, footer) (stage.Stage, error) {
			return stage.Func(func(context.Context, *mail.Message) (stage.Result, error) { return stage.Result{}, nil }), nil
		})
}

// factories are those of `up`: the four, of which one has a config.
func factories() []stage.Factory {
	all := []stage.Factory{footerFactory()}
	for name, traits := range Builtin() {
		if name == "disclaimer" {
			continue
		}
		all = append(all, stage.NewFactory(name, traits, func() map[string]any { return nil },
			func(stage.Settings, map[string]any) (stage.Stage, error) { return nil, errors.New("not built here") }))
	}
	return all
}

// folder is a machine on which every file that the examples name is there.
func folder(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"tls/cert.pem", "tls/key.pem", "secrets/nats", "secrets/smarthost", "recipients.txt", "users.yaml",
		"pki/ca.pem", "pki/ingress.pem", "pki/ingress-key.pem", "pki/admin.pem", "pki/admin-key.pem"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("content\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "secrets/empty"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func options() Options {
	return Options{
		Factories: factories(),
		Getenv:    func(string) (string, bool) { return "", false },
		Gateways:  func() Gateways { return Gateways{} },
	}
}

// TestBroken reads testdata/broken/*.yaml; what must be said of each stands in the .want beside it. Words in a first
// line "# mode: …" say in what arrangement it is read.
func TestBroken(t *testing.T) {
	files, err := filepath.Glob("testdata/broken/*.yaml")
	if err != nil || len(files) < 40 {
		t.Fatalf("%d cases, %v", len(files), err)
	}
	for _, path := range files {
		name := strings.TrimSuffix(filepath.Base(path), ".yaml")
		t.Run(name, func(t *testing.T) {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			dir := folder(t)
			o := options()
			mode, _, _ := strings.Cut(string(data), "\n")
			if strings.Contains(mode, "up") {
				o.Mode = ModeUp
			}
			if strings.Contains(mode, "service=antivirus") {
				o.Service = "antivirus"
			}
			if strings.Contains(mode, "container") {
				o.Gateways = func() Gateways { return Gateways{Known: addrs("172.17.0.1")} }
			}
			if strings.Contains(mode, "guess") {
				o.Gateways = func() Gateways { return Gateways{Guess: prefixes("172.16.0.0/12")} }
			}
			c, err := o.Parse(filepath.Base(path), dir, data)
			if err == nil {
				t.Fatalf("was taken: %+v", c)
			}
			var all Errors
			if !errors.As(err, &all) {
				t.Fatalf("%T is not an Errors", err)
			}
			checkPlaces(t, all, data)
			got := strings.ReplaceAll(err.Error(), dir, "$DIR") + "\n"
			want := strings.TrimSuffix(path, ".yaml") + ".want"
			if *update {
				if err := os.WriteFile(want, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			b, err := os.ReadFile(want)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(b) {
				t.Errorf("got\n%s\nwant\n%s", got, b)
			}
		})
	}
}

func checkPlaces(t testing.TB, all Errors, data []byte) {
	t.Helper()
	lines := strings.Count(string(data), "\n") + 1
	for _, e := range all {
		if e.Line < 1 || e.Line > lines || e.Column < 1 || e.Message == "" || e.File == "" {
			t.Errorf("no place in a file of %d lines: %#v", lines, e)
		}
	}
}

func TestFull(t *testing.T) {
	data, err := os.ReadFile("testdata/full.yaml")
	if err != nil {
		t.Fatal(err)
	}
	dir := folder(t)
	c, err := options().Parse("full.yaml", dir, data)
	if err != nil {
		t.Fatal(err)
	}
	if c.Hostname != "relay.example.com" || c.Postmaster.String() != "it@example.com" || c.DataDir != dir+"/data" || !c.Watch {
		t.Errorf("installation: %+v", c)
	}
	if l := c.Ingress.Limits; l != (Limits{50_000_000, 1000, DefaultConnections, DefaultInFlight}) {
		t.Errorf("limits: %+v", l)
	}
	if l, ok := c.ListenerNamed("submissions"); !ok || !reflect.DeepEqual(l, Listener{Name: "submissions", Address: ":465", TLS: ListenerImplicit, AuthRequired: true}) {
		t.Errorf("listener: %+v", l)
	}
	if r := c.Relay[0]; r.Networks[0].String() != "10.0.0.10/32" || r.Senders[0] != "*@example.com" || r.Auth {
		t.Errorf("relay: %+v", r)
	}
	if d, ok := c.DomainNamed("example.com"); !ok || d.File != dir+"/recipients.txt" || d.Any {
		t.Errorf("domain: %+v", d)
	}
	f, ok := c.StageNamed("footer-de").Decoded.(footer)
	if want := "Grüße von {{.Sender}} über uns.\n-- Ende\n"; !ok || f.Text != want || f.Ratio != 0.5 {
		t.Errorf("decoded: %+v", f)
	}
	tagger := c.StageNamed("tagger")
	if tagger.Hash != "" || !tagger.ProcessOnly || tagger.Traits != (stage.Traits{ReadsBody: true, EditsHeader: true}) || tagger.Identity != "tagger.example.com" {
		t.Errorf("foreign stage: %+v", tagger)
	}
	a := c.RouteNamed("provider").Smarthost.Auth
	if a.PasswordFile != dir+"/secrets/smarthost" || fmt.Sprint(a.Mechanisms) != "[PLAIN LOGIN]" {
		t.Errorf("auth: %+v", a)
	}
	m := c.ChainNamed("internal").Match
	if fmt.Sprint(m.Direction, m.Listener, m.Relay, m.Senders, m.Recipients) != "[internal] [submission submissions] [staff] [*@example.com] [*@example.com]" {
		t.Errorf("match: %+v", m)
	}
	if c.ChainNamed("none") != nil || c.StageNamed("none") != nil || c.RouteNamed("none") != nil {
		t.Error("found what is not there")
	}
	if got := fmt.Sprint(c.StageIdentities()); got != "[antivirus archive disclaimer signer tagger.example.com]" {
		t.Error(got)
	}

	slip := c.Slip(c.ChainNamed("outbound"))
	if len(slip.Hops) != 4 || slip.Revision != c.Revision || slip.Chain != "outbound" {
		t.Fatalf("slip: %+v", slip)
	}
	hop := slip.Hops[1]
	if hop.Instance != "footer-de" || hop.Type != "disclaimer" || hop.OnError != "skip" || hop.Timeout != time.Minute ||
		hop.Address != "disclaimer:7001" || len(hop.Hash) != 64 {
		t.Errorf("hop: %+v", hop)
	}
	if slip.Route.Name != "provider" || slip.Route.Address != "egress:7001" || len(slip.Route.Hash) != 64 {
		t.Errorf("route: %+v", slip.Route)
	}
	in := c.ChainNamed("inbound")
	slip = c.Slip(in)
	if in.InlinePrefix() != 1 || slip.Hops[0].Instance != "antivirus" || !slip.Hops[1].Shadow || !slip.Hops[1].ProcessOnly {
		t.Errorf("inbound: %+v", slip)
	}

	// The same file, in the process of one service, and in a single process.
	for _, o := range []Options{{Service: "ingress"}, {Service: "ingress", Factories: []stage.Factory{footerFactory()}}} {
		o.Gateways = options().Gateways
		other, err := o.Parse("full.yaml", dir, data)
		if err != nil {
			t.Fatal(err)
		}
		for name, s := range c.Stages {
			if other.Stages[name].Hash != s.Hash {
				t.Errorf("%s: hash differs with what is linked in", name)
			}
		}
	}
	up := options()
	up.Mode = ModeUp
	one, err := up.Parse("full.yaml", dir, data)
	if err != nil {
		t.Fatal(err)
	}
	if one.Egress.Address != "" || one.Stages["archive"].Address != "" || one.Stages["tagger"].Address != "tagger:7001" {
		t.Error("under up, only what is not linked in is dialled")
	}
}

// TestHashAsWritten: what names a configuration on the wire is what is written, in whatever style, and nothing else.
func TestHashAsWritten(t *testing.T) {
	hash := func(stages string) string {
		t.Helper()
		o := options()
		o.Mode = ModeUp
		c, err := o.Parse("x.yaml", t.TempDir(), []byte("ingress: {listeners: [{name: l, address: \"127.0.0.1:25\", tls: none}]}\n"+
			"chains: [{name: c, stages: [], deliver: r}]\nroutes: {r: {mx: {}}}\nstages:\n"+stages))
		if err != nil {
			t.Fatal(err)
		}
		return c.Stages["s"].Hash
	}
	base := hash("  s: {type: disclaimer, config: {text: x, every: 5m}}\n")
	for _, same := range []string{
		"  s:\n    config:\n      every: '5m'   # a comment\n      \"text\": x\n    type: disclaimer\n",
		"  s: {type: disclaimer, timeout: 3s, address: \"127.0.0.1:1\", config: {text: x, every: 5m}}\n",
	} {
		if hash(same) != base {
			t.Errorf("differs: %s", same)
		}
	}
	for _, other := range []string{
		"  s: {type: disclaimer, config: {text: x, every: 300s}}\n",
		"  s: {type: disclaimer, config: {text: x}}\n",
		"  s: {type: archive, config: {text: x, every: 5m}}\n",
	} {
		if hash(other) == base {
			t.Errorf("is the same: %s", other)
		}
	}
	if hash("  s: {type: archive}\n") != hash("  s: {type: archive, config: {}}\n") {
		t.Error("no config and an empty one differ")
	}
	want, err := Hash("disclaimer", map[string]any{"text": "x", "every": "5m"})
	if err != nil || want != base {
		t.Errorf("Hash gives %s, %v", want, err)
	}
}

func TestDefault(t *testing.T) {
	dir := filepath.Join(t.TempDir(), `with "odd: name`)
	o := options()
	o.Mode = ModeUp
	c, err := o.Parse("built-in", dir, Default(dir))
	if err != nil {
		t.Fatal(err)
	}
	if c.DataDir != dir || c.Routes["outbox"].Maildir.Path != filepath.Join(dir, "outbox") || len(c.Warnings) != 0 {
		t.Errorf("%+v", c)
	}
	if l := c.Ingress.Listeners; len(l) != 1 || l[0].Address != "127.0.0.1:2525" || l[0].TLS != ListenerPlain {
		t.Errorf("%+v", l)
	}
	slip := c.Slip(c.Chains[0])
	var types []string
	for _, h := range slip.Hops {
		types = append(types, h.Type)
		if h.Address != "" {
			t.Errorf("%s is not in this process", h.Instance)
		}
	}
	if fmt.Sprint(types) != "[antivirus disclaimer archive signer]" {
		t.Error(types)
	}
}

func TestLoad(t *testing.T) {
	dir := folder(t)
	path := filepath.Join(dir, "stagecoach.yaml")
	if _, err := Load(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	if err := os.WriteFile(path, []byte("hostnam: x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Load(path)
	var one *Error
	if !errors.As(err, &one) || one.File != path || one.Line != 1 {
		t.Errorf("got %v", err)
	}
	if _, err = Parse("big", dir, make([]byte, maxFile+1)); err == nil || !strings.Contains(err.Error(), "limit") {
		t.Errorf("too large: %v", err)
	}
}

func TestSecretsAreNotShown(t *testing.T) {
	_, err := options().Parse("x.yaml", t.TempDir(), []byte("routes:\n  r: {smarthost: {auth: {username: u, password: hunter2}}}\nnats: {servers: [\"nats://u:hunter2@nats\"]}\n"))
	if err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("got %v", err)
	}
}

// TestMany: a file that is wrong everywhere is not answered with megabytes.
func TestMany(t *testing.T) {
	long := strings.Repeat("é", 10_000)
	_, err := options().Parse("x.yaml", t.TempDir(), []byte(strings.Repeat("x: 0x1\n", 1000)+long+": 1\n"))
	var all Errors
	if !errors.As(err, &all) || len(all) != maxErrors+1 || !strings.Contains(all[maxErrors].Message, " more errors") {
		t.Errorf("%d errors", len(all))
	}
	_, err = options().Parse("x.yaml", t.TempDir(), []byte(long+": 1\n"))
	if err == nil || len(err.Error()) > 10_000 {
		t.Errorf("%d bytes", len(err.Error()))
	}
}

func TestWarnings(t *testing.T) {
	dir := folder(t)
	if err := os.Chmod(filepath.Join(dir, "secrets/smarthost"), 0o644); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile("testdata/full.yaml")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(data), "10.0.0.10/32", "198.51.0.0/20", 1)
	c, err := options().Parse("full.yaml", dir, []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Warnings) != 2 || c.Warnings[0].KeyPath != "relay[0].networks[0]" || !strings.HasSuffix(c.Warnings[1].KeyPath, "password_file") {
		t.Errorf("%v", c.Warnings)
	}
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }
