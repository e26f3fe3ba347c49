package signer

import (
	"slices"
	"strings"
	"testing"
)

func TestAuthorDomains(t *testing.T) {
	for in, want := range map[string]string{
		"a@example.com":                                "example.com",
		"Anna <a@Example.COM>":                         "example.com",
		`"x@evil.example" <a@example.com>`:             "example.com",
		`"a\"<x@evil.example>" <a@example.com>`:        "example.com",
		"(x@evil.example) a@example.com (see (b@c))":   "example.com",
		"a@example.com, <b@example.org>,c@example.com": "example.com example.org",
		"team: a@example.com, b@example.org;":          "example.com example.org",
		"undisclosed-recipients:;":                     "",
		`"a,b@evil.example"@example.com`:               "example.com",
		`"@"@example.com`:                              "example.com",
		"<@relay.example,@b.example:a@example.com>":    "example.com",
		"=?utf-8?q?J=C3=BCrgen?= <j@example.com>":      "example.com",
		"a@bücher.example":                             "xn--bcher-kva.example",
		"a @ example.com":                              "example.com",
		"a@example.com.":                               "example.com",
		"a@[192.0.2.1]":                                "",
		"@example.com":                                 "",
		"a@":                                           "",
		"a@../../etc":                                  "",
		"a@b;c d=evil":                                 "b",
		"<a@example.com":                               "",
		"a@-x.example":                                 "",
	} {
		if got := strings.Join(authorDomains(in, 10), " "); got != want {
			t.Errorf("%s: %q, not %q", in, got, want)
		}
	}
	if got := authorDomains("a@a.example,a@b.example,a@c.example", 2); len(got) != 2 {
		t.Errorf("the limit is not kept: %v", got)
	}
}

func FuzzAuthorDomains(f *testing.F) {
	f.Add(`"a\` + `" <(x)a@example.com>, b@c.example;`)
	f.Add("<<a@b>>")
	f.Fuzz(func(t *testing.T, value string) {
		got := authorDomains(value, 5)
		for i, d := range got {
			if again, err := domainName(d); err != nil || again != d {
				t.Errorf("%q is not canonical", d)
			}
			if slices.Contains(got[:i], d) {
				t.Errorf("%q stands twice", d)
			}
		}
	})
}
