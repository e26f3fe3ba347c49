package egress

import (
	"context"
	"sync"
	"time"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/mail"
)

type key struct {
	message   string
	recipient mail.RecipientID
}

// attempt is one key under way or just delivered. fate is set before done is closed.
type attempt struct {
	done chan struct{}
	fate chain.Fate
}

type finished struct {
	key key
	at  time.Time
}

// keys is the table of what is under way or was just delivered: a second attempt for the same key makes no second copy,
// it gets the fate of the first. Only deliveries are remembered after their end: what was deferred, refused, rejected or
// came to an unknown outcome is tried again when somebody asks.
type keys struct {
	limits limits
	now    func() time.Time

	mu   sync.Mutex
	all  map[key]*attempt
	over []finished // in the order of their ends
}

func newKeys(l limits, now func() time.Time) *keys {
	return &keys{limits: l, now: now, all: map[key]*attempt{}}
}

// claim splits the recipients of a message into those that are the caller's to finish, and those that another attempt has.
func (k *keys) claim(message string, to []mail.RecipientID) (own []mail.RecipientID, joined map[mail.RecipientID]*attempt) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.sweep()
	joined = map[mail.RecipientID]*attempt{}
	for _, id := range to {
		at := key{message, id}
		if first := k.all[at]; first != nil {
			joined[id] = first
			continue
		}
		k.all[at] = &attempt{done: make(chan struct{})}
		own = append(own, id)
	}
	return own, joined
}

// finish ends an attempt that was claimed.
func (k *keys) finish(message string, f chain.Fate) {
	k.mu.Lock()
	defer k.mu.Unlock()
	at := key{message, f.Recipient}
	a := k.all[at]
	a.fate = f
	close(a.done)
	if f.Kind != chain.Delivered {
		delete(k.all, at)
		return
	}
	k.over = append(k.over, finished{at, k.now()})
}

func (k *keys) sweep() {
	n := 0
	for n < len(k.over) && (k.now().Sub(k.over[n].at) > k.limits.remember || len(k.over)-n > k.limits.remembered) {
		delete(k.all, k.over[n].key)
		n++
	}
	if k.over = k.over[n:]; len(k.over) == 0 {
		k.over = nil
	}
}

// wait gives the fate of another's attempt. A caller who cannot wait for it does not know the outcome.
func (a *attempt) wait(ctx context.Context) chain.Fate {
	select {
	case <-a.done:
		return a.fate
	default:
	}
	select {
	case <-a.done:
		return a.fate
	case <-ctx.Done():
		return chain.Fate{Kind: chain.Unknown, Concern: chain.AboutRecipient, Reason: "another attempt for this recipient is under way"}
	}
}
