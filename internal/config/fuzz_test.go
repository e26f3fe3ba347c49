package config

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// FuzzParse: whatever the file holds, it is taken or refused with a place for every error; and what is taken makes
// slips.
func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/broken/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range append(files, "testdata/full.yaml") {
		data, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data, len(data)%2 == 0)
	}
	f.Add(Default("/data"), true)
	dir := folder(f)
	f.Fuzz(func(t *testing.T, data []byte, up bool) {
		o := options()
		if up {
			o.Mode = ModeUp
		}
		c, err := o.Parse("fuzz.yaml", dir, data)
		if err == nil {
			for _, ch := range c.Chains {
				if s := c.Slip(ch); len(s.Hops) != len(ch.Stages) || s.Route.Hash == "" {
					t.Fatalf("slip of %s: %+v", ch.Name, s)
				}
			}
			return
		}
		var all Errors
		if !errors.As(err, &all) || len(all) == 0 {
			t.Fatalf("%T: %v", err, err)
		}
		checkPlaces(t, all, data)
	})
}
