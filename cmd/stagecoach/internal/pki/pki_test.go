package pki

import (
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestInit(t *testing.T) {
	c := &clock{time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)}
	f := Folder{Dir: filepath.Join(t.TempDir(), "a", "pki"), KeyDir: filepath.Join(t.TempDir(), "ca"), Now: c.now}
	results, err := f.Init([]Service{{Name: "ingress"}, {Name: "tagger", Also: []string{"tagger.example"}}})
	if err != nil || len(results) != 3 || results[0].Name != "ca" {
		t.Fatal(results, err)
	}
	for _, dir := range []string{f.Dir, f.KeyDir} {
		if st, err := os.Stat(dir); err != nil || st.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v %v", dir, st.Mode(), err)
		}
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
			if st, err := e.Info(); err != nil || st.Mode() != 0o600 {
				t.Errorf("%s: %v %v", e.Name(), st.Mode(), err)
			}
		}
		want := []string{"ca.pem", "ingress-key.pem", "ingress.pem", "tagger-key.pem", "tagger.pem"}
		if dir == f.KeyDir {
			want = []string{"ca-key.pem"}
		}
		if !slices.Equal(names, want) {
			t.Errorf("%s has %v", dir, names)
		}
	}
	ca := leafOf(t, f, "ca")
	if !ca.IsCA || !ca.MaxPathLenZero || !ca.NotBefore.Equal(c.at.Add(-time.Hour)) || !ca.NotAfter.Equal(c.at.AddDate(10, 0, 0)) {
		t.Errorf("the CA: %+v", ca)
	}
	leaf := leafOf(t, f, "tagger")
	if leaf.IsCA || !slices.Equal(leaf.DNSNames, []string{"tagger", "tagger.example"}) || !leaf.NotBefore.Equal(c.at.Add(-time.Hour)) || !leaf.NotAfter.Equal(c.at.Add(Valid)) ||
		!slices.Equal(leaf.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}) {
		t.Errorf("tagger: %+v", leaf)
	}
	if key, ok := leaf.PublicKey.(*ecdsa.PublicKey); !ok || key.Params().Name != "P-256" {
		t.Errorf("its key: %v", leaf.PublicKey)
	}
	if n := leaf.SerialNumber.BitLen(); n < 100 || n > 128 {
		t.Errorf("its serial number has %d bits", n)
	}
	if chain, err := readCertificates(filepath.Join(f.Dir, "tagger.pem")); err != nil || len(chain) != 2 || !chain[1].Equal(ca) {
		t.Errorf("its chain: %d %v", len(chain), err)
	}
}

// Whichever file is there, nothing is overwritten and nothing is made.
func TestInitOverwritesNothing(t *testing.T) {
	for _, there := range []string{"ca.pem", "ca-key.pem", "ingress.pem", "ingress-key.pem"} {
		dir := t.TempDir()
		f := Folder{Dir: dir, Now: time.Now}
		put(t, filepath.Join(dir, there), []byte("mine"))
		_, err := f.Init([]Service{{Name: "ingress"}, {Name: "egress"}})
		if !errors.Is(err, fs.ErrExist) || !strings.Contains(err.Error(), there) {
			t.Errorf("%s: %v", there, err)
		}
		entries, readErr := os.ReadDir(dir)
		if readErr != nil || len(entries) != 1 || content(t, filepath.Join(dir, there)) != "mine" {
			t.Errorf("%s: %v, %v", there, entries, readErr)
		}
	}
}

func TestNames(t *testing.T) {
	for _, n := range []string{"ingress", "a", "my-stage2", "My_stage.v2"} {
		if err := CheckName(n); err != nil {
			t.Error(err)
		}
	}
	for _, n := range []string{"", "ca", "CA", "ca-key", "x-key", "../x", "a/b", ".x", "-x", "x\n", "*", strings.Repeat("a", 64)} {
		if err := CheckName(n); err == nil {
			t.Errorf("%q is taken", n)
		}
		if _, err := (Folder{Dir: t.TempDir(), Now: time.Now}).Init([]Service{{Name: n}}); err == nil {
			t.Errorf("init takes %q", n)
		}
	}
	f, _ := folder(t)
	if _, _, err := f.Renew(Renewal{Names: []string{"../x"}}); err == nil {
		t.Error("renew takes ../x")
	}
}

// What a CA is not fit for is said before anything is written.
func TestBrokenCA(t *testing.T) {
	for name, c := range map[string]struct {
		breaks func(t *testing.T, f Folder, c *clock)
		says   string
	}{
		"no certificate": {func(t *testing.T, f Folder, _ *clock) { remove(t, f.CAFile()) }, "no such file"},
		"no key":         {func(t *testing.T, f Folder, _ *clock) { remove(t, f.CAKeyFile()) }, "--ca-dir"},
		"garbage":        {func(t *testing.T, f Folder, _ *clock) { put(t, f.CAFile(), []byte("garbage")) }, "no certificate in PEM"},
		"garbage as key": {func(t *testing.T, f Folder, _ *clock) { put(t, f.CAKeyFile(), []byte("garbage")) }, "no private key in PEM"},
		"the wrong key": {func(t *testing.T, f Folder, _ *clock) {
			o, _ := folder(t)
			put(t, f.CAKeyFile(), []byte(content(t, o.CAKeyFile())))
		}, "is not the key of"},
		"a plain leaf": {func(t *testing.T, f Folder, _ *clock) {
			cert, key := f.files("ingress")
			put(t, f.CAFile(), []byte(content(t, cert)[:strings.Index(content(t, cert), "-----END")]+"-----END CERTIFICATE-----\n"))
			put(t, f.CAKeyFile(), []byte(content(t, key)))
		}, "it is no CA"},
		"no basic constraints": {func(t *testing.T, f Folder, c *clock) {
			key, encoded, err := newKey()
			if err != nil {
				t.Fatal(err)
			}
			tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: c.at.Add(-time.Hour), NotAfter: c.at.Add(month)}
			cert, err := create(tmpl, tmpl, key.Public(), key)
			if err != nil {
				t.Fatal(err)
			}
			put(t, f.CAFile(), encodeCertificate(cert))
			put(t, f.CAKeyFile(), encoded)
		}, "it is no CA"},
		"ended":         {func(_ *testing.T, _ Folder, c *clock) { c.at = c.at.AddDate(11, 0, 0) }, "ended on"},
		"not yet begun": {func(_ *testing.T, _ Folder, c *clock) { c.at = c.at.Add(-2 * time.Hour) }, "clock"},
		"no folder": {func(t *testing.T, f Folder, _ *clock) {
			if err := os.RemoveAll(f.Dir); err != nil {
				t.Fatal(err)
			}
		}, "--dir"},
	} {
		t.Run(name, func(t *testing.T) {
			f, clk := folder(t, "ingress")
			cert, _ := f.files("ingress")
			before := content(t, cert)
			c.breaks(t, f, clk)
			if _, _, err := f.Renew(Renewal{All: true}); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("it says %v, not %q", err, c.says)
			}
			if name != "no folder" && content(t, cert) != before {
				t.Error("something was written")
			}
		})
	}
}

func remove(t *testing.T, file string) {
	t.Helper()
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
}
