package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Under `up` the port of the operator's API needs the CA of the people, and admin's pair if it has no other; without the
// port nobody asks for them.
func TestAdminUnderUp(t *testing.T) {
	t.Parallel()
	const rest = "ingress: {listeners: [{name: l, address: \"127.0.0.1:25\", tls: none}]}\nchains: [{name: c, stages: [], deliver: r}]\nroutes: {r: {mx: {}}}\npki: {directory: pki}\n"
	people := "people: [{name: alice, role: admin}]"
	for _, c := range []struct {
		what, admin string
		files       []string
		wants       []string // what is missing
	}{
		{"no port", "", nil, nil},
		{"no port, but people", "admin: {" + people + "}\n", nil, nil},
		{"nothing is there", "admin: {address: \":8443\", " + people + "}\n", nil, []string{"ca.pem", "admin.pem", "admin-key.pem"}},
		{"the pair is missing", "admin: {address: \":8443\", " + people + "}\n", []string{"ca.pem"}, []string{"admin.pem", "admin-key.pem"}},
		{"all is there", "admin: {address: \":8443\", " + people + "}\n", []string{"ca.pem", "admin.pem", "admin-key.pem"}, nil},
		{"its own pair", "admin: {address: \":8443\", certificate: {file: c.pem, key_file: k.pem}, " + people + "}\n", []string{"ca.pem"}, nil},
		{"its own pair, and no CA", "admin: {address: \":8443\", certificate: {file: c.pem, key_file: k.pem}, " + people + "}\n", nil, []string{"ca.pem"}},
	} {
		dir := t.TempDir()
		for _, name := range append([]string{"../c.pem", "../k.pem"}, c.files...) {
			path := filepath.Join(dir, "pki", name)
			if err := os.MkdirAll(filepath.Join(dir, "pki"), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		o := options()
		o.Mode = ModeUp
		_, err := o.Parse("x.yaml", dir, []byte(rest+c.admin))
		text := ""
		if err != nil {
			text = err.Error()
		}
		if (err == nil) != (len(c.wants) == 0) || strings.Count(text, "\n")+1 < len(c.wants) {
			t.Errorf("%s: %v", c.what, err)
		}
		for _, name := range []string{"ca.pem", "admin.pem", "admin-key.pem"} {
			wanted := false
			for _, w := range c.wants {
				wanted = wanted || w == name
			}
			if strings.Contains(text, "/"+name) != wanted {
				t.Errorf("%s: %s: %v", c.what, name, err)
			}
		}
	}
}
