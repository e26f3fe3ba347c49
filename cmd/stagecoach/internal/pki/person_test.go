package pki

import (
	"crypto/x509"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stagecoachmail/stagecoach/internal/service"
)

// A person's certificate is for that person, for calling alone, and bears no name of a service.
func TestPerson(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	f := Folder{Dir: filepath.Join(t.TempDir(), "pki"), Now: func() time.Time { return now }}
	if _, err := f.Init([]Service{{Name: "ingress"}}); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", "../x", "a/b", "alice-key", ".x", "a b"} {
		if _, _, err := f.Person(bad, Valid); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	res, files, err := f.Person("alice@example.com", 30*24*time.Hour)
	if err != nil || res.Change != Made || !res.Ends.Equal(now.Add(30*24*time.Hour)) {
		t.Fatalf("%+v, %v", res, err)
	}
	for _, file := range files {
		if st, err := os.Stat(file); err != nil || st.Mode().Perm() != 0o600 || filepath.Dir(file) != filepath.Join(f.Dir, "people") {
			t.Errorf("%s: %v", file, err)
		}
	}
	certs, err := readCertificates(files[0])
	if err != nil {
		t.Fatal(err)
	}
	leaf := certs[0]
	if service.PersonOf(leaf) != "alice@example.com" || len(leaf.DNSNames) > 0 || !slices.Equal(leaf.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}) || leaf.Subject.String() == "CN=alice@example.com" {
		t.Errorf("%v %v %v %v", leaf.URIs, leaf.DNSNames, leaf.ExtKeyUsage, leaf.Subject)
	}
	before, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := f.Person("alice@example.com", Valid); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second time: %v", err)
	}
	if after, err := os.ReadFile(files[0]); err != nil || string(after) != string(before) {
		t.Error("it was overwritten")
	}
	if _, _, err := f.Person("Long", 100*365*24*time.Hour); err != nil {
		t.Error(err)
	}
	list, err := f.List()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, i := range list {
		names = append(names, i.Name)
		if !i.Named || !i.OfCA || !i.FitsKey && i.Name != "ca" || i.Problem != "" || i.Ends.After(list[0].Ends) {
			t.Errorf("%+v", i)
		}
	}
	if !slices.Equal(names, []string{"ca", "ingress", "people/Long", "people/alice@example.com"}) {
		t.Errorf("%v", names)
	}
}

// Persons are renewed like services, for as long as before; keys that were taken away are no fault.
func TestRenewPeople(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	f := Folder{Dir: filepath.Join(t.TempDir(), "pki"), Now: func() time.Time { return now }}
	if _, err := f.Init(nil); err != nil {
		t.Fatal(err)
	}
	const month = 30 * 24 * time.Hour
	_, files, err := f.Person("alice", month)
	if err != nil {
		t.Fatal(err)
	}
	_, taken, err := f.Person("bob", 12*month)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(taken[1]); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(f.CAFile(), 0o644); err != nil { // everybody reads that
		t.Fatal(err)
	}
	one := func(r Renewal, name string) Result {
		t.Helper()
		results, _, err := f.Renew(r)
		if err != nil {
			t.Fatal(err)
		}
		for _, res := range results {
			if res.Name == name {
				return res
			}
		}
		t.Fatalf("%s is not among %v", name, results)
		return Result{}
	}
	soon := Renewal{Before: 10 * 24 * time.Hour}
	if r := one(soon, "people/alice"); r.Change != Kept {
		t.Errorf("%+v", r)
	}
	if r := one(soon, "people/bob"); r.Change != Kept {
		t.Errorf("%+v", r)
	}
	now = now.Add(25 * 24 * time.Hour)
	if r := one(soon, "people/alice"); r.Change != Renewed || !r.Ends.Equal(now.Add(month)) {
		t.Errorf("%+v", r)
	}
	certs, err := readCertificates(files[0])
	if err != nil || service.PersonOf(certs[0]) != "alice" || len(certs[0].DNSNames) > 0 {
		t.Errorf("renewed for %v, %v", certs[0].URIs, err)
	}
	if st, err := os.Stat(files[1]); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the key: %v", err)
	}
	if r := one(Renewal{Names: []string{"people/bob"}}, "people/bob"); r.Change != Renewed {
		t.Errorf("by name: %+v", r)
	}
	if st, err := os.Stat(taken[1]); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the key: %v, %v", st, err)
	}
	if r := one(Renewal{Names: []string{"people/carol"}}, "people/carol"); r.Change != Failed {
		t.Errorf("one that is not there: %+v", r)
	}
	// Another name in the file of a person is not renewed: who can write it could become somebody else.
	carol, _, err := f.Person("carol", month)
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(taken[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(f.Dir, carol.Name+".pem"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	if r := one(Renewal{All: true}, "people/carol"); r.Change != Failed {
		t.Errorf("with the certificate of bob: %+v", r)
	}
}
