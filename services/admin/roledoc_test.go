package admin

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

// The table of roles in docs/operations.md is the one that is in force.
func TestRolesAreDocumented(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]map[adminv1.Role][]string{}
	for _, name := range allMethods() {
		service, method, _ := strings.Cut(strings.TrimPrefix(name, "/stagecoach.admin.v1."), "/")
		if rows[service] == nil {
			rows[service] = map[adminv1.Role][]string{}
		}
		rows[service][methods[name].least] = append(rows[service][methods[name].least], method)
	}
	var services []string
	for s := range rows {
		services = append(services, s)
	}
	slices.Sort(services)
	table := "| | viewer | operator, too | admin, too |\n|---|---|---|---|\n"
	for _, s := range services {
		cell := func(r adminv1.Role) string { return strings.Join(rows[s][r], ", ") }
		table += strings.ReplaceAll(fmt.Sprintf("| %s | %s | %s | %s |\n", s, cell(viewer), cell(operator), cell(admins)), "|  |", "| |")
		table = strings.ReplaceAll(table, "|  |", "| |")
	}
	if !strings.Contains(string(doc), table) {
		t.Errorf("docs/operations.md does not have this table:\n%s", table)
	}
}
