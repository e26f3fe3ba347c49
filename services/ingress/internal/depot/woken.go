package depot

import (
	"maps"
	"slices"

	"github.com/stagecoachmail/stagecoach/mail"
)

// Woken are the recipients of a message that count as waiting, and have been woken: they are under way.
func (v *View) Woken(id string) []mail.RecipientID {
	v.mu.Lock()
	defer v.mu.Unlock()
	if it := v.items[id]; it != nil {
		return slices.Collect(maps.Keys(it.woken))
	}
	return nil
}
