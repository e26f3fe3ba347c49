package signer

import (
	"strings"
	"testing"
)

func TestEnds(t *testing.T) {
	s := settings(t)
	st := build(t, s, "key_dir: none\nsign: [{sender: anna@example.com, smime: {pkcs12: sign/anna.p12, password_file: sign/anna.password}}]\n")
	ends := st.(*Signer).Ends()
	if len(ends) != 1 {
		t.Fatalf("%v", ends)
	}
	for what, end := range ends {
		if !strings.HasPrefix(what, "smime ") || !end.After(s.Now()) {
			t.Errorf("%q ends %v", what, end)
		}
	}
	if ends := build(t, s, keysInTestdata).(*Signer).Ends(); len(ends) > 0 {
		t.Errorf("without certificates: %v", ends)
	}
}
