package doctor

import (
	"testing"
)

// Where all is well nobody is troubled, and each check has looked.
func TestAllWell(t *testing.T) {
	in := newInstall(t, startNATS(t, true))
	seen := map[string]bool{}
	for _, f := range in.look() {
		seen[f.Check] = true
		t.Logf("%s %s: %s: %s", f.Level, f.Check, f.Subject, f.Text)
		if f.Level != OK && f.Level != Info {
			t.Errorf("%+v", f)
		}
	}
	for _, c := range Checks() {
		if !seen[c.Name] && c.Name != "running" { // which has nothing to say here
			t.Errorf("the check %s has found nothing at all", c.Name)
		}
	}
}
