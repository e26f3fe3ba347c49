package config

import (
	"fmt"
	"maps"
	"slices"

	"github.com/stagecoachmail/stagecoach/stage"
)

// Builtin gives the built-in types of stages with the worst case of what each may do. It lets a process check the
// order of a chain without linking the other stages; CheckFactories, in a test of what links them, keeps it true.
func Builtin() map[string]stage.Traits {
	return map[string]stage.Traits{
		"antivirus":  {ReadsBody: true},
		"archive":    {ReadsBody: true, Effects: true},
		"disclaimer": {ReadsBody: true, EditsHeader: true, EditsBody: true},
		"signer":     {ReadsBody: true, EditsHeader: true, EditsBody: true, Seals: true},
	}
}

// CheckFactories says which factory of a built-in type does not have the traits of the table.
func CheckFactories(factories ...stage.Factory) error {
	table := Builtin()
	for _, f := range factories {
		if want, ok := table[f.Type]; ok && want != f.Traits {
			return fmt.Errorf("stage type %s: factory has traits %+v, the table in package config %+v", f.Type, f.Traits, want)
		}
	}
	return nil
}

func traitNames() []string {
	return slices.Sorted(maps.Keys(traitFields(&stage.Traits{})))
}

func traitFields(t *stage.Traits) map[string]*bool {
	return map[string]*bool{
		"reads_body":     &t.ReadsBody,
		"edits_header":   &t.EditsHeader,
		"edits_body":     &t.EditsBody,
		"edits_envelope": &t.EditsEnvelope,
		"seals":          &t.Seals,
		"effects":        &t.Effects,
	}
}

// TraitNames are the names of the traits that are set, sorted, as they stand in a file.
func TraitNames(t stage.Traits) []string {
	fields := traitFields(&t)
	return slices.DeleteFunc(traitNames(), func(name string) bool { return !*fields[name] })
}
