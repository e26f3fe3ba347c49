package demo

import (
	"fmt"
	"path/filepath"
)

// The names of a demo: the company is coach.example.
const (
	company      = "coach.example"
	gatewayName  = "gateway.coach.example"
	footer       = "Coach & Horses Ltd., Registered in England No. 01784"
	routeMain    = "provider"
	routeBranch  = "branch"
	branchDomain = "branch.example"
)

// configuration is the file of a demo's installation.
func configuration(dir, listen, provider, branch string) string {
	at := func(elem ...string) string {
		return fmt.Sprintf("%q", filepath.Join(append([]string{dir}, elem...)...))
	}
	smarthost := func(address string) string {
		return fmt.Sprintf("{smarthost: {address: %q, tls: required, server_name: %s, ca_file: %s, auth: {username: %s, password_file: %s}}}",
			address, hostName, at("ca.pem"), userName, at("password"))
	}
	return fmt.Sprintf(`hostname: %[1]s
postmaster: it@%[2]s
data_dir: %[3]s
ingress:
  listeners:
    - {name: mailserver, address: %[4]q, tls: none}
domains:
  - {name: %[2]s, recipients: any}
relay:
  - {name: mailserver, networks: ["127.0.0.0/8"], senders: ["*@%[2]s"]}
stages:
  antivirus: {config: {}}
  footer: {type: disclaimer, config: {text: %[5]q}}
  archive: {config: {}}
  signer: {config: {create: true, domains: {%[2]s: {}}}}
chains:
  - name: inbound
    match: {direction: [inbound, internal]}
    stages: [antivirus, archive]
    deliver: mailserver
  - name: branch
    match: {direction: outbound, recipients: "*@%[6]s"}
    stages: [antivirus, footer, archive, signer]
    deliver: %[7]s
  - name: outbound
    match: {direction: outbound}
    stages: [antivirus, footer, archive, signer]
    deliver: %[8]s
routes:
  mailserver: {maildir: {path: %[9]s}}
  %[7]s: %[10]s
  %[8]s: %[11]s
`, gatewayName, company, at("data"), listen, footer, branchDomain, routeBranch, routeMain, at("mailserver"), smarthost(branch), smarthost(provider))
}
