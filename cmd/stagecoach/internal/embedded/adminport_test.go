package embedded

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stagecoachmail/stagecoach/cmd/stagecoach/internal/pki"
)

// Under `up` a person changes something through the port, and it is on record; the certificates are those of `pki`.
func TestAdminPort(t *testing.T) {
	f := pki.Folder{Dir: filepath.Join(t.TempDir(), "pki"), Now: time.Now}
	if _, err := f.Init([]pki.Service{{Name: "admin"}}); err != nil { // no identity ingress: nothing runs elsewhere
		t.Fatal(err)
	}
	_, files, err := f.Person("olga", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(files[0], files[1])
	if err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(f.CAFile())
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	in := startWith(t, everything+fmt.Sprintf("pki: {directory: %q}\nadmin: {address: \"127.0.0.1:0\", people: [{name: olga, role: admin}]}\n", f.Dir), slog.New(slog.DiscardHandler))
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{ForceAttemptHTTP2: true,
		TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "admin", Certificates: []tls.Certificate{pair}}}}
	defer client.CloseIdleConnections()
	call := func(method, body string) string {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+in.AdminAddr().String()+"/stagecoach.admin.v1."+method, bytes.NewReader([]byte(body)))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Stagecoach-Request-Id", "one")
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		data, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	if got := call("AccessService/GetAccess", ""); !strings.Contains(got, `"name":"olga","role":"ROLE_ADMIN","by":"certificate"`) {
		t.Error(got)
	}
	for range 2 {
		if got := call("RouteService/PauseRoute", `{"name":"provider","reason":"they are moving"}`); !strings.Contains(got, `"by":"olga"`) {
			t.Error(got)
		}
	}
	got := call("AccessService/ListAudit", `{"method":"PauseRoute"}`)
	if strings.Count(got, `"sequence"`) != 1 || !strings.Contains(got, `"code":"OK"`) || !strings.Contains(got, `"requestId":"one"`) || !strings.Contains(got, "they are moving") {
		t.Error(got)
	}
}
