package mail

import (
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

func TestParseAddress(t *testing.T) {
	long := strings.Repeat("a", 64)
	label := strings.Repeat("b", 63)
	for _, c := range []struct {
		in   string
		want Address
	}{
		{"user@example.com", Address{"user", "example.com"}},
		{"User.Name+tag@Example.COM", Address{"User.Name+tag", "Example.COM"}},
		{"a!b%c@example.com", Address{"a!b%c", "example.com"}},
		{"user%other.example@example.com", Address{"user%other.example", "example.com"}},
		{"!#$%&'*+-/=?^_`{|}~@x", Address{"!#$%&'*+-/=?^_`{|}~", "x"}},
		{`"user"@example.com`, Address{"user", "example.com"}},
		{`"a b"@example.com`, Address{"a b", "example.com"}},
		{`"a@b"@example.com`, Address{"a@b", "example.com"}},
		{`"a\"b\\c\d"@example.com`, Address{`a"b\cd`, "example.com"}},
		{`".."@example.com`, Address{"..", "example.com"}},
		{`""@example.com`, Address{"", "example.com"}},
		{`"x> NOTIFY=NEVER <y"@d`, Address{"x> NOTIFY=NEVER <y", "d"}},
		{"u@[192.0.2.1]", Address{"u", "[192.0.2.1]"}},
		{"u@[IPv6:2001:db8::1]", Address{"u", "[IPv6:2001:db8::1]"}},
		{"u@[ipv6:::ffff:192.0.2.1]", Address{"u", "[ipv6:::ffff:192.0.2.1]"}},
		{"u@xn--bcher-kva.example", Address{"u", "xn--bcher-kva.example"}},
		{long + "@" + label + ".example", Address{long, label + ".example"}},
	} {
		got, err := ParseAddress(c.in)
		if err != nil || got != c.want {
			t.Errorf("ParseAddress(%q) = %+v, %v; want %+v", c.in, got, err, c.want)
		}
		if err := got.Validate(); err != nil {
			t.Errorf("%q does not validate: %v", c.in, err)
		}
	}
}

func TestParseAddressRefuses(t *testing.T) {
	long := strings.Repeat("a", 65)
	label := strings.Repeat("b", 64)
	for _, in := range []string{
		"", "@", "user", "user@", "@example.com", "<user@example.com>", "<>",
		"@a.example,@b.example:user@example.com", "@a.example:user@example.com",
		".user@x", "user.@x", "us..er@x", "us er@x", "user @x", " user@x", "user@x ",
		"user@x.", "user@.x", "user@x..y", "user@-x", "user@x-", "user@x_y.example", "user@x y", "user@x@y",
		"user@x\r\nRCPT TO:<y@z>", "user\r@x", "user\n@x", "user\x00@x", "us\x7fer@x", "\tuser@x",
		"\"us\x00er\"@x", "\"us\rer\"@x", "\"us\ner\"@x", "\"us\ter\"@x", "\"us\\\x00er\"@x", "\"us\x7f\"@x",
		`"user@x`, `"user"x@y`, `"user".x@y`, `x."y"@z`, `"user\"@x`, `"`, `"\`, `"a"`, `user(comment)@x`,
		"user@[192.0.2.1", "user@[192.0.2]", "user@[192.0.2.256]", "user@[2001:db8::1]", "user@[IPv6:192.0.2.1]",
		"user@[IPv6:fe80::1%eth0]", "user@[]", "user@[x-tag:abc]", "user@[IPv6:]", "user@[192.0.2.1]x", "user@[192.0.2.1]]",
		"usér@example.com", "user@exämple.com", "\"usér\"@example.com",
		long + "@example.com", "user@" + label, `"` + strings.Repeat("a", 63) + `"@example.com`,
		"user@" + strings.Repeat("a.", 125) + "x",
	} {
		if a, err := ParseAddress(in); err == nil {
			t.Errorf("ParseAddress(%q) = %+v, want an error", in, a)
		} else if a != (Address{}) {
			t.Errorf("ParseAddress(%q) gives an address with its error", in)
		}
	}
}

func TestParseAddressUTF8(t *testing.T) {
	for _, in := range []string{"usér@exämple.com", "用户@例子.广告", `"ü ü"@example.com`, "user@example.com", "क्\u200dष@example.com"} {
		a, err := ParseAddressUTF8(in)
		if err != nil {
			t.Errorf("ParseAddressUTF8(%q): %v", in, err)
		}
		if got := a.String(); got != in {
			t.Errorf("String of %q is %q", in, got)
		}
		if a.IsASCII() != isASCII(in) {
			t.Errorf("IsASCII of %q is %v", in, a.IsASCII())
		}
	}
	for _, in := range []string{
		"us\u0085er@x", "us\u2028er@x", "us\u00a0er@x", "us\u202eer@x", "us\xffer@x", "\"us\xff\"@x",
		"user@x\u3002y", "user@x\uff0ey", "user@\xff", "user@x\u00ady", "\"a\\é\"@x",
		strings.Repeat("é", 33) + "@x",
	} {
		if a, err := ParseAddressUTF8(in); err == nil {
			t.Errorf("ParseAddressUTF8(%q) = %+v, want an error", in, a)
		}
	}
}

// What was made by hand, or came over the wire unchecked, must not become a second command or parameter.
func TestAddressStringCannotInject(t *testing.T) {
	for _, a := range []Address{
		{"a\r\nRCPT TO:<b@c>", "d"}, {"a", "d\r\nDATA"}, {"a\x00", "b"}, {"a", "b> SIZE=0"}, {"a", "b<"}, {"a\xff", "b"},
		{`a" x`, "b"}, {"a", ""}, {"", "b"}, {"a", "b@c"}, {"a", "b c"}, {"a", "b,c"},
	} {
		s := a.String()
		for _, bad := range []string{"\r", "\n", "\x00"} {
			if strings.Contains(s, bad) {
				t.Errorf("String of %+q holds %q", a, bad)
			}
		}
		domain := s[strings.LastIndexByte(s, '@')+1:]
		if strings.ContainsAny(domain, " <>\"") {
			t.Errorf("String of %+q has the domain %q", a, domain)
		}
		if !utf8.ValidString(s) {
			t.Errorf("String of %+q is broken UTF-8", a)
		}
	}
	if err := (Address{"a\r\nb", "d"}).Validate(); err == nil {
		t.Error("an address with a line end validates")
	}
	if err := (Address{"a\uFFFD", "d"}).Validate(); err != nil {
		t.Errorf("U+FFFD is a character as any other: %v", err)
	}
	if err := (Address{"a\x01", "d"}).Validate(); err == nil {
		t.Error("a control character validates as its replacement")
	}
	if s := (Address{}).String(); s != "" {
		t.Errorf("the null address is %q", s)
	}
}

func TestAddressEqual(t *testing.T) {
	a := Address{"User", "Example.com"}
	if !a.Equal(Address{"User", "eXample.com"}) || a.Equal(Address{"user", "Example.com"}) {
		t.Error("the domain is compared without case, the local part with it")
	}
}

func TestAddressRoundTripProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := Address{
			Local:  rapid.StringOfN(rapid.RuneFrom([]rune(`ab.@"\ <>(),;:[]%!é`)), 0, 20, -1).Draw(t, "local"),
			Domain: rapid.StringMatching(`[a-z0-9]{1,10}(\.[a-z]{2,5}){0,3}`).Draw(t, "domain"),
		}
		got, err := ParseAddressUTF8(a.String())
		if err != nil || got != a {
			t.Fatalf("%+q prints as %q, which parses as %+q, %v", a, a.String(), got, err)
		}
	})
}

func FuzzParseAddress(f *testing.F) {
	for _, s := range []string{"user@example.com", `"a\"b"@[IPv6:::1]`, "ü@ü", `""@x`, "a..b@c", "\"\\\x7f\"@x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseAddress(s)
		u, uerr := ParseAddressUTF8(s)
		if err == nil && (uerr != nil || a != u) {
			t.Fatalf("%q parses as ASCII only", s)
		}
		if uerr != nil {
			return
		}
		if err != nil && isASCII(s) {
			t.Fatalf("%q is ASCII and parses as UTF-8 only: %v", s, err)
		}
		p := u.String()
		if strings.ContainsAny(p, "\r\n\x00") || len(p) > len(s) {
			t.Fatalf("%q prints as %q", s, p)
		}
		again, err := ParseAddressUTF8(p)
		if err != nil || again != u {
			t.Fatalf("%q prints as %q, which parses as %+v, %v", s, p, again, err)
		}
		if err := u.Validate(); err != nil {
			t.Fatalf("%q does not validate: %v", s, err)
		}
	})
}
