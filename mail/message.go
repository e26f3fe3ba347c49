package mail

import "time"

// Message is one mail as a stage sees it. Stages must not change it or keep it after they return.
type Message struct {
	// ID is the id that stood in the 250; it is unique in the installation and stays through every attempt.
	ID string
	// Attempt counts the runs of this message through its chain, from 1.
	Attempt int
	// Received is when the message was accepted; zero when the sender of a preview does not say.
	Received time.Time
	Envelope Envelope
	// Pending are the recipients that are acted on now; a subset of Envelope.Recipients.
	// Stages judge by the whole envelope, what acts (egress, quarantine) acts on these.
	Pending []RecipientID
	Content Content
}
