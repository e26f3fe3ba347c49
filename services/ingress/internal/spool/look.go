package spool

import "github.com/stagecoachmail/stagecoach/services/ingress/internal/depot"

// Message gives a message of this shard that is not over: where each of its recipients stands now, by the log. What
// has ended altogether is not known here any more.
func (s *Shard) Message(id string) (*depot.Message, bool) {
	l := s.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.messages[id]
	if t == nil || t.msg.Over() {
		return nil, false
	}
	return t.msg, true
}
