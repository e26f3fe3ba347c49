package config

import (
	"slices"
	"testing"
)

// Who may call whom follows from where stages stand in chains.
func TestCallers(t *testing.T) {
	t.Parallel()
	st := func(name, typ string) *Stage { return &Stage{Name: name, Type: typ} }
	scan, footer, footer2, sign, unused := st("scan", "antivirus"), st("footer", "disclaimer"), st("footer-2", "disclaimer"), st("sign", "signer"), st("unused", "archive")
	tag := &Stage{Name: "tag", Type: "tagger", Identity: "tagger.example.com", ProcessOnly: true}
	own := &Stage{Name: "own", Type: "own", Identity: "own.example.com"}
	c := &Config{Stages: map[string]*Stage{}, Chains: []*Chain{
		{Name: "a", Stages: []Use{{Stage: scan}, {Stage: own}, {Stage: tag}, {Stage: footer}}},
		{Name: "b", Stages: []Use{{Stage: footer2}, {Stage: sign, Shadow: true}, {Stage: scan}}},
		{Name: "c"},
	}}
	for _, s := range []*Stage{scan, footer, footer2, sign, unused, tag, own} {
		c.Stages[s.Name] = s
	}
	for typ, want := range map[string]Callers{
		"antivirus":  {Relay: []string{"disclaimer", "ingress", "signer"}, Process: []string{"ingress"}},
		"own":        {Relay: []string{"antivirus", "ingress"}, Process: []string{"ingress"}},
		"tagger":     {Relay: []string{"antivirus", "ingress", "own.example.com"}, Process: []string{"antivirus", "ingress", "own.example.com"}},
		"disclaimer": {Relay: []string{"antivirus", "ingress", "own.example.com"}, Process: []string{"ingress"}},
		"signer":     {Relay: []string{"disclaimer", "ingress"}, Process: []string{"disclaimer", "ingress"}},
		"archive":    {Relay: []string{"ingress"}, Process: []string{"ingress"}},
	} {
		if got := c.StageCallers(typ); !slices.Equal(got.Relay, want.Relay) || !slices.Equal(got.Process, want.Process) {
			t.Errorf("%s: %v, want %v", typ, got, want)
		}
	}
	if got := c.EgressCallers(); !slices.Equal(got.Relay, []string{"antivirus", "disclaimer", "ingress", "own.example.com", "signer"}) || len(got.Process) > 0 {
		t.Errorf("egress: %v", got)
	}
}
