package config

import (
	"encoding/json"
	"fmt"
	"path/filepath"
)

// Default is the configuration of `stagecoach up` without a file, as the text of one: it listens on 127.0.0.1:2525,
// relays for this machine, runs the four stages and delivers into a maildir below dataDir, so that nothing leaves the
// machine by accident. It goes through Options{Mode: ModeUp}.Parse like any other.
func Default(dataDir string) []byte {
	return fmt.Appendf(nil, `# What stagecoach up does without a configuration file. Save it as stagecoach.yaml to begin one.
hostname: localhost
data_dir: %s
ingress:
  listeners:
    - {name: local, address: "127.0.0.1:2525", tls: none}
relay:
  - {name: loopback, networks: ["127.0.0.0/8", "::1/128"]}
stages:
  antivirus: {config: {}}
  footer:
    type: disclaimer
    config:
      text: "This message passed through Stagecoach."
  archive: {config: {}}
  signer: {config: {create: true}}
chains:
  - name: outbound
    match: {direction: [outbound, internal]}
    stages: [antivirus, footer, archive, signer]
    deliver: outbox
routes:
  outbox: {maildir: {path: %s}}
`, quote(dataDir), quote(filepath.Join(dataDir, "outbox")))
}

// quote writes a text as YAML's double-quoted style, of which JSON's is a part.
func quote(s string) string {
	b, _ := json.Marshal(s) // a string always has a form
	return string(b)
}
