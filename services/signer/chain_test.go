package signer

import (
	"os"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/stagecoachmail/stagecoach/internal/config"
)

func TestTraitsAreThoseOfTheTable(t *testing.T) {
	if err := config.CheckFactories(Factory()); err != nil {
		t.Error(err)
	}
}

// Nothing that edits may follow a signer, another signer neither: it would break the signature before it.
func TestOrderInAChain(t *testing.T) {
	for stages, want := range map[string]string{
		"[footer, antivirus, archive, signer]":         "",
		"[footer, signer, antivirus, archive]":         "",
		"[{use: second, shadow: true}, signer]":        "",
		"[signer, {use: second, shadow: true}]":        "",
		"[antivirus, {use: second, shadow: true}]":     "",
		"[signer, footer]":                             "footer can change what signer before it has sealed",
		"[signer, second]":                             "second can change what signer before it has sealed",
		"[{use: signer, inline: true}, footer]":        "footer can change what signer before it has sealed",
		"[antivirus, signer, archive, second, footer]": "second can change what signer before it has sealed",
	} {
		text := `
hostname: relay.example.com
relay: [{name: loopback, networks: [127.0.0.0/8]}]
nats: {servers: ["nats://127.0.0.1:4222"]}
ingress: {address: "127.0.0.1:7001", listeners: [{name: local, address: "127.0.0.1:2525"}]}
egress: {address: "127.0.0.1:7002"}
stages:
  antivirus: {address: "127.0.0.1:7003"}
  archive: {address: "127.0.0.1:7004"}
  footer: {type: disclaimer, address: "127.0.0.1:7005"}
  signer: {address: "127.0.0.1:7006"}
  second: {type: signer, address: "127.0.0.1:7006"}
chains: [{name: all, match: {direction: outbound}, stages: ` + stages + `, deliver: outbox}]
routes: {outbox: {maildir: {path: outbox}}}
`
		_, err := config.Parse("stagecoach.yaml", t.TempDir(), []byte(text))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v", stages, err)
		}
	}
}

// The rules in the README can be read.
func TestReadmeRules(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(readme), "```yaml\n")
	example, _, _ := strings.Cut(rest, "```\n")
	c, err := Factory().Decode(func(into any) error { return yaml.UnmarshalWithOptions([]byte(example), into, yaml.Strict()) })
	if err != nil || len(c.(Config).Sign) != 3 || c.(Config).MaxEncoded != defaultMaxEncoded {
		t.Errorf("%+v (%v)", c, err)
	}
}
