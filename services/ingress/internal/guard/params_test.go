package guard

import (
	"testing"

	"github.com/stagecoachmail/stagecoach/mail"
)

func TestParseMail(t *testing.T) {
	for arg, want := range map[string]Mail{
		"FROM:<>":                         {From: Path{Null: true}},
		"from: <a@b.example>":             {From: Path{Mailbox: mail.Address{Local: "a", Domain: "b.example"}}},
		`FROM:<"a> b"@c.example> SIZE=10`: {From: Path{Mailbox: mail.Address{Local: "a> b", Domain: "c.example"}}, Size: 10},
		"FROM:<@x.example,@y.example:a@b.example> RET=full ENVID=q+2Bq": {
			From: Path{Mailbox: mail.Address{Local: "a", Domain: "b.example"}, Routed: true}, Ret: "FULL", EnvID: "q+q"},
	} {
		got, bad := ParseMail(arg)
		if bad != nil || got != want {
			t.Errorf("%s: %+v, %v", arg, got, bad)
		}
	}
}

// TestQuotedIsNoParameter: what stands in a quoted local part is not a parameter, and is written back quoted.
func TestQuotedIsNoParameter(t *testing.T) {
	r, bad := ParseRcpt(`TO:<"x> NOTIFY=NEVER <y"@d.example> NOTIFY=SUCCESS`)
	if bad != nil || r.Notify != "SUCCESS" || r.To.Mailbox.String() != `"x> NOTIFY=NEVER <y"@d.example` {
		t.Errorf("%+v, %v", r, bad)
	}
}

func FuzzParameters(f *testing.F) {
	for _, s := range []string{"FROM:<>", "FROM:<a@b> SIZE=1", `TO:<"a\"b"@c> ORCPT=rfc822;a+40b`, "TO:<@a:b@c>", "TO:<postmaster> NOTIFY=DELAY"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		check := func(p Path) {
			if p.Null || p.Postmaster {
				return
			}
			again, err := mail.ParseAddress(p.Mailbox.String())
			if err != nil || again != p.Mailbox {
				t.Fatalf("%q: %+v is written as %q, and read as %+v, %v", s, p.Mailbox, p.Mailbox.String(), again, err)
			}
		}
		if m, bad := ParseMail(s); bad == nil {
			check(m.From)
			if m.Size < 0 {
				t.Fatalf("%q: size %d", s, m.Size)
			}
		}
		if r, bad := ParseRcpt(s); bad == nil {
			check(r.To)
			for _, b := range []byte(r.ORcpt) {
				if b < ' ' || b > '~' {
					t.Fatalf("%q: ORCPT %q", s, r.ORcpt)
				}
			}
		}
	})
}
