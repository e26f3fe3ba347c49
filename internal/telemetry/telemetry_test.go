package telemetry

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var quiet = slog.New(slog.DiscardHandler)

func open(t *testing.T, o Options) *Telemetry {
	t.Helper()
	o.Logger = quiet
	if o.Getenv == nil {
		o.Getenv = func(string) string { return "" }
	}
	x, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := x.Close(); err != nil {
			t.Error(err)
		}
	})
	return x
}

func get(t *testing.T, x *Telemetry, path string) (int, string) {
	t.Helper()
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := c.Get("http://" + x.Addr() + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestMetricsAreServed(t *testing.T) {
	t.Parallel()
	x := open(t, Options{Metrics: "127.0.0.1:0", Service: "egress", Version: "1.2.3"})
	x.SetRevision("first")
	x.SetRevision("second")
	code, body := get(t, x, "/metrics")
	if code != 200 {
		t.Fatal(code)
	}
	for _, want := range []string{`stagecoach_build_info{go="go`, `service="egress",version="1.2.3"} 1`, `stagecoach_config_info{revision="second",service="egress"} 1`, "go_goroutines ", "process_open_fds "} {
		if !strings.Contains(body, want) {
			t.Errorf("no %s in\n%s", want, body)
		}
	}
	if strings.Contains(body, "first") {
		t.Error("the former revision is still shown")
	}
	if code, _ := get(t, x, "/"); code != 404 {
		t.Error(code)
	}
	resp, err := http.Post("http://"+x.Addr()+"/metrics", "text/plain", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	if resp.StatusCode != 405 {
		t.Error("POST:", resp.StatusCode)
	}
}

func TestHealth(t *testing.T) {
	t.Parallel()
	x := open(t, Options{Metrics: "127.0.0.1:0"})
	if code, body := get(t, x, "/healthz"); code != 200 || body != "ok\n" {
		t.Error(code, body)
	}
	x.SetHealth(func() error { return errors.New("no log") })
	if code, body := get(t, x, "/healthz"); code != 503 || body != "no log\n" {
		t.Error(code, body)
	}
}

func TestAddress(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	env := func(v string) func(string) string {
		return func(name string) string {
			if name != "STAGECOACH_METRICS" {
				t.Error(name)
			}
			return v
		}
	}
	_, err = Open(Options{Metrics: taken.Addr().String(), Logger: quiet, Getenv: env("")})
	if err == nil || !strings.Contains(err.Error(), "telemetry.metrics") || !strings.Contains(err.Error(), "STAGECOACH_METRICS") {
		t.Error("a port that is taken:", err)
	}
	if x := open(t, Options{Metrics: taken.Addr().String(), Getenv: env("off")}); x.Addr() != "" {
		t.Error("off, and yet at", x.Addr())
	}
	if x := open(t, Options{Metrics: taken.Addr().String(), Getenv: env("127.0.0.1:0")}); x.Addr() == "" || x.Addr() == taken.Addr().String() {
		t.Error("at", x.Addr())
	}
	if x := open(t, Options{}); x.Addr() != "" {
		t.Error("at", x.Addr())
	}
}

func TestNilIsOff(t *testing.T) {
	t.Parallel()
	var x *Telemetry
	x.SetRevision("r")
	x.SetHealth(nil)
	if x.Tracer().On() || x.Addr() != "" || x.Close() != nil {
		t.Error("not off")
	}
	Counters(x.Registerer(), "a_total", "A.", "l").WithLabelValues("v").Inc()
	ctx, span := x.Tracer().Start(t.Context(), "s")
	span.Set()
	span.Fail("")
	span.End()
	if ctx != t.Context() || span != nil || x.Tracer().DialOptions() != nil || x.Tracer().ServerOptions() != nil {
		t.Error("not off")
	}
}

func TestRegisterAgain(t *testing.T) {
	t.Parallel()
	r := prometheus.NewRegistry()
	Counters(r, "a_total", "A.", "l").WithLabelValues("v").Inc()
	again := Counters(r, "a_total", "A.", "l").WithLabelValues("v")
	again.Inc()
	if Count(again) != 2 {
		t.Error(Count(again))
	}
	Counters(nil, "a_total", "A.", "l").WithLabelValues("v").Inc()
	defer func() {
		if recover() == nil {
			t.Error("two metrics of one name")
		}
	}()
	Histograms(r, "a_total", "A.", Seconds, "l")
}

func TestLatency(t *testing.T) {
	t.Parallel()
	h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "h", Buckets: []float64{0.01, 1}})
	for _, v := range []float64{0.005, 0.5, 0.5, 7} {
		h.Observe(v)
	}
	count, total, buckets := Latency(h)
	want := []Bucket{{10 * time.Millisecond, 1}, {time.Second, 2}, {0, 1}}
	if count != 4 || total.Round(time.Microsecond) != 8005*time.Millisecond || len(buckets) != 3 || buckets[0] != want[0] || buckets[1] != want[1] || buckets[2] != want[2] {
		t.Error(count, total, buckets)
	}
}
