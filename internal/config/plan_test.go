package config

import (
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// fullConfig is testdata/full.yaml with some texts replaced, as separate processes read it.
func fullConfig(t testing.TB, dir string, replace ...string) *Config {
	t.Helper()
	data, err := os.ReadFile("testdata/full.yaml")
	if err != nil {
		t.Fatal(err)
	}
	text := string(data)
	for i := 0; i < len(replace); i += 2 {
		if !strings.Contains(text, replace[i]) {
			t.Fatalf("%q does not stand in the file", replace[i])
		}
		text = strings.Replace(text, replace[i], replace[i+1], 1)
	}
	c, err := options().Parse("full.yaml", dir, []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func planText(items []PlanItem) string {
	var b strings.Builder
	for _, i := range items {
		fmt.Fprintf(&b, "%s %s %s: %q -> %q", i.Kind, i.Name, i.Action, i.From, i.To)
		if i.Restart != "" {
			fmt.Fprintf(&b, " restart %s", i.Restart)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func TestPlan(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	for _, c := range []struct {
		replace []string
		want    string
	}{
		{[]string{"  # a stage in another", "\n  # x\n  # a stage in another", `[PLAIN, login]`, `["PLAIN", LOGIN]`, "networks: [10.0.0.10/32]", "networks: 10.0.0.10/32"},
			"route provider changed: \"smarthost smtp.provider.example:587, tls required, login u, password in DIR/secrets/smarthost, mechanisms PLAIN LOGIN, server_name smtp.provider.example\" -> \"written differently: smarthost smtp.provider.example:587, tls required, login u, password in DIR/secrets/smarthost, mechanisms PLAIN LOGIN, server_name smtp.provider.example\"\n"},
		{[]string{"[submission, submissions], auth", "[submissions, submission], auth"}, ""},
		{[]string{`{name: mx,          address: ":25",  tls: starttls}`, `{name: in, address: ":2525"}`}, `listener mx removed: ":25, tls starttls" -> ""` + "\n" + `listener in added: "" -> ":2525, tls starttls"` + "\n"},
		{[]string{`":465", tls: implicit, auth: required`, `":465", tls: starttls`}, `listener submissions changed: ":465, tls implicit, auth required" -> ":465, tls starttls"` + "\n"},
		{[]string{"{name: example.com, recipients: {file: recipients.txt}}", "{name: example.com, recipients: any}\n  - {name: example.org, recipients: any}"},
			`domain example.com changed: "recipients in DIR/recipients.txt" -> "recipients: any"` + "\n" + `domain example.org added: "" -> "recipients: any"` + "\n"},
		{[]string{"  - {name: staff, listeners", "  - {name: guests, grants: true}\n  - {name: staff, listeners"}, `relay guests added: "" -> "grants"` + "\n"},
		{[]string{"  - {name: mailserver, networks: [10.0.0.10/32], senders: [\"*@example.com\"]}\n", "", "auth: required}\nstages", "auth: required}\n  - {name: mailserver, networks: [10.0.0.10/32]}\nstages"},
			`relay mailserver changed: "networks 10.0.0.10/32, senders *@example.com" -> "networks 10.0.0.10/32"` + "\n" + `relay staff moved: "after mailserver" -> "first"` + "\n"},
		{[]string{`"antivirus:7001", timeout: 60s`, `"antivirus:7002", timeout: 30s`},
			`stage antivirus changed: "type antivirus, address antivirus:7001, timeout 1m0s, traits [reads_body], config HASH" -> "type antivirus, address antivirus:7002, timeout 30s, traits [reads_body], config HASH" restart antivirus` + "\n"},
		{[]string{"tcp://clamav:3310", "tcp://clamav:3311"}, `stage antivirus changed: "type antivirus, address antivirus:7001, timeout 1m0s, traits [reads_body], config HASH" -> "type antivirus, address antivirus:7001, timeout 1m0s, traits [reads_body], config HASH"` + "\n"},
		{[]string{"stages: [antivirus, {use: footer-de, on_error: skip}, archive, signer]\n    deliver: provider", "stages: [antivirus, archive, footer-de, signer]\n    deliver: internet"},
			`chain outbound changed: "stage footer-de (on_error: skip)" -> "stage footer-de (plain)"` + "\n" + `chain outbound changed: "stage archive after footer-de" -> "stage archive after antivirus"` + "\n" + `chain outbound changed: "deliver: provider" -> "deliver: internet"` + "\n"},
		{[]string{"stages: [antivirus, {use: footer-de, on_error: skip}, archive, signer]", "stages: [tagger, archive, signer]"},
			`chain outbound changed: "stage antivirus, first" -> "stage tagger, first"` + "\n" + `chain outbound changed: "stage footer-de (on_error: skip), after antivirus" -> ""` + "\n"},
		{[]string{"match: {direction: outbound}", "match: {direction: outbound, recipients: [b@x.example, a@x.example]}"},
			`chain outbound changed: "match: direction outbound" -> "match: direction outbound; recipients a@x.example, b@x.example"` + "\n"},
		{[]string{"  - name: internal", "  - {name: more, match: {direction: internal, senders: \"*@x.example\"}, stages: [{use: archive, on_error: quarantine}], deliver: outbox}\n  - name: internal"},
			`chain more added: "" -> "match: direction internal; senders *@x.example; stages: archive (on_error: quarantine); deliver: outbox"` + "\n"},
		{[]string{"data_dir: data", "data_dir: other", "message_size: 50MB", "message_size: 40MB", "replicas: 1", "replicas: 3", "egress: {address: \"egress:7001\"}", "egress: {address: \"egress:7002\"}"},
			`data_dir  changed: "DIR/data" -> "DIR/other" restart every service` + "\n" + `temp_dir  changed: "DIR/data/tmp" -> "DIR/other/tmp" restart egress and the stages` + "\n" + `nats.replicas  changed: "1" -> "3" restart ingress` + "\n" +
				`ingress.limits.message_size  changed: "50MB" -> "40MB"` + "\n" + `egress.address  changed: "egress:7001" -> "egress:7002" restart egress` + "\n"},
		{[]string{"9f86d081884c7d65", "0f86d081884c7d65", "role: admin}", "role: operator}"}, `admin.people alice changed: "admin" -> "operator"` + "\n" + `admin.people monitoring changed: "viewer, with a token" -> "another token: viewer, with a token"` + "\n"},
	} {
		got := planText(Plan(fullConfig(t, dir), fullConfig(t, dir, c.replace...)))
		got = strings.ReplaceAll(got, dir, "DIR")
		for from := 0; ; {
			i := strings.Index(got[from:], "config ")
			if i < 0 {
				break
			}
			from += i + len("config ")
			got = got[:from] + "HASH" + got[from+12:]
		}
		if got != c.want {
			t.Errorf("%q:\n%snot\n%s", c.replace, got, c.want)
		}
	}
}

// The order of the chains, and of the stages in one, is told with as few moves as can be.
func TestPlanMoves(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ old, now, want string }{
		{"a b c d", "a b c d", ""},
		{"a b c d", "d a b c", "d: after c -> first"},
		{"a b c d", "b c a d", "a: first -> after c"},
		{"a b c d", "b new c a", "a: first -> after c"},
		{"a x b", "b a", "b: after a -> first"},
		{"a b c d e", "e d c b a", "e: after d -> first|d: after c -> after e|c: after b -> after d|b: after a -> after c"},
	} {
		var got []string
		new(planner).moves(strings.Fields(c.old), strings.Fields(c.now), func(name, from, to string) {
			got = append(got, name+": "+from+" -> "+to)
		})
		if strings.Join(got, "|") != c.want {
			t.Errorf("%s -> %s: %v, not %s", c.old, c.now, got, c.want)
		}
	}
}

// Under `up` it is the one process that is started again, for what concerns it.
func TestPlanUnderUp(t *testing.T) {
	t.Parallel()
	parse := func(text string) *Config {
		o := options()
		o.Mode = ModeUp
		c, err := o.Parse("x", "/", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	got := planText(Plan(parse(plainFile+"data_dir: /a\n"), parse(plainFile+"data_dir: /b\ntemp_dir: /a/tmp\nnats: {replicas: 3}\nreload: manual\nadmin: {people: [{name: a, role: viewer}]}\n")))
	want := `reload  changed: "watch" -> "manual"` + "\n" + `data_dir  changed: "/a" -> "/b" restart stagecoach up` + "\n" + `nats.replicas  changed: "1" -> "3"` + "\n" + `admin.people a added: "" -> "viewer"` + "\n"
	if got != want {
		t.Errorf("%snot\n%s", got, want)
	}
}

// Whatever is changed in a configuration is in the plan: a key that is added to the file must be added there.
func TestPlanIsComplete(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	leaves, old := 0, fullConfig(t, dir)
	for n := 0; ; n++ {
		c := fullConfig(t, dir)
		w := &walker{change: n}
		w.walk(reflect.ValueOf(c), "Config")
		if w.path == "" {
			break
		}
		leaves++
		if len(Plan(old, c)) == 0 {
			t.Errorf("%s can change without a word in the plan", w.path)
		}
	}
	if leaves < 120 {
		t.Errorf("only %d values were changed", leaves)
	}
	if got := Plan(fullConfig(t, dir), fullConfig(t, dir)); len(got) > 0 {
		t.Errorf("nothing changed: %s", planText(got))
	}
}

// walker changes the n-th value of a configuration.
type walker struct {
	change, seen int
	path         string
}

func (w *walker) walk(v reflect.Value, path string) {
	switch path {
	case "Config.Revision", "Config.Warnings":
		return
	}
	if strings.HasSuffix(path, ".Decoded") {
		return // its hash stands for it
	}
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			w.walk(v.Elem(), path)
		}
	case reflect.Struct:
		if s, ok := v.Interface().(fmt.Stringer); ok && v.NumMethod() > 0 && v.Type().PkgPath() == "net/netip" {
			w.leaf(path, func() { changeNet(v, s) })
			return
		}
		for i := range v.NumField() {
			w.walk(v.Field(i), path+"."+v.Type().Field(i).Name)
		}
	case reflect.Slice:
		for i := range v.Len() {
			w.walk(v.Index(i), fmt.Sprintf("%s[%d]", path, i))
		}
		if v.Len() > 0 {
			w.leaf(path+"[last]", func() { v.Set(v.Slice(0, v.Len()-1)) })
		}
	case reflect.Map:
		for _, k := range slices.SortedFunc(slices.Values(v.MapKeys()), func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) }) {
			w.walk(v.MapIndex(k), fmt.Sprintf("%s[%s]", path, k))
		}
	case reflect.String:
		w.leaf(path, func() { v.SetString(v.String() + "x") })
	case reflect.Bool:
		w.leaf(path, func() { v.SetBool(!v.Bool()) })
	case reflect.Int, reflect.Int64:
		w.leaf(path, func() { v.SetInt(v.Int() + 1) })
	case reflect.Float64:
		w.leaf(path, func() { v.SetFloat(v.Float() / 2) })
	default:
		panic(path + " is of a kind that is not known here")
	}
}

func (w *walker) leaf(path string, change func()) {
	if w.seen == w.change {
		change()
		w.path = path
	}
	w.seen++
}

func changeNet(v reflect.Value, s fmt.Stringer) {
	text := strings.Replace(s.String(), "0", "1", 1)
	if s.String() == "invalid IP" {
		text = "192.0.2.9"
	}
	if err := v.Addr().Interface().(interface{ UnmarshalText([]byte) error }).UnmarshalText([]byte(text)); err != nil {
		panic(err)
	}
}

const planFile = `# ours
ingress: {listeners: [{name: l, address: "127.0.0.1:2525", tls: none}]}
stages:
  a: {type: antivirus}
  b: {type: archive}
  c: {type: antivirus, timeout: 3s}
  f: {type: disclaimer, config: {text: x}}
  s: {type: signer}
chains:
  - {name: one, match: {relay: self}, stages: [a, b, f], deliver: r}
  - name: two
    stages: # more
      - {use: a, inline: true}
      - use: f
        on_error: skip
      # signs
      - s
    deliver: r
routes: {r: {mx: {}}}
`

// FuzzPlan: after any edits of the chains the plan is empty exactly when the configurations mean the same, and tells of
// no other chain than those.
func FuzzPlan(f *testing.F) {
	for i := range byte(40) {
		f.Add([]byte{i, i * 7, i * 3, 255 - i, i * 11, i * 5})
	}
	f.Add([]byte{0x00, 0x03, 0x01, 0x81, 0x03, 0x00}) // there and back
	dir := f.TempDir()
	o := options()
	o.Mode = ModeUp
	before, err := o.Parse("x", dir, []byte(planFile))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, steps []byte) {
		text, touched := []byte(planFile), []string{}
		for ; len(steps) >= 2 && len(touched) < 20; steps = steps[2:] {
			e := editOf(steps[0], steps[1])
			if now, err := EditChain("x", text, e); err == nil {
				text, touched = now, append(touched, e.Chain)
			}
		}
		after, err := o.Parse("x", dir, text)
		if err != nil {
			return // the order may be one that is refused
		}
		items := Plan(before, after)
		if same := meansTheSame(before, after); same != (len(items) == 0) {
			t.Fatalf("the same: %v, but the plan is\n%s\nof\n%s", same, planText(items), text)
		}
		for _, i := range items {
			if i.Kind != "chain" || !slices.Contains(touched, i.Name) || i.From == i.To {
				t.Fatalf("%v for edits of %v\n%s", i, touched, text)
			}
		}
	})
}

// editOf makes an edit of two bytes.
func editOf(what, where byte) ChainEdit {
	stages := []string{"a", "b", "c", "f", "s"}
	e := ChainEdit{Chain: []string{"one", "two"}[what&1], Kind: EditKind(1 + what>>1&3), Stage: stages[int(what>>3)%len(stages)]}
	e.By = stages[int(where>>2)%len(stages)]
	switch where & 3 {
	case 0:
		e.First = true
	case 1:
		e.Last = true
	case 2:
		e.Before = e.By
	default:
		e.After = e.By
	}
	if e.Kind == EditInsert {
		e.OnError = []string{"", "skip", "quarantine", "defer"}[where>>5&3]
		e.Shadow = where>>7 == 1 && e.Stage != "b"
	}
	return e
}

// meansTheSame compares what the file says, not what Plan reads.
func meansTheSame(a, b *Config) bool {
	plain := func(c *Config) string {
		var s strings.Builder
		for _, ch := range c.Chains {
			fmt.Fprintf(&s, "%s %v %s\n", ch.Name, ch.Match, ch.Deliver)
			for _, u := range ch.Stages {
				fmt.Fprintln(&s, u.Stage.Name, u.Stage.Hash, u.Inline, u.Shadow, u.OnError)
			}
		}
		return s.String()
	}
	return plain(a) == plain(b)
}
