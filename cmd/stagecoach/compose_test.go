package main

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stagecoachmail/stagecoach/internal/config"
)

// The file for one container is right in it, sends nothing to the outside, and cannot be made an open relay by the gateway
// under whose address clients appear there.
func TestSingleConfiguration(t *testing.T) {
	file := filepath.Join("..", "..", "deploy", "compose", "config.single", "stagecoach.yaml")
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

// The files of the services are right, and none lets the gateway relay without a login.
func TestComposeConfigurations(t *testing.T) {
	t.Parallel()
	reading := config.Options{Mode: config.ModeService, Factories: factories(), Gateways: func() config.Gateways {
		return config.Gateways{Known: []netip.Addr{netip.MustParseAddr("172.18.0.1")}}
	}}
	for _, folder := range []string{"config", "config.demo", "config.cluster"} {
		dir := filepath.Join("..", "..", "deploy", "compose", folder)
		file := filepath.Join(dir, "stagecoach.yaml")
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		mounts := t.TempDir()
		for name, text := range map[string]string{"users.yaml": noUsers, "ca.pem": ""} {
			if err := os.WriteFile(filepath.Join(mounts, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		text := strings.NewReplacer("/users/", mounts+"/", "/pki/", mounts+"/", "directory: /pki", "directory: "+mounts).Replace(string(data))
		c, err := reading.Parse(file, dir, []byte(text))
		if err != nil {
			t.Errorf("%s: %v", folder, err)
			continue
		}
		warnings := slices.DeleteFunc(slices.Clone(c.Warnings), func(w *config.Error) bool {
			return folder == "config.demo" && strings.Contains(w.Error(), "every user of this machine can read it") // it is no secret
		})
		if len(warnings) > 0 || c.DataDir != "/data" {
			t.Errorf("%s: data in %s, warnings: %v", folder, c.DataDir, warnings)
		}
		open := strings.Replace(text, "{name: staff, listeners: [submission, submissions], auth: required}", "{name: staff, networks: [172.16.0.0/12]}", 1)
		if _, err := reading.Parse(file, dir, []byte(open)); err == nil || !strings.Contains(err.Error(), "gateway") {
			t.Errorf("%s: a rule that holds the gateway: %v", folder, err)
		}
	}
}
