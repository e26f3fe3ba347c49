package pki

import (
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clock stands where the test puts it.
type clock struct{ at time.Time }

func (c *clock) now() time.Time { return c.at }

// folder makes a CA with identities for services, now.
func folder(t *testing.T, names ...string) (Folder, *clock) {
	t.Helper()
	c := &clock{time.Now()}
	f := Folder{Dir: filepath.Join(t.TempDir(), "pki"), KeyDir: filepath.Join(t.TempDir(), "ca"), Now: c.now}
	var services []Service
	for _, n := range names {
		services = append(services, Service{Name: n})
	}
	if _, err := f.Init(services); err != nil {
		t.Fatal(err)
	}
	return f, c
}

func put(t *testing.T, file string, data []byte) {
	t.Helper()
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func content(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func leafOf(t *testing.T, f Folder, name string) *x509.Certificate {
	t.Helper()
	cert, _ := f.files(name)
	certs, err := readCertificates(cert)
	if err != nil {
		t.Fatal(err)
	}
	return certs[0]
}

// renewed runs a renewal that works, and gives what became of each identity.
func renewed(t *testing.T, f Folder, r Renewal) map[string]Result {
	t.Helper()
	results, _, err := f.Renew(r)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]Result{}
	for _, r := range results {
		out[r.Name] = r
	}
	return out
}

const month = 30 * 24 * time.Hour
