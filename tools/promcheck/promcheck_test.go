package promcheck

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
	"go.yaml.in/yaml/v3"
)

const folder = "../../deploy/observability/"

// metric is one of docs/metrics.md.
type metric struct {
	kind   string
	labels []string
}

var row = regexp.MustCompile("(?m)^\\| `(stagecoach_\\w+)` \\| (\\w+) \\| ([^|]*)\\|")

// documented are the metrics that there are, as they are asked for: a histogram by its parts.
func documented(t *testing.T) map[string]metric {
	t.Helper()
	text, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	// What Prometheus, and every Go program, has by itself.
	all := map[string]metric{"up": {}, "process_start_time_seconds": {}, "process_cpu_seconds_total": {}, "process_resident_memory_bytes": {}}
	for _, m := range row.FindAllStringSubmatch(string(text), -1) {
		labels := strings.Fields(strings.ReplaceAll(m[3], "`", ""))
		if m[2] != "histogram" {
			all[m[1]] = metric{m[2], labels}
			continue
		}
		for _, part := range []string{"_sum", "_count"} {
			all[m[1]+part] = metric{m[2], labels}
		}
		all[m[1]+"_bucket"] = metric{m[2], append(labels, "le")}
	}
	if len(all) < 40 {
		t.Fatalf("only %d metrics were found", len(all))
	}
	return all
}

// known says what is wrong with an expression: a metric that there is not, or a label that none of its metrics has.
func known(t *testing.T, all map[string]metric, where, expr string) (metrics int) {
	t.Helper()
	e, err := parser.ParseExpr(expr)
	if err != nil {
		t.Errorf("%s: %s: %v", where, expr, err)
		return 0
	}
	labels := []string{"job", "instance"}
	parser.Inspect(e, func(n parser.Node, _ []parser.Node) error {
		v, ok := n.(*parser.VectorSelector)
		if !ok {
			return nil
		}
		metrics++
		m, ok := all[v.Name]
		if !ok {
			t.Errorf("%s: there is no metric %q: %s", where, v.Name, expr)
		}
		labels = append(labels, m.labels...)
		for _, l := range v.LabelMatchers {
			if l.Name != "__name__" && l.Name != "job" && !slices.Contains(m.labels, l.Name) {
				t.Errorf("%s: %s has no label %q: %s", where, v.Name, l.Name, expr)
			}
		}
		return nil
	})
	parser.Inspect(e, func(n parser.Node, _ []parser.Node) error {
		a, ok := n.(*parser.AggregateExpr)
		if !ok {
			return nil
		}
		for _, l := range a.Grouping {
			if !slices.Contains(labels, l) {
				t.Errorf("%s: no metric there has the label %q: %s", where, l, expr)
			}
		}
		return nil
	})
	return metrics
}

func groups(t *testing.T) *rulefmt.RuleGroups {
	t.Helper()
	g, errs := rulefmt.ParseFile(folder+"alerts.yml", false, model.UTF8Validation)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	return g
}

var variable = regexp.MustCompile(`\{\{ ?\$labels\.(\w+)`)

func TestAlerts(t *testing.T) {
	all := documented(t)
	n := 0
	for _, g := range groups(t).Groups {
		for _, r := range g.Rules {
			n++
			if known(t, all, r.Alert, r.Expr) == 0 {
				t.Errorf("%s looks at nothing", r.Alert)
			}
			if s := r.Labels["severity"]; s != "critical" && s != "warning" {
				t.Errorf("%s: severity %q", r.Alert, s)
			}
			if r.Annotations["summary"] == "" {
				t.Errorf("%s has no summary", r.Alert)
			}
			for _, text := range r.Annotations {
				for _, v := range variable.FindAllStringSubmatch(text, -1) {
					if !strings.Contains(r.Expr, v[1]) && v[1] != "instance" && v[1] != "shard" {
						t.Errorf("%s: its text has the label %q, which its expression does not give", r.Alert, v[1])
					}
				}
			}
		}
	}
	if n < 12 {
		t.Errorf("only %d alerts", n)
	}
}

func TestDashboard(t *testing.T) {
	text, err := os.ReadFile(folder + "dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		Title  string
		Panels []struct {
			ID      int
			Title   string
			GridPos struct{ H, W, X, Y int }
			Targets []struct{ Expr, LegendFormat string }
		}
	}
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	all, seen, n := documented(t), map[int]bool{}, 0
	for _, p := range d.Panels {
		if seen[p.ID] || p.GridPos.X+p.GridPos.W > 24 || p.Title == "" {
			t.Errorf("panel %d %q: its number, place or title", p.ID, p.Title)
		}
		seen[p.ID] = true
		for _, q := range p.Targets {
			n++
			expr := strings.ReplaceAll(q.Expr, "$__rate_interval", "5m")
			if known(t, all, p.Title, expr) == 0 {
				t.Errorf("%s looks at nothing", p.Title)
			}
			for _, l := range regexp.MustCompile(`\{\{(\w+)\}\}`).FindAllStringSubmatch(q.LegendFormat, -1) {
				if l[1] != "instance" && !strings.Contains(q.Expr, l[1]) {
					t.Errorf("%s: its legend has the label %q, which %s does not give", p.Title, l[1], q.Expr)
				}
			}
		}
	}
	if n < 30 {
		t.Errorf("only %d queries", n)
	}
}

func TestScrapeConfiguration(t *testing.T) {
	text, err := os.ReadFile(folder + "prometheus.yml")
	if err != nil {
		t.Fatal(err)
	}
	var c struct {
		RuleFiles     []string `yaml:"rule_files"`
		ScrapeConfigs []struct {
			JobName string `yaml:"job_name"`
		} `yaml:"scrape_configs"`
	}
	if err := yaml.Unmarshal(text, &c); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(c.RuleFiles, []string{"alerts.yml"}) || len(c.ScrapeConfigs) == 0 {
		t.Error(c)
	}
	for _, s := range c.ScrapeConfigs {
		if !strings.HasPrefix(s.JobName, "stagecoach") {
			t.Errorf("the alerts do not know the job %s", s.JobName)
		}
	}
}
