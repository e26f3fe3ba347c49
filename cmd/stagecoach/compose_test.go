package main

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stagecoachmail/stagecoach/internal/config"
)

// The file beside compose.yaml is right in a container, sends nothing to the outside, and cannot be made an open relay
// by the gateway under whose address clients appear there.
func TestComposeConfiguration(t *testing.T) {
	file := filepath.Join("..", "..", "deploy", "compose", "config", "stagecoach.yaml")
	reading := config.Options{Mode: config.ModeUp, Factories: factories(), Gateways: func() config.Gateways {
		return config.Gateways{Known: []netip.Addr{netip.MustParseAddr("172.18.0.1")}}
	}}
	c, err := reading.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Warnings) > 0 || c.DataDir != "/data" {
		t.Errorf("data in %s, warnings: %v", c.DataDir, c.Warnings)
	}
	for name, r := range c.Routes {
		if r.Maildir == nil {
			t.Errorf("route %s leaves the machine", name)
		}
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	open := strings.Replace(string(data), "127.0.0.0/8", "172.16.0.0/12", 1)
	if _, err := reading.Parse(file, filepath.Dir(file), []byte(open)); err == nil || !strings.Contains(err.Error(), "gateway") {
		t.Errorf("a rule that holds the gateway: %v", err)
	}
}
