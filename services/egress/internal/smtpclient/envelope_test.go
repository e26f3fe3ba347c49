package smtpclient

import (
	"strings"
	"testing"

	"github.com/stagecoachmail/stagecoach/mail"
)

func addr(local, domain string) mail.Address { return mail.Address{Local: local, Domain: domain} }

func TestMailLine(t *testing.T) {
	all := map[string]string{"SIZE": "", "8BITMIME": "", "SMTPUTF8": "", "DSN": ""}
	for name, c := range map[string]struct {
		ext  map[string]string
		e    Envelope
		want string
	}{
		"null":                   {all, Envelope{}, "MAIL FROM:<>"},
		"everything":             {all, Envelope{From: addr("a", "b.example"), Size: 7, EightBit: true, UTF8: true, Ret: "HDRS", EnvID: "x +=y"}, "MAIL FROM:<a@b.example> SIZE=7 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=x+20+2B+3Dy"},
		"nothing offered":        {nil, Envelope{From: addr("a", "b.example"), Size: 7, EightBit: true, Ret: "FULL", EnvID: "x"}, "MAIL FROM:<a@b.example>"},
		"bad RET":                {all, Envelope{From: addr("a", "b.example"), Ret: "FULL\r\nRSET"}, "MAIL FROM:<a@b.example>"},
		"ENVID with line breaks": {all, Envelope{From: addr("a", "b.example"), EnvID: "x\r\nRSET"}, "MAIL FROM:<a@b.example> ENVID=x+0D+0ARSET"},
		"long ENVID":             {all, Envelope{From: addr("a", "b.example"), EnvID: strings.Repeat("x", 101)}, "MAIL FROM:<a@b.example>"},
		"quoted":                 {all, Envelope{From: addr("x> SIZE=1 <y", "b.example")}, `MAIL FROM:<"x> SIZE=1 <y"@b.example>`},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := (&Client{ext: c.ext}).mailLine(&c.e)
			if err != nil || got != c.want {
				t.Errorf("got %q, %v; want %q", got, err, c.want)
			}
		})
	}
}

func TestRcptLine(t *testing.T) {
	dsn := map[string]string{"DSN": ""}
	for name, c := range map[string]struct {
		ext  map[string]string
		r    mail.Recipient
		want string
	}{
		"plain":                            {dsn, mail.Recipient{Address: addr("a", "b.example")}, "RCPT TO:<a@b.example>"},
		"DSN":                              {dsn, mail.Recipient{Address: addr("a", "b.example"), Notify: "SUCCESS,failure", ORcpt: "rfc822;o+p@b.example"}, "RCPT TO:<a@b.example> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;o+2Bp@b.example"},
		"not offered":                      {nil, mail.Recipient{Address: addr("a", "b.example"), Notify: "NEVER", ORcpt: "rfc822;o@b.example"}, "RCPT TO:<a@b.example>"},
		"unknown and contradictory NOTIFY": {dsn, mail.Recipient{Address: addr("a", "b.example"), Notify: "NEVER,FAILURE"}, "RCPT TO:<a@b.example>"},
		"injection in NOTIFY":              {dsn, mail.Recipient{Address: addr("a", "b.example"), Notify: "FAILURE X=1\r\nDATA,DELAY"}, "RCPT TO:<a@b.example> NOTIFY=DELAY"},
		"injection in ORCPT":               {dsn, mail.Recipient{Address: addr("a", "b.example"), ORcpt: "rfc822 X;a\r\nDATA"}, "RCPT TO:<a@b.example>"},
		"ORCPT value":                      {dsn, mail.Recipient{Address: addr("a", "b.example"), ORcpt: "rfc822;a b\r\nDATA"}, "RCPT TO:<a@b.example> ORCPT=rfc822;a+20b+0D+0ADATA"},
		"quoted local part":                {dsn, mail.Recipient{Address: addr("x> NOTIFY=NEVER <y", "b.example")}, `RCPT TO:<"x> NOTIFY=NEVER <y"@b.example>`},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := (&Client{ext: c.ext}).rcptLine(&c.r)
			if err != nil || got != c.want {
				t.Errorf("got %q, %v; want %q", got, err, c.want)
			}
		})
	}
}

func TestPathRefuses(t *testing.T) {
	for _, a := range []mail.Address{
		addr("a\r\nDATA", "b.example"), addr("a", "b.example> X=1"), addr("a", "b.example\r\nDATA"), addr("a", "b example"),
		addr("a\x00", "b.example"), addr("a", ""), addr("a", "[127.0.0.1"), addr(strings.Repeat("a", 65), "b.example"),
	} {
		if got, err := Path(a); err == nil {
			t.Errorf("%#v became %q", a, got)
		}
	}
	if _, err := (&Client{}).rcptLine(&mail.Recipient{}); err == nil {
		t.Error("RCPT TO:<> was made")
	}
}

func FuzzPath(f *testing.F) {
	f.Add("a", "b.example")
	f.Add("x> NOTIFY=NEVER <y", "b.example")
	f.Add("a\"\\", "[IPv6:::1]")
	f.Fuzz(func(t *testing.T, local, domain string) {
		p, err := Path(addr(local, domain))
		if err != nil {
			return
		}
		if strings.ContainsAny(p, "\r\n\x00") {
			t.Fatalf("%q", p)
		}
		inner := strings.TrimSuffix(strings.TrimPrefix(p, "<"), ">")
		if inner == "" {
			return
		}
		back, err := mail.ParseAddressUTF8(inner)
		if err != nil || back != addr(local, domain) {
			t.Fatalf("%q is read as %#v, %v", p, back, err)
		}
	})
}
