package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// identities are who asks: services by their certificate of the pki, a person with the role admin by a certificate of the
// pki, somebody whose certificate is of another CA and says whatever helps, and somebody without any.
var identities = []string{"ingress", "egress", "antivirus", "disclaimer", "archive", "signer", "admin", "person", "other CA", "nobody"}

// permission is a row of the table: what may be done at a place, and by whom. Everybody else may not.
type permission struct {
	at, what, by string
}

// access is who may what in an installation whose longest chain is antivirus, disclaimer, archive, signer. What no row names
// nobody may. docs/operations.md shows it.
var access = []permission{
	{"ingress", "Queue, Trace, Route, Preview, Status, User, Event, Statistics, Grant, Node", "admin"},
	{"ingress", "health, reflection", "ingress admin"},
	{"antivirus", "Relay", "ingress"},
	{"antivirus", "Process", "ingress"},
	{"antivirus", "Describe, health, reflection", "ingress antivirus admin"},
	{"antivirus", "Node", "admin"},
	{"disclaimer", "Relay", "ingress antivirus"},
	{"disclaimer", "Process", "ingress"},
	{"disclaimer", "Describe, health, reflection", "ingress antivirus disclaimer admin"},
	{"disclaimer", "Node", "admin"},
	{"archive", "Relay", "ingress antivirus disclaimer"},
	{"archive", "Process", "ingress"},
	{"archive", "Describe, health, reflection", "ingress antivirus disclaimer archive admin"},
	{"archive", "Archive, Node", "admin"},
	{"signer", "Relay", "ingress antivirus disclaimer archive"},
	{"signer", "Process", "ingress"},
	{"signer", "Describe, health, reflection", "ingress antivirus disclaimer archive signer admin"},
	{"signer", "Dkim, Node", "admin"},
	{"egress", "Relay", "ingress antivirus disclaimer archive signer"},
	{"egress", "Knows, health, reflection", "ingress egress antivirus disclaimer archive signer admin"},
	{"egress", "Node", "admin"},
	{"admin", "Queue, Trace, Route, Preview, Status, User, Event, Statistics, Grant, Node, Archive, Dkim, Config, Access", "person"},
	{"admin", "reflection", "person"},
	{"admin", "health", "admin person"},

	{"NATS", "connect", "ingress admin"},
	{"NATS", "write to, make, empty, delete SPOOL_*, BODY_*, DEPOT_*, TRAIL, LEASES", "ingress"},
	{"NATS", "write to the buckets STAGECOACH_INSTALLATION, _ROUTES, _GRANTS, _NOTICES", "ingress"},
	{"NATS", "ask whether it syncs", "ingress"},
	{"NATS", "write to, read AUDIT", "admin"},
	{"NATS", "change how much AUDIT keeps", ""},
	{"NATS", "empty, delete, delete an entry of AUDIT", ""},
	{"NATS", "write to the buckets STAGECOACH_REQUESTS", "admin"},
	{"NATS", "listen to spool.*, stagecoach.audit", ""},
	{"NATS", "ask for connections, shut down", ""},
}

// mayWho says whether the table lets somebody do something.
func mayWho(t *testing.T, at, what, who string) bool {
	t.Helper()
	for _, p := range access {
		if p.at == at && slices.Contains(strings.Split(p.what, ", "), what) {
			return by(p.by, who)
		}
	}
	return false
}

func by(list, who string) bool { return slices.Contains(strings.Fields(list), who) }

// TestAccessIsWritten compares the table with docs/operations.md.
func TestAccessIsWritten(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	fmt.Fprintf(&b, "| at | what | %s |\n|---|---|%s\n", strings.Join(identities, " | "), strings.Repeat(":-:|", len(identities)))
	for _, p := range access {
		fmt.Fprintf(&b, "| %s | %s |", p.at, p.what)
		for _, who := range identities {
			mark := " "
			if by(p.by, who) {
				mark = " ✓ "
			}
			b.WriteString(mark + "|")
		}
		b.WriteString("\n")
	}
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "operations.md"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(page), b.String()) {
		t.Errorf("docs/operations.md, section \"Who may what\", must show this table:\n%s", b.String())
	}
}
