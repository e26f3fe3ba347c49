package notices

import (
	"context"
	"time"

	"github.com/stagecoachmail/stagecoach/mail"
)

// Kinds of stops.
const (
	Hop    = "hop"
	Route  = "route"
	Login  = "login" // at the smarthost of a route
	Intake = "intake"
)

// Stop is something that is down, so that mail waits or is not taken.
type Stop struct {
	Kind string
	// Name of the hop, the route, or the shard; "NATS" where there is none.
	Name  string
	Since time.Time // zero: it is seen for the first time now
	// Reason comes from outside, mostly.
	Reason string
	// Waiting is how many messages wait for it here.
	Waiting uint64
}

// Certificate is one that ends some day.
type Certificate struct {
	// Name says which it is, for people; Remedy what is to be done.
	Name, Remedy string
	Ends         time.Time
}

// Fill is something that can be full.
type Fill struct {
	// Name says what it is, for people, and is the same in each look.
	Name string
	// Bytes.
	Used, Limit uint64
	// Effect is what happens when it is full.
	Effect string
}

// Held is a message that a person has to decide about.
type Held struct {
	ID, Room, Sender string
	Recipients       []string
	Subject, Why     string
	Since            time.Time
}

// Loop is a message that was refused because it goes in a circle.
type Loop struct {
	From     string
	To       []string
	Client   string
	Listener string
	Received int
}

// Source is what a Teller knows of its ingress, and how it sends. All of it is called from one goroutine.
type Source struct {
	// Postmaster is who is told; the null address: nobody.
	Postmaster func() (to mail.Address, hostname string)
	Stops      func() []Stop
	// Certificates and Fills may look into files: they are asked every few minutes.
	Certificates func() []Certificate
	Fills        func() []Fill
	// Held gives at most so many messages that are held in the shards of this ingress, the oldest first, and how many
	// there are.
	Held func(ctx context.Context, most int) (list []Held, all int)
	// Send makes a message of ours durable; nil: it will be delivered, or wait. write gives its bytes.
	Send func(ctx context.Context, to mail.Address, write func(id string, at time.Time) []byte) error
}

// Times of a Teller; zero fields have their defaults.
type Times struct {
	// Look is the interval between two looks at the state; default 5 s.
	Look time.Duration
	// Stopped is how long something is down before that is told; default 15 min.
	Stopped time.Duration
	// Over is how long no ingress has seen a stop before it counts as over; default 2 min.
	Over time.Duration
	// Collect is how long notices are collected into one mail; default 1 min.
	Collect time.Duration
	// Lease is how long a claim holds that did not come to its mail; default 2 min.
	Lease time.Duration
}

func (t *Times) complete() {
	def(&t.Look, 5*time.Second)
	def(&t.Stopped, 15*time.Minute)
	def(&t.Over, 2*time.Minute)
	def(&t.Collect, time.Minute)
	def(&t.Lease, 2*time.Minute)
}

func def(d *time.Duration, to time.Duration) {
	if *d == 0 {
		*d = to
	}
}
