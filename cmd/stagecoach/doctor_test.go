package main

import (
	"encoding/json"
	"path/filepath"
	"testing"

	"github.com/stagecoachmail/stagecoach/cmd/stagecoach/internal/cli"
	"github.com/stagecoachmail/stagecoach/cmd/stagecoach/internal/doctor"
)

// What is wrong stands in the output alone, and the exit code says how bad it is.
func TestDoctorExits(t *testing.T) {
	out, _, err := run(t, "doctor", "-c", filepath.Join(t.TempDir(), "missing.yaml"), "--json")
	var findings []doctor.Finding
	if jerr := json.Unmarshal([]byte(out), &findings); jerr != nil || len(findings) != 1 || findings[0].Level != doctor.Error || findings[0].Remedy == "" {
		t.Errorf("%v: %s", jerr, out)
	}
	if cli.Code(err) != cli.ExitFailed {
		t.Errorf("exit code %d (%v)", cli.Code(err), err)
	}
	if _, _, err := run(t, "doctor", "nonsense"); cli.Code(err) != cli.ExitUsage {
		t.Errorf("wrong usage: exit code %d (%v)", cli.Code(err), err)
	}
	for worst, want := range map[doctor.Level]int{doctor.OK: cli.ExitDone, doctor.Info: cli.ExitDone, doctor.Warning: cli.ExitPartly, doctor.Error: cli.ExitFailed} {
		if got := exitCode(worst); got != want {
			t.Errorf("%s: exit code %d, want %d", worst, got, want)
		}
	}
}
