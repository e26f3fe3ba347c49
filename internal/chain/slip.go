package chain

import (
	"time"

	"github.com/stagecoachmail/stagecoach/mail"
)

// Slip is what is left of a message's itinerary: the stages still to run, and the route that ends it.
type Slip struct {
	Chain string
	// Revision of the configuration the slip was made from.
	Revision string
	Hops     []Hop
	Route    Route
}

// OnError says what a failure of a stage means for the message.
type OnError string

// The values of on_error.
const (
	OnErrorDefer      OnError = "defer"
	OnErrorSkip       OnError = "skip"
	OnErrorQuarantine OnError = "quarantine"
)

// Hop is one stage of a slip.
type Hop struct {
	Instance string
	Type     string
	Hash     string
	// Address is the gRPC target; empty: the stage runs in this process.
	Address string
	// Identity is the name the callee's certificate must bear; Type if empty.
	Identity string
	// Timeout bounds Process alone.
	Timeout     time.Duration
	OnError     OnError
	ProcessOnly bool
	Shadow      bool
	// Released: a person let the message out of this instance's quarantine; its Quarantine counts as Continue.
	Released bool
}

// Route is the end of a slip.
type Route struct {
	Name    string
	Hash    string
	Address string // egress's gRPC target; empty: egress is in this process
}

// Parcel is one message under way with what is left of its slip.
type Parcel struct {
	mail.Message
	Slip Slip
}
