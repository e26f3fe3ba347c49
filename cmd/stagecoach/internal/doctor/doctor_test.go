package doctor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/stagecoachmail/stagecoach/internal/config"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

// A check that waits for what never comes, and does not even look at its context, costs its own result and no other.
func TestHangingCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		never := make(chan struct{})
		defer close(never)
		said := func(text string) func(context.Context, *Env) []Finding {
			return func(context.Context, *Env) []Finding { return []Finding{{Level: OK, Text: text}} }
		}
		checks := []Check{
			{"first", said("fine")},
			{"stuck", func(context.Context, *Env) []Finding { <-never; return nil }},
			{"late", func(ctx context.Context, _ *Env) []Finding {
				<-ctx.Done()
				return []Finding{{Level: Error, Text: context.Cause(ctx).Error()}}
			}},
			{"stuck too", func(context.Context, *Env) []Finding { <-never; return nil }},
			{"last", said("fine")},
		}
		start := time.Now()
		got := Run(t.Context(), &Env{Config: &config.Config{}}, checks)
		if took := time.Since(start); took >= 30*time.Second {
			t.Errorf("took %v", took)
		}
		var text []string
		for _, f := range got {
			text = append(text, f.Check+" "+string(f.Level)+" "+f.Text)
		}
		want := "first ok fine; stuck warning gave no result within 27s; late error context deadline exceeded; stuck too warning gave no result within 27s; last ok fine"
		if s := strings.Join(text, "; "); s != want {
			t.Errorf("got  %s\nwant %s", s, want)
		}
	})
}

func TestWorst(t *testing.T) {
	for want, levels := range map[Level][]Level{OK: {}, Info: {OK, Info, OK}, Warning: {Info, Warning, OK}, Error: {Warning, Error, Info}} {
		var f []Finding
		for _, l := range levels {
			f = append(f, Finding{Level: l})
		}
		if got := Worst(f); got != want {
			t.Errorf("%v: %s", levels, got)
		}
	}
}

func TestPrint(t *testing.T) {
	findings := []Finding{
		{Check: "clock", Level: OK, Text: "is kept right"},
		{Check: "mx", Subject: "example.com", Level: Info, Text: "elsewhere"},
		{Check: "routes", Subject: "provider", Level: Error, Text: "535 \x1b[31mno\r\nnever", Remedy: "Correct it."},
	}
	for terminal, want := range map[bool]string{
		true:  "✓ clock: is kept right\n· mx: example.com: elsewhere\n✗ routes: provider: 535 ?[31mno? never\n    Correct it.\n",
		false: "ok       clock: is kept right\ninfo     mx: example.com: elsewhere\nerror    routes: provider: 535 ?[31mno? never\n         Correct it.\n",
	} {
		var b bytes.Buffer
		if err := Print(&b, findings, terminal); err != nil || b.String() != want {
			t.Errorf("%v\n%q\n%q", err, b.String(), want)
		}
	}
	var b bytes.Buffer
	if err := PrintJSON(&b, findings); err != nil {
		t.Fatal(err)
	}
	var back []Finding
	if err := json.Unmarshal(b.Bytes(), &back); err != nil || len(back) != 3 || back[2] != findings[2] {
		t.Errorf("%v %s", err, b.String())
	}
	if strings.Contains(b.String(), "\x1b") {
		t.Errorf("an escape sequence gets through: %q", b.String())
	}
	b.Reset()
	if err := PrintJSON(&b, nil); err != nil || strings.TrimSpace(b.String()) != "[]" {
		t.Errorf("%v %q", err, b.String())
	}
}

// The installation of `stagecoach up` is asked on its socket, and so is its configuration: nothing leaves the machine.
func TestUpWithoutFile(t *testing.T) {
	in := newInstall(t, startNATS(t, true))
	in.up = true
	in.text = strings.ReplaceAll(string(config.Default("DATA")), "127.0.0.1:2525", "LISTEN")
	in.text = strings.ReplaceAll(in.text, "  footer:\n    type: disclaimer\n    config:\n      text: \"This message passed through Stagecoach.\"\n  archive: {config: {}}\n", "")
	in.text = strings.ReplaceAll(in.text, "[antivirus, footer, archive, signer]", "[antivirus, signer]")
	in.words["DATA"] = in.path("data")
	// Another program would have the port, if it were not the running stagecoach.
	in.words["LISTEN"] = serveClamd(t, "")
	in.admin.status = &adminv1.GetStatusResponse{Version: "v1", Started: timestamppb.New(time.Unix(0, 0)), Durability: "embedded, syncs always",
		Listeners: []*adminv1.Listener{{Name: "local"}}}
	text := map[string]string{}
	for _, f := range in.look() {
		if f.Level == Warning || f.Level == Error {
			t.Errorf("%+v", f)
		}
		text[f.Check] += f.Text
	}
	for check, want := range map[string]string{
		"running": "stagecoach v1 runs since 1970-01-01", "ports": "the running stagecoach listens here", "nats": "embedded, syncs always",
		"spf": "not looked at", "dkim": "not looked at", "dmarc": "not looked at", "hostname": "not looked at", "clamd": "has no clamd",
	} {
		if !strings.Contains(text[check], want) {
			t.Errorf("%s: %q, want %q", check, text[check], want)
		}
	}
}

// An address and a name of its own for a route are what receivers see of it.
func TestSourceAndName(t *testing.T) {
	in := newInstall(t, startNATS(t, true))
	in.change("internet: {mx: {}}", "internet: {mx: {helo: out.example.com, source: 192.0.2.11}}")
	in.dns.ip["out.example.com"] = []string{"192.0.2.11"}
	got := map[string]bool{}
	for _, f := range in.look() {
		if f.Level == Error {
			got[f.Check+" "+f.Subject] = true
		}
	}
	// The reverse name is missing, and no domain names the address.
	for _, want := range []string{"hostname out.example.com 192.0.2.11", "spf example.com", "spf example.org", "spf news.example.com"} {
		if !got[want] {
			t.Errorf("%s is not found: %v", want, got)
		}
		delete(got, want)
	}
	if len(got) > 0 {
		t.Errorf("also %v", got)
	}
}

// Where the signer runs on another machine, its keys are not missed on this one.
func TestSignerElsewhere(t *testing.T) {
	in := newInstall(t, startNATS(t, true))
	for _, gone := range []string{"data/keys", "pki/signer.pem", "pki/signer-key.pem"} {
		if err := os.RemoveAll(in.path(gone)); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range in.look() {
		if f.Level == Warning || f.Level == Error {
			t.Errorf("%+v", f)
		}
	}
}

// A running instance that cannot be asked is said so; a configuration that cannot be read is told once, with all errors.
func TestUnreachable(t *testing.T) {
	in := newInstall(t, startNATS(t, true))
	in.admin.err = errors.New("permission denied")
	var got []string
	for _, f := range in.look() {
		if f.Level == Warning || f.Level == Error {
			got = append(got, f.Check+": "+f.Text)
		}
	}
	if strings.Join(got, "\n") != "running: the running instance does not answer: permission denied" {
		t.Errorf("%q", got)
	}
	found := Run(t.Context(), &Env{Err: errors.New("open x.yaml: no such file or directory"), File: "x.yaml"}, Checks())
	if len(found) != 1 || found[0].Level != Error || found[0].Subject != "x.yaml" || found[0].Remedy == "" {
		t.Errorf("%+v", found)
	}
}

// A server that greets with our name is taken for ours only where ours cannot be asked otherwise.
func TestPortOfOurs(t *testing.T) {
	bus := startNATS(t, true)
	for up, want := range map[bool]Level{false: OK, true: Error} {
		in := newInstall(t, bus)
		in.up = up
		in.words["LISTEN"] = serve(t, func(c net.Conn) { _, _ = io.WriteString(c, "220 relay.example.com ESMTP Service Ready\r\n") })
		for _, f := range in.look() {
			if f.Check == "ports" && f.Level != want {
				t.Errorf("up %v: %+v", up, f)
			}
		}
	}
}
