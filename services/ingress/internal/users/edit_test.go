package users

import (
	"errors"
	"maps"
	"strings"
	"testing"
)

// phc are three hashes of the least cost.
var phcA, phcB, phcC = cheap("a password"), cheap("b password"), cheap("c password")

// fill puts hashes in the place of $A, $B and $C.
func fill(s string) string { return strings.NewReplacer("$A", phcA, "$B", phcB, "$C", phcC).Replace(s) }

func TestEdit(t *testing.T) {
	const two = "# head\nusers: # all\n  # about alice\n  alice: {password: \"$A\"} # old\n\n  # about bob\n  bob:\n    # his\n    password: '$B' # b\n  # end\n\n# foot\n"
	for name, one := range map[string]struct {
		before string
		change change
		after  string // "": ErrForm
	}{
		"add to nothing":  {"", change{"bob", phcC}, "users:\n  bob: {password: \"$C\"}\n"},
		"add to comments": {"# mine\n", change{"bob", phcC}, "# mine\nusers:\n  bob: {password: \"$C\"}\n"},
		"no last line end": {
			"users:\n  a: {password: \"$A\"}", change{"bob", phcC},
			"users:\n  a: {password: \"$A\"}\n  bob: {password: \"$C\"}\n",
		},
		"add to null":   {"users:\n# foot\n", change{"bob", phcC}, "users:\n  bob: {password: \"$C\"}\n# foot\n"},
		"add to braces": {"users: {} # none\n# foot\n", change{"bob", phcC}, "users:  # none\n  bob: {password: \"$C\"}\n# foot\n"},
		"add":           {two, change{"carol", phcC}, strings.Replace(two, "# b\n", "# b\n  carol: {password: \"$C\"}\n", 1)},
		"set in braces": {two, change{"alice", phcC}, strings.Replace(two, `"$A"`, `"$C"`, 1)},
		"set":           {two, change{"bob", phcC}, strings.Replace(two, `'$B'`, `"$C"`, 1)},
		"delete":        {two, change{"alice", ""}, strings.Replace(two, "  alice: {password: \"$A\"} # old\n", "", 1)},
		"delete the last one": {
			two, change{"bob", ""},
			strings.Replace(two, "  bob:\n    # his\n    password: '$B' # b\n", "", 1),
		},
		"delete the only one": {"users:\n  a: {password: \"$A\"}\n# foot\n", change{"a", ""}, "users:\n# foot\n"},
		"CRLF": {
			"# ü\r\nusers:\r\n  é: {password: \"$A\"}\r\n\r\n  bob:\r\n    password: \"$B\"\r\n", change{"bob", phcC},
			"# ü\r\nusers:\r\n  é: {password: \"$A\"}\r\n\r\n  bob:\r\n    password: \"$C\"\r\n",
		},
		"add with CRLF": {
			"users:\r\n  a: {password: \"$A\"}\r\n", change{"bob", phcC},
			"users:\r\n  a: {password: \"$A\"}\r\n  bob: {password: \"$C\"}\r\n",
		},
		"wide columns": {
			"users:\n  \"日本\": {password: \"$A\"} # 日本\n", change{"日本", phcC},
			"users:\n  \"日本\": {password: \"$C\"} # 日本\n",
		},
		"names that are other values": {"users:\n", change{"null", phcC}, "users:\n  \"null\": {password: \"$C\"}\n"},
		"number":                      {"users:\n", change{"0x10", phcC}, "users:\n  \"0x10\": {password: \"$C\"}\n"},
		"name with signs":             {"users:\n", change{`a"b\c: <&>`, phcC}, "users:\n  \"a\\\"b\\\\c: <&>\": {password: \"$C\"}\n"},
		"address":                     {"users:\n", change{"bob@example.com", phcC}, "users:\n  bob@example.com: {password: \"$C\"}\n"},
		"flow: add": {
			"users: {a: {password: \"$A\"}}\n", change{"bob", phcC},
			"users: {a: {password: \"$A\"}, bob: {password: \"$C\"}}\n",
		},
		"flow with a last comma": {
			"users: {\n  a: {password: \"$A\"},\n}\n", change{"bob", phcC},
			"users: {\n  a: {password: \"$A\"},\n bob: {password: \"$C\"}}\n",
		},
		"flow: set": {
			"users: {a: {password: \"$A\"}, b: {password: \"$B\"}}\n", change{"a", phcC},
			"users: {a: {password: \"$C\"}, b: {password: \"$B\"}}\n",
		},
		"flow: delete the first": {
			"users: {a: {password: \"$A\"}, b: {password: \"$B\"}}\n", change{"a", ""},
			"users: {b: {password: \"$B\"}}\n",
		},
		"flow: delete the last": {
			"users: {a: {password: \"$A\"}, b: {password: \"$B\"}}\n", change{"b", ""},
			"users: {a: {password: \"$A\"}}\n",
		},
		"document marks": {
			"---\nusers:\n  a: {password: \"$A\"}\n...\n", change{"bob", phcC},
			"---\nusers:\n  a: {password: \"$A\"}\n  bob: {password: \"$C\"}\n...\n",
		},
		"hash over several lines": {"users:\n  a:\n    password: >-\n      $A\n", change{"a", phcC}, ""},
		"next to a hash over several lines": {
			"users:\n  a:\n    password: >-\n      $A\n  b: {password: \"$B\"}\n", change{"bob", phcC},
			"users:\n  a:\n    password: >-\n      $A\n  b: {password: \"$B\"}\n  bob: {password: \"$C\"}\n",
		},
		"behind a hash over several lines": {
			"users:\n  a:\n    password: >-\n      $A\n# foot\n", change{"bob", phcC},
			"users:\n  a:\n    password: >-\n      $A\n  bob: {password: \"$C\"}\n# foot\n",
		},
		"what others refer to":   {"users:\n  a: &x {password: \"$A\"}\n  b: *x\n", change{"a", phcC}, ""},
		"what refers to another": {"users:\n  a: &x {password: \"$A\"}\n  b: *x\n", change{"b", ""}, "users:\n  a: &x {password: \"$A\"}\n"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := edit([]byte(fill(one.before)), one.change)
			switch {
			case one.after == "" && !errors.Is(err, ErrForm):
				t.Errorf("%q, %v", got, err)
			case one.after != "" && (err != nil || string(got) != fill(one.after)):
				t.Errorf("%v\ngot  %q\nwant %q", err, got, fill(one.after))
			}
		})
	}
}

func TestPasswords(t *testing.T) {
	for password, ok := range map[string]bool{
		"correct horse": true, "пароль": true, strings.Repeat("x", 1024): true, "12345678": true, " spaces ": true,
		"": false, "1234567": false, strings.Repeat("x", 1025): false, "nul\x00 within": false, "line\nend of it": false, "\xff\xfe\xfd not text": false,
	} {
		if err := CheckPassword(password); (err == nil) != ok || err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("%.20q: %v", password, err)
		}
	}
	for name, ok := range map[string]bool{
		"alice": true, "bob@example.com": true, "日本": true, "": false, " a": false, "a\x00": false, "a\u0085b": false, "\xff": false, strings.Repeat("x", 257): false,
	} {
		if err := CheckName(name); (err == nil) != ok || err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("%.20q: %v", name, err)
		}
	}
}

// FuzzEdit: whatever the file looks like, an edit changes what was asked for and no more, or refuses. What is added or
// set takes no line with a comment away.
func FuzzEdit(f *testing.F) {
	for _, s := range []string{
		"users:\n  a: {password: \"$A\"} # x\n  # y\n  b:\n    password: $B\n", "users: {a: {password: \"$A\"},}\n", "users:\r\n  a: {password: '$A'}\r\n", "", "# z\n",
		"users:\n  ? a\n  : {password: \"$A\"}\n", "\"users\": {\n \"a\": {password: \"$A\"}\n}", "users:\n  a: &x {password: \"$A\"}\n  b: *x\n", "--- # d\nusers:\n  a:\n    password: |-\n      $A\n...\n",
	} {
		f.Add([]byte(fill(s)), "a", 1)
		f.Add([]byte(fill(s)), "new one", 0)
		f.Add([]byte(fill(s)), "b", 2)
	}
	f.Fuzz(func(t *testing.T, data []byte, name string, what int) {
		if CheckName(name) != nil {
			return
		}
		before, err := entries(data)
		if err != nil {
			return
		}
		c := change{name, phcC}
		want := maps.Clone(before)
		if what%2 != 0 {
			c.hash = ""
			delete(want, name)
		} else {
			want[name] = phcC
		}
		after, err := edit(data, c)
		if err != nil {
			if !errors.Is(err, ErrForm) {
				t.Fatalf("%q: %v", data, err)
			}
			return
		}
		if got, err := entries(after); err != nil || !maps.Equal(got, want) {
			t.Fatalf("%q became %q: %v, %v", data, after, got, err)
		}
		if what%2 == 0 && strings.Count("\n"+string(after), "\n#") < strings.Count("\n"+string(data), "\n#") {
			t.Fatalf("%q became %q: a comment is lost", data, after)
		}
	})
}
