//go:build compose

// Package compose starts deploy/compose as it stands, in a project and a folder of its own, and tries it from outside: by
// SMTP through the published ports, by the operator's API, and by what the engine can do to containers. It needs a Docker
// engine, its plugin compose, the images, and root, for what belongs to the containers' user.
package compose

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
)

func TestMain(m *testing.M) {
	if why := missing(); why != "" {
		fmt.Println("compose tests: SKIPPED,", why)
		os.Exit(0)
	}
	code := m.Run()
	if shared != nil {
		shared.down()
	}
	os.Exit(code)
}

// missing says what these tests need and do not find.
func missing() string {
	if exec.Command("docker", "info").Run() != nil {
		return "no Docker engine answers"
	}
	if exec.Command("docker", "compose", "version").Run() != nil {
		return "there is no docker compose (the plugin, version 2): deploy/compose/plugin/install builds it"
	}
	if os.Geteuid() != 0 {
		return "they read what belongs to the user of the containers: run them as root"
	}
	return ""
}
