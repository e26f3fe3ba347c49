package admin

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	"github.com/stagecoachmail/stagecoach/services/admin/internal/fleet"
)

const queuePath = "/stagecoach.admin.v1.QueueService/"

// Methods are called with JSON, over HTTP/2 and HTTP/1.1, with a token or a certificate.
func TestJSON(t *testing.T) {
	t.Parallel()
	d := open(t)
	old := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{TLSClientConfig: d.tls(), TLSNextProto: nil}}
	old.Transport.(*http.Transport).Protocols = new(http.Protocols)
	old.Transport.(*http.Transport).Protocols.SetHTTP1(true)
	for what, c := range map[string]*http.Client{"HTTP/2.0": d.browser(), "HTTP/1.1": old} {
		resp, body := d.ask(t, c, http.MethodPost, queuePath+"ListMessages", `{"pageSize": 5}`, nil)
		if resp.StatusCode != http.StatusOK || body != `{"nextPageToken":"alice"}`+"\n" || resp.Header.Get("Content-Type") != "application/json" || resp.Proto != what ||
			resp.Header.Get(fleet.Missing) != "ingress@192.0.2.9: does not answer" {
			t.Errorf("%s: %s %s %q", what, resp.Proto, resp.Status, body)
		}
		resp, body = d.ask(t, c, http.MethodPost, queuePath+"GetContent", `{"id":"x"}`, nil)
		if resp.StatusCode != http.StatusOK || body != `{"chunk":"YWxpY2U="}`+"\n"+`{"chunk":"bW9yZQ=="}`+"\n" || resp.Header.Get("Content-Type") != "application/x-ndjson" {
			t.Errorf("%s, a stream: %s %q", what, resp.Status, body)
		}
		resp, body = d.ask(t, c, http.MethodPost, queuePath+"GetContent", `{"id":"broken"}`, nil)
		if want := `{"chunk":"YWxpY2U="}` + "\n" + `{"error":{"code":"DATA_LOSS","message":"the rest is gone"}}` + "\n"; body != want {
			t.Errorf("%s, a stream that breaks: %s %q", what, resp.Status, body)
		}
	}
	resp, body := d.ask(t, d.browser(d.ca.person(t, "olga")), http.MethodPost, queuePath+"ListMessages", "", map[string]string{"Authorization": ""})
	if resp.StatusCode != http.StatusOK || !strings.Contains(body, "olga") {
		t.Errorf("with a certificate: %s %q", resp.Status, body)
	}
}

// Errors have the fitting status, a code and a text.
func TestJSONErrors(t *testing.T) {
	t.Parallel()
	d := open(t)
	c := d.browser()
	for _, q := range []struct {
		what, method, path, body string
		header                   map[string]string
		status                   int
		code, text               string
	}{
		{"an error", "POST", queuePath + "DeleteMessages", `{"reason":"fails"}`, nil, 400, "FAILED_PRECONDITION", "it fails"},
		{"not found", "POST", "/stagecoach.admin.v1.UserService/SetPassword", `{}`, nil, 404, "NOT_FOUND", "no user"},
		{"no credentials", "POST", queuePath + "ListMessages", `{}`, map[string]string{"Authorization": ""}, 401, "UNAUTHENTICATED", "stagecoach pki person"},
		{"no credentials for the list", "GET", "/", "", map[string]string{"Authorization": ""}, 401, "UNAUTHENTICATED", ""},
		{"a wrong token", "POST", queuePath + "ListMessages", `{}`, map[string]string{"Authorization": "Bearer x"}, 401, "UNAUTHENTICATED", "token"},
		{"a viewer", "POST", queuePath + "DeleteMessages", `{}`, map[string]string{"Authorization": "Bearer t-victor"}, 403, "PERMISSION_DENIED", "needs the role operator"},
		{"a viewer's stream", "POST", queuePath + "GetContent", `{}`, map[string]string{"Authorization": "Bearer t-victor"}, 403, "PERMISSION_DENIED", "needs the role operator"},
		{"not served", "POST", "/stagecoach.admin.v1.RouteService/ListRoutes", `{}`, nil, 501, "UNIMPLEMENTED", ""},
		{"no such method", "POST", queuePath + "Unheard", `{}`, nil, 404, "UNIMPLEMENTED", "GET /"},
		{"another path", "GET", "/favicon.ico", "", nil, 404, "UNIMPLEMENTED", ""},
		{"GET", "GET", queuePath + "ListMessages", "", nil, 405, "UNIMPLEMENTED", "POST"},
		{"what a page of another site could send", "POST", queuePath + "DeleteMessages", `{}`, map[string]string{"Content-Type": "text/plain"}, 415, "INVALID_ARGUMENT", "application/json"},
		{"no type", "POST", queuePath + "DeleteMessages", `{}`, map[string]string{"Content-Type": ""}, 415, "INVALID_ARGUMENT", "application/json"},
		{"no JSON", "POST", queuePath + "ListMessages", `{"pageSize"`, nil, 400, "INVALID_ARGUMENT", "ListMessagesRequest"},
		{"an unknown field", "POST", queuePath + "ListMessages", `{"nonsense": 1}`, nil, 400, "INVALID_ARGUMENT", "nonsense"},
		{"two messages", "POST", queuePath + "ListMessages", `{}{}`, nil, 400, "INVALID_ARGUMENT", ""},
		{"too large", "POST", queuePath + "ListMessages", `{"pageToken":"` + strings.Repeat("x", maxBody) + `"}`, nil, 429, "RESOURCE_EXHAUSTED", "bytes at most"},
		{"a bad request id", "POST", queuePath + "DeleteMessages", `{}`, map[string]string{"Stagecoach-Request-Id": "a b"}, 400, "INVALID_ARGUMENT", "stagecoach-request-id"},
	} {
		resp, body := d.ask(t, c, q.method, q.path, q.body, q.header)
		var e struct{ Code, Message string }
		if err := json.Unmarshal([]byte(body), &e); err != nil || resp.StatusCode != q.status || e.Code != q.code || !strings.Contains(e.Message, q.text) || resp.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: %s %s %v", q.what, resp.Status, body, err)
		}
	}
	if n := d.owner.deleted.Load(); n != 1 {
		t.Errorf("%d deletions were carried out", n)
	}
}

// The list of methods says who may call them.
func TestJSONIndex(t *testing.T) {
	t.Parallel()
	d := open(t)
	resp, body := d.ask(t, d.browser(), http.MethodGet, "/", "", map[string]string{"Authorization": "Bearer t-victor", "Content-Type": ""})
	var doc struct {
		Methods []struct {
			Method, Role   string
			Stream, Upload bool
		}
	}
	if err := json.Unmarshal([]byte(body), &doc); err != nil || resp.StatusCode != http.StatusOK || len(doc.Methods) != len(methods) {
		t.Fatalf("%s %d %v", resp.Status, len(doc.Methods), err)
	}
	for _, m := range doc.Methods {
		if want := roleName(methods[m.Method].least); m.Role != want {
			t.Errorf("%s: %s", m.Method, m.Role)
		}
		if m.Method == adminv1.PreviewService_Preview_FullMethodName && (!m.Stream || !m.Upload) {
			t.Errorf("%+v", m)
		}
	}
}

// A tail gives each line when it happens, and ends when the caller goes, or the process.
func TestJSONTail(t *testing.T) {
	t.Parallel()
	d := open(t)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+d.server.Addr().String()+"/stagecoach.admin.v1.EventService/TailEvents", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer t-victor")
	go func() { d.owner.tail <- &adminv1.TailEventsResponse{Id: "one"} }()
	resp, err := d.browser().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	if !lines.Scan() || lines.Text() != `{"id":"one"}` {
		t.Fatalf("%q, %v", lines.Text(), lines.Err())
	}
	d.owner.tail <- &adminv1.TailEventsResponse{Id: "two"}
	if !lines.Scan() || lines.Text() != `{"id":"two"}` {
		t.Fatalf("%q, %v", lines.Text(), lines.Err())
	}
	d.server.stop() // as Run does it first
	if !lines.Scan() || lines.Text() != `{"error":{"code":"UNAVAILABLE","message":"this process stops"}}` {
		t.Errorf("at the stop: %q, %v", lines.Text(), lines.Err())
	}
}

// A request of many messages is lines too, and answers come before its end.
func TestJSONUpload(t *testing.T) {
	t.Parallel()
	d := open(t)
	for _, version := range []string{"HTTP/1.1", "HTTP/2.0"} {
		c := d.browser()
		if version == "HTTP/1.1" {
			c.Transport.(*http.Transport).ForceAttemptHTTP2 = false
			c.Transport.(*http.Transport).Protocols = new(http.Protocols)
			c.Transport.(*http.Transport).Protocols.SetHTTP1(true)
		}
		r, w := io.Pipe()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+d.server.Addr().String()+"/stagecoach.admin.v1.PreviewService/Preview", r)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Authorization", "Bearer t-olga")
		piece := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("x"), 1000))
		line := `{"chunk":"` + piece + `"}` + "\n"
		go func() { _, _ = io.WriteString(w, line) }()
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		in := bufio.NewReader(resp.Body)
		if got, err := in.ReadString('\n'); got != line || err != nil || resp.Proto != version {
			t.Fatalf("%s: %q, %v", resp.Proto, got, err)
		}
		go func() { _, _ = io.WriteString(w, line+strings.TrimSuffix(line, "\n")); _ = w.Close() }()
		rest, err := io.ReadAll(in)
		if string(rest) != line+line || err != nil {
			t.Errorf("%s: %q, %v", version, rest, err)
		}
		_ = resp.Body.Close()
	}
	_, body := d.ask(t, d.browser(), http.MethodPost, "/stagecoach.admin.v1.PreviewService/Preview", `{"chunk":"`+strings.Repeat("A", maxBody)+`"}`, nil)
	if !strings.Contains(body, "RESOURCE_EXHAUSTED") {
		t.Errorf("a line that is too long: %.200q", body)
	}
}
