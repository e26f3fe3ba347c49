package mail

import "testing"

func TestMatchAddress(t *testing.T) {
	for _, c := range []struct {
		pattern, address string
		want             bool
	}{
		{"*", "user@example.com", true},
		{"*", "", true},
		{"*@example.com", "user@EXAMPLE.com", true},
		{"@example.com", "user@example.com", true},
		{"*@example.com", "user@sub.example.com", false},
		{"*@example.com", "user@badexample.com", false},
		{"*@example.com", "", false},
		{"*@*.example.com", "user@sub.example.com", true},
		{"*@*.example.com", "user@a.b.Example.com", true},
		{"*@*.example.com", "user@example.com", false},
		{"*@*.example.com", "user@badexample.com", false},
		{"user@example.com", "user@Example.com", true},
		{"User@example.com", "uSER@example.com", true},
		{"user@example.com", "user2@example.com", false},
		{"user@*.example.com", "user@a.example.com", true},
		{"user@*.example.com", "other@a.example.com", false},
		{`"a b"@example.com`, `"a b"@example.com`, true},
		{"x@example.com", "y@example.com", false},
		{"*@[192.0.2.1]", "user@[192.0.2.1]", true},
		{"nonsense", "user@example.com", false},
		{"", "user@example.com", false},
		{"", "", false},
	} {
		var a Address
		if c.address != "" {
			var err error
			if a, err = ParseAddress(c.address); err != nil {
				t.Fatal(err)
			}
		}
		if got := MatchAddress(c.pattern, a); got != c.want {
			t.Errorf("MatchAddress(%q, %q) = %v", c.pattern, c.address, got)
		}
	}
}

func TestValidatePattern(t *testing.T) {
	for _, s := range []string{"*", "@x", "*@x.example", "u@x", "*@*.x", "ü@x"} {
		if err := ValidatePattern(s); err != nil {
			t.Errorf("%q: %v", s, err)
		}
	}
	for _, s := range []string{"", "x", "x*@y", "*x@y", "**@y", "*@", "*@*", "*@*.", "*@y.*", "@@x", "*@x\n", `""@x`, "*@*.[192.0.2.1]", "*@x.", "*.example.com"} {
		if err := ValidatePattern(s); err == nil {
			t.Errorf("%q is taken for a pattern", s)
		}
	}
	if (Pattern{}).Match(Address{"a", "b"}) || (Pattern{}).Match(Address{}) {
		t.Error("the zero pattern matches")
	}
}
