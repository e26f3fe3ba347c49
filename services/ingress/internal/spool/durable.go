package spool

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// minPayload is the max_payload, in bytes, that the spool's largest records and their headers need.
const minPayload = 8_000_000

// jsz is what matters here of a server's JetStream report.
type jsz struct {
	Disabled bool `json:"disabled"`
	Config   struct {
		StoreDir   string `json:"store_dir"`
		SyncAlways bool   `json:"sync_always"`
	} `json:"config"`
}

// CheckDurable refuses a server whose acknowledgement does not mean stable storage: one without `sync_interval:
// always`, without JetStream, or with a max_payload under 8 MB. It asks the monitor at monitorURL, if given
// ("http://127.0.0.1:8222"), and else every server of the cluster by $SYS, which the connection's user must be
// allowed. A monitor speaks for its own server alone. assumed: the operator vouches for it; only max_payload is
// checked. A refusal wraps ErrNotDurable and says what to do.
func CheckDurable(ctx context.Context, conn *nats.Conn, monitorURL string, assumed bool) error {
	if n := conn.MaxPayload(); n < minPayload {
		return fmt.Errorf("%w: max_payload is %d bytes; set `max_payload: 8MB` in the NATS server's configuration", ErrNotDurable, n)
	}
	if assumed {
		return nil
	}
	if monitorURL != "" {
		return checkMonitor(ctx, monitorURL)
	}
	return checkSystem(ctx, conn)
}

func checkMonitor(ctx context.Context, monitorURL string) error {
	u, err := url.Parse(monitorURL)
	if err != nil || u.Host == "" {
		return fmt.Errorf("spool: the monitor %q is not an http address", monitorURL)
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.JoinPath("jsz").String(), nil)
	if err != nil {
		return fmt.Errorf("spool: monitor: %w", err)
	}
	// A client of its own: the default one keeps connections that nobody closes.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("spool: the NATS monitor does not answer: %w", err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, 8<<20))
	if err != nil {
		return fmt.Errorf("spool: the NATS monitor does not answer: %w", err)
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("spool: the NATS monitor answers %s", res.Status)
	}
	var z jsz
	if err := json.Unmarshal(data, &z); err != nil {
		return fmt.Errorf("spool: %s is no NATS monitor: %w", u.Redacted(), err)
	}
	return z.check(u.Redacted())
}

// checkSystem asks every server. How many there are nobody knows beforehand: answers are collected until none has
// come for half a second.
func checkSystem(ctx context.Context, conn *nats.Conn) error {
	inbox := conn.NewRespInbox()
	sub, err := conn.SubscribeSync(inbox)
	if err != nil {
		return fmt.Errorf("spool: asking the servers: %w", err)
	}
	defer func() { _ = sub.Unsubscribe() }() // it ends with the connection at the latest
	if err := conn.PublishRequest("$SYS.REQ.SERVER.PING.JSZ", inbox, nil); err != nil {
		return fmt.Errorf("spool: asking the servers: %w", err)
	}
	stores, wait := 0, 2*time.Second
	for {
		step, cancel := context.WithTimeout(ctx, wait)
		m, err := sub.NextMsgWithContext(step)
		cancel()
		if err != nil {
			if ctx.Err() != nil {
				return fmt.Errorf("spool: asking the servers: %w", ctx.Err())
			}
			break
		}
		wait = 500 * time.Millisecond
		if len(m.Data) == 0 {
			continue // nobody may answer
		}
		var answer struct {
			Server struct {
				Name string `json:"name"`
			} `json:"server"`
			Data  *jsz `json:"data"`
			Error *struct {
				Description string `json:"description"`
			} `json:"error"`
		}
		if err := json.Unmarshal(m.Data, &answer); err != nil {
			return fmt.Errorf("spool: the answer of a server: %w", err)
		}
		if answer.Error != nil || answer.Data == nil || answer.Data.Disabled {
			continue // a server without JetStream stores nothing
		}
		if err := answer.Data.check("server " + answer.Server.Name); err != nil {
			return err
		}
		stores++
	}
	if stores == 0 {
		return fmt.Errorf("%w: nothing shows that the server syncs before it acknowledges. Give `nats.monitor` the "+
			"http address of its monitor, or the user of the connection access to $SYS; or write `durability: assumed` "+
			"when you know that it runs with `sync_interval: always`", ErrNotDurable)
	}
	return nil
}

func (z *jsz) check(where string) error {
	switch {
	case z.Disabled || strings.TrimSpace(z.Config.StoreDir) == "":
		return fmt.Errorf("%w: %s has no JetStream store; configure `jetstream { store_dir: … }`", ErrNotDurable, where)
	case !z.Config.SyncAlways:
		return fmt.Errorf("%w: %s acknowledges before it syncs; set `sync_interval: always` in the `jetstream` block "+
			"of its configuration", ErrNotDurable, where)
	}
	return nil
}
