package pki

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A CA, and identities, that openssl made go on being used, whatever form its key has.
func TestOpenSSL(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("openssl is not installed")
	}
	for name, script := range map[string][]string{
		"EC, PKCS#8":  {"req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj /CN=Stagecoach -keyout ca-key.pem -out ca.pem"},
		"RSA, PKCS#8": {"req -x509 -newkey rsa:2048 -nodes -days 3650 -subj /CN=Stagecoach -keyout ca-key.pem -out ca.pem"},
		"EC, SEC 1": {"ecparam -name secp384r1 -genkey -out ca-key.pem",
			"req -x509 -key ca-key.pem -days 3650 -subj /CN=Stagecoach -out ca.pem"},
		"RSA, PKCS#1": {"genrsa -traditional -out ca-key.pem 2048", "req -x509 -key ca-key.pem -days 3650 -subj /CN=Stagecoach -out ca.pem"},
		"Ed25519":     {"genpkey -algorithm ed25519 -out ca-key.pem", "req -x509 -key ca-key.pem -days 3650 -subj /CN=Stagecoach -out ca.pem"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			put(t, filepath.Join(dir, "san"), []byte("subjectAltName=DNS:ingress"))
			for _, line := range append(script,
				"req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=ingress -keyout ingress-key.pem -out ingress.csr",
				"x509 -req -in ingress.csr -CA ca.pem -CAkey ca-key.pem -CAcreateserial -days 825 -extfile san -out ingress.pem") {
				cmd := exec.CommandContext(t.Context(), openssl, strings.Fields(line)...)
				cmd.Dir = dir
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Fatalf("openssl %s: %v\n%s", line, err, out)
				}
			}
			f := Folder{Dir: dir, Now: time.Now}
			list, err := f.List()
			if err != nil || len(list) != 2 || !list[0].FitsKey || !list[1].FitsKey || !list[1].OfCA || !list[1].Named || list[1].Problem != "" {
				t.Fatalf("%+v, %v", list, err)
			}
			if res := renewed(t, f, Renewal{Before: month}); res["ingress"].Change != Kept {
				t.Errorf("825 days: %v", res)
			}
			egress := renewed(t, f, Renewal{Names: []string{"egress"}})
			all := renewed(t, f, Renewal{All: true})
			if egress["egress"].Change != Made || all["ingress"].Change != Renewed || len(all) != 2 {
				t.Fatal(egress, all)
			}
			if _, err := call(t, open(t, f, "ingress"), serve(t, open(t, f, "egress"), "ingress"), "egress"); err != nil {
				t.Error(err)
			}
			// What this makes, openssl takes.
			cmd := exec.CommandContext(t.Context(), openssl, "verify", "-CAfile", "ca.pem", "-purpose", "sslserver", "ingress.pem")
			cmd.Dir = dir
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
	t.Run("encrypted", func(t *testing.T) {
		f, _ := folder(t)
		if out, err := exec.CommandContext(t.Context(), openssl, "pkey", "-in", f.CAKeyFile(), "-aes256", "-passout", "pass:x", "-out", f.CAKeyFile()+".new").CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		put(t, f.CAKeyFile(), []byte(content(t, f.CAKeyFile()+".new")))
		if _, _, err := f.Renew(Renewal{}); err == nil || !strings.Contains(err.Error(), "encrypted") {
			t.Error(err)
		}
	})
}
