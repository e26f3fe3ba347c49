package promcheck

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/promqltest"
)

// at is when the alerts are asked, after the first value of each series.
const at = 6 * time.Hour

// fires has for every alert series (a value each minute) on which its expression gives something after at, and such on which
// it does not. A real time is Unix time at the first value: 0.
var fires = map[string]struct{ on, not string }{
	"StagecoachScrapeDown":    {`up{job="stagecoach",instance="a"} 0x400`, `up{job="stagecoach",instance="a"} 1x400` + "\n" + `up{job="other"} 0x400`},
	"StagecoachIntakeStopped": {`stagecoach_shard_accepting{shard="a"} 0x400`, `stagecoach_shard_accepting{shard="a"} 1x400`},
	"StagecoachNATSGone":      {`stagecoach_nats_connected 0x400`, `stagecoach_nats_connected 1x400`},
	"StagecoachMailWaits":     {`stagecoach_waiting_oldest_seconds{room="park"} 901x400`, `stagecoach_waiting_oldest_seconds{room="park"} 899x400` + "\n" + `stagecoach_waiting_oldest_seconds{room="dead"} 9e9x400`},
	"StagecoachMailIsRetried": {`stagecoach_waiting_oldest_seconds{room="retry"} 901x400` + "\n" + `stagecoach_waiting_messages{room="retry"} 10x400`,
		`stagecoach_waiting_oldest_seconds{room="retry"} 901x400` + "\n" + `stagecoach_waiting_messages{room="retry"} 9x400`},
	"StagecoachMailIsRetriedForLong": {`stagecoach_waiting_oldest_seconds{room="retry"} 14401x400`, `stagecoach_waiting_oldest_seconds{room="retry"} 14399x400`},
	"StagecoachRouteDown":            {`stagecoach_down{kind="route",name="r"} 1x400`, `stagecoach_down{kind="hop",name="r"} 1x400`},
	"StagecoachStageDown":            {`stagecoach_down{kind="hop",name="s"} 1x400`, `stagecoach_down{kind="route",name="s"} 1x400`},
	"StagecoachStageFails": {`stagecoach_hop_reports_total{stage="s",outcome="failed"} 0+6x400` + "\n" + `stagecoach_hop_reports_total{stage="s",outcome="continue"} 0+94x400`,
		`stagecoach_hop_reports_total{stage="s",outcome="failed"} 0+4x400` + "\n" + `stagecoach_hop_reports_total{stage="s",outcome="continue"} 0+96x400`},
	"StagecoachStageSlow": {`stagecoach_hop_seconds_bucket{stage="s",le="10"} 0+9x400` + "\n" + `stagecoach_hop_seconds_bucket{stage="s",le="60"} 0+10x400` + "\n" + `stagecoach_hop_seconds_bucket{stage="s",le="+Inf"} 0+10x400`,
		`stagecoach_hop_seconds_bucket{stage="s",le="10"} 0+10x400` + "\n" + `stagecoach_hop_seconds_bucket{stage="s",le="60"} 0+10x400` + "\n" + `stagecoach_hop_seconds_bucket{stage="s",le="+Inf"} 0+10x400`},
	"StagecoachRoutePaused":     {`stagecoach_route_paused{route="r"} 1x400`, `stagecoach_route_paused{route="r"} 0x400`},
	"StagecoachLogFills":        {`stagecoach_shard_filled_ratio{shard="a"} 0.71x400`, `stagecoach_shard_filled_ratio{shard="a"} 0.69x400`},
	"StagecoachDiskFills":       {`stagecoach_disk_free_bytes 1.9e9x400`, `stagecoach_disk_free_bytes 2.1e9x400`},
	"StagecoachCertificateEnds": {`stagecoach_service_certificate_expiry_timestamp_seconds 1.2e6x400`, `stagecoach_certificate_expiry_timestamp_seconds 1.3e6x400`},
	"StagecoachQuarantineGrows": {`stagecoach_waiting_messages{room="quarantine"} 0+0.1x400`, `stagecoach_waiting_messages{room="quarantine"} 50+0.01x400`},
	"StagecoachDeadMail":        {`stagecoach_waiting_messages{room="dead"} 1x400`, `stagecoach_waiting_messages{room="dead"} 0x400`},
	"StagecoachRevisionDiffers": {`stagecoach_config_info{service="a",revision="x"} 1x400` + "\n" + `stagecoach_config_info{service="b",revision="y"} 1x400`,
		`stagecoach_config_info{service="a",revision="x"} 1x400` + "\n" + `stagecoach_config_info{service="b",revision="x"} 1x400`},
	"StagecoachLoginsAreGuessed": {`stagecoach_smtp_login_failures_total{listener="l"} 0+11x400`, `stagecoach_smtp_login_failures_total{listener="l"} 0+9x400`},
	"StagecoachDeliverySlow": {`stagecoach_delivery_seconds_bucket{le="60"} 0+9x400` + "\n" + `stagecoach_delivery_seconds_bucket{le="300"} 0+10x400` + "\n" + `stagecoach_delivery_seconds_bucket{le="+Inf"} 0+10x400`,
		`stagecoach_delivery_seconds_bucket{le="60"} 0+10x400` + "\n" + `stagecoach_delivery_seconds_bucket{le="300"} 0+10x400` + "\n" + `stagecoach_delivery_seconds_bucket{le="+Inf"} 0+10x400`},
	"StagecoachRestarts": {`process_start_time_seconds{job="stagecoach"} 0+1x400`, `process_start_time_seconds{job="stagecoach"} 7x400`},
}

func TestWhatAlertsFireOn(t *testing.T) {
	engine := promqltest.NewTestEngineWithOpts(t, promql.EngineOpts{MaxSamples: 100000, Timeout: 10 * time.Second})
	asked := func(series, expr string) int {
		storage := promqltest.LoadedStorage(t, "load 1m\n  "+indent(series))
		defer storage.Close()
		q, err := engine.NewInstantQuery(context.Background(), storage, nil, expr, time.Unix(0, 0).Add(at))
		if err != nil {
			t.Fatal(err)
		}
		defer q.Close()
		v, err := q.Exec(context.Background()).Vector()
		if err != nil {
			t.Fatal(expr, err)
		}
		return len(v)
	}
	left := map[string]bool{}
	for name := range fires {
		left[name] = true
	}
	for _, g := range groups(t).Groups {
		for _, r := range g.Rules {
			f, ok := fires[r.Alert]
			if !ok {
				t.Errorf("%s is not tried", r.Alert)
				continue
			}
			delete(left, r.Alert)
			if asked(f.on, r.Expr) == 0 {
				t.Errorf("%s does not fire on %s", r.Alert, f.on)
			}
			if asked(f.not, r.Expr) != 0 {
				t.Errorf("%s fires on %s", r.Alert, f.not)
			}
		}
	}
	for name := range left {
		t.Errorf("there is no %s", name)
	}
}

func indent(series string) string { return strings.ReplaceAll(series, "\n", "\n  ") }
