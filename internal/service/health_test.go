package service

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestHealthFindsTheAddress(t *testing.T) {
	l := &layout{Stages: map[string]endpoint{"antivirus": {Address: "a:1"}, "second": {Type: "antivirus", Address: "a:1"},
		"de": {Type: "disclaimer", Address: "d:1"}, "en": {Type: "disclaimer", Address: "d:2"}, "archive": {}}}
	for name, want := range map[string]string{"antivirus": "a:1", "disclaimer": "several addresses (d:1, d:2)", "archive": "no address", "signer": "no address"} {
		got, err := l.address(name)
		if err != nil {
			got = err.Error()
		}
		if got != want && (err == nil || !strings.Contains(got, want)) {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

// Behind a name there may be other processes; a health check is about this one.
func TestOwnAddress(t *testing.T) {
	for address, want := range map[string]string{
		"antivirus:7001": "127.0.0.1:7001", ":7001": "127.0.0.1:7001", "localhost:7001": "127.0.0.1:7001", "0.0.0.0:7001": "127.0.0.1:7001", "[::]:7001": "127.0.0.1:7001",
		"192.0.2.1:7001": "192.0.2.1:7001", "[2001:db8::1]:7001": "[2001:db8::1]:7001", "unix:/run/x": "unix:/run/x",
	} {
		if got := ownAddress(address); got != want {
			t.Errorf("%s: %s, want %s", address, got, want)
		}
	}
}

// What has no gRPC, as the NATS server, is asked by HTTP: anything but 200 is no.
func TestHealthByHTTP(t *testing.T) {
	code := http.StatusOK
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }))
	defer s.Close()
	if err := AskHealth(t.Context(), HealthQuestion{Address: s.URL + "/healthz"}); err != nil {
		t.Error(err)
	}
	code = http.StatusServiceUnavailable
	if err := AskHealth(t.Context(), HealthQuestion{Address: s.URL + "/healthz"}); err == nil || !strings.Contains(err.Error(), "503") {
		t.Errorf("503: %v", err)
	}
}
