package chain

import "github.com/stagecoachmail/stagecoach/stage"

// Use gives the stage that runs under the name of an instance with its current configuration; false: none does. Until
// release is called it is not closed.
func (s *Stages) Use(instance string) (st stage.Stage, release func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, e := range s.entries {
		if k.instance == instance && e.current {
			e.users++
			return e.stage, e.release, true
		}
	}
	return nil, nil, false
}
