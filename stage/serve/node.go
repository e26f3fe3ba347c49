package serve

import (
	"cmp"
	"slices"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/internal/config"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

// NodeStages gives the stages of a process as NodeService shows them: by name, the former ones last.
func NodeStages(stages *chain.Stages) func() []*adminv1.NodeStage {
	return func() []*adminv1.NodeStage {
		var out []*adminv1.NodeStage
		for _, r := range stages.List() {
			out = append(out, &adminv1.NodeStage{Name: r.Instance, Type: r.Type, Hash: r.Hash, Former: !r.Current, Traits: config.TraitNames(r.Traits)})
		}
		slices.SortFunc(out, func(a, b *adminv1.NodeStage) int {
			former := func(s *adminv1.NodeStage) int {
				if s.GetFormer() {
					return 1
				}
				return 0
			}
			return cmp.Or(former(a)-former(b), cmp.Compare(a.GetName(), b.GetName()), cmp.Compare(a.GetHash(), b.GetHash()))
		})
		return out
	}
}
