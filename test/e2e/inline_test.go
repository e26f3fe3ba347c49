package e2e

import (
	"context"
	"log/slog"
	"net/smtp"
	"strings"
	"testing"
	"time"

	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/stage"
	"github.com/stagecoachmail/stagecoach/stage/serve"
	"github.com/stagecoachmail/stagecoach/test/rig"
)

// judge is a stage of somebody else: it does what the subject says.
func judge() stage.Factory {
	process := func(_ context.Context, m *mail.Message) (stage.Result, error) {
		no := stage.Reject(mail.Reply{Code: 554, Enhanced: "5.7.1", Text: "not this one", Private: "never shown"})
		switch m.Content.Header().Get("Subject") {
		case "reject":
			return stage.Result{Branch: stage.Branch{Verdict: no}}, nil
		case "defer":
			return stage.Result{Branch: stage.Branch{Verdict: stage.Defer(mail.Reply{Code: 450, Enhanced: "4.7.1", Text: "come back later"}, 0)}}, nil
		case "fork":
			var res stage.Result
			for _, r := range m.Envelope.Recipients {
				if r.Address.Local == "fork" {
					res.Forks = append(res.Forks, stage.Fork{To: []mail.RecipientID{r.ID}, Branch: stage.Branch{Verdict: no}})
				}
			}
			return res, nil
		case "fail":
			return stage.Result{}, context.DeadlineExceeded
		}
		return stage.Result{}, nil
	}
	return stage.NewFactory("judge", stage.Traits{ReadsBody: true}, func() struct{} { return struct{}{} },
		func(stage.Settings, struct{}) (stage.Stage, error) { return stage.Func(process), nil })
}

// serveJudge runs the stage until the test ends, or until stop is called.
func serveJudge(t *testing.T, r *rig.Rig) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- serve.Run(ctx, judge(), serve.Options{ConfigFile: r.ConfigFile(), Logger: slog.New(slog.DiscardHandler)})
	}()
	stop = func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the judge: %v", err)
		}
		ended <- nil
	}
	t.Cleanup(stop)
	return stop
}

func TestInline(t *testing.T) {
	t.Parallel()
	r, sink := install(t, rig.Up)
	r.CA.Issue(t, r.Path("pki"), "judge", "judge")
	configure(r, sink, "127.0.0.0/8", "127.0.0.2/32", "\nstages:\n", "\nstages:\n  judge: {address: \"{{judge}}\", traits: [reads_body]}\n",
		"    stages: [antivirus]\n", "    stages: [{use: judge, inline: true}, {use: antivirus, inline: true}]\n")
	stop := serveJudge(t, r)
	r.Start()
	submit := func(raw string, to ...string) (int, string) {
		c := dialFrom(t, "127.0.0.3", r.SMTP())
		expect(t, c, "MAIL FROM:<mallory@example.net>", "250")
		for _, a := range to {
			expect(t, c, "RCPT TO:<"+a+">", "250")
		}
		return afterDot(t, c, raw)
	}
	for _, c := range []struct {
		subject string
		code    int
		text    string
	}{{"reject", 554, "5.7.1 not this one"}, {"defer", 450, "4.7.1 come back later"}, {"fail", 451, "4.3.0 "}} {
		if code, text := submit(plain(c.subject), "alice@example.com", "ann@example.com"); code != c.code || !strings.HasPrefix(text, c.text) || strings.Contains(text, "never shown") {
			t.Errorf("%s: %d %s", c.subject, code, text)
		}
	}
	if len(r.InRoom("")) != 0 || len(inbox(r, "inbox")) != 0 {
		t.Error("something of what was refused was kept")
	}
	id := func(code int, text string) string {
		if code != 250 {
			t.Fatalf("%d %s", code, text)
		}
		return strings.Fields(text)[1]
	}
	infected := id(submit(eicar(), "alice@example.com"))
	if w := inRoom(r, "quarantine", infected); w.GetGroups()[0].GetLast().GetAbout() != "antivirus" {
		t.Errorf("held by %v", w.GetGroups()[0].GetLast())
	}
	forked := id(submit(plain("fork"), "alice@example.com", "fork@example.com"))
	if w := inRoom(r, "dead", forked); len(w.GetGroups()) != 1 || len(w.GetGroups()[0].GetRecipients()) != 1 || w.GetGroups()[0].GetLast().GetReply().GetCode() != 554 {
		t.Errorf("who was refused alone: %v", w.GetGroups())
	}
	id(submit(plain("good"), "alice@example.com"))
	r.Eventually("two are in the inbox", 10*time.Second, func() bool { return len(inbox(r, "inbox")) == 2 })
	person(r, "release", infected)
	r.Eventually("what was released too", 10*time.Second, func() bool { return len(inbox(r, "inbox")) == 3 })

	stop()
	if code, text := submit(plain("good"), "alice@example.com"); code != 451 {
		t.Errorf("without the stage: %d %s", code, text)
	}
	serveJudge(t, r)
	r.Eventually("with the stage mail is taken again", 10*time.Second, func() bool { code, _ := submit(plain("good"), "alice@example.com"); return code == 250 })
}

// afterDot sends a message after DATA and gives the answer.
func afterDot(t *testing.T, c *smtp.Client, raw string) (int, string) {
	t.Helper()
	expect(t, c, "DATA", "354")
	w := c.Text.DotWriter()
	if _, err := w.Write([]byte(raw)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	code, text, err := c.Text.ReadResponse(0)
	if err != nil {
		t.Fatal(err)
	}
	return code, text
}
