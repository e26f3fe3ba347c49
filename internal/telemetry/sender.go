package telemetry

import (
	"strings"

	"go.opentelemetry.io/otel/trace"

	"github.com/stagecoachmail/stagecoach/mail"
)

// SenderTrace is the trace in which a trusted sender (a relay rule let it in) has sent the message, from its header field
// Traceparent; invalid if there is none, if it is not sampled, or if anybody could have written it. m is the message as it
// was received.
func SenderTrace(m *mail.Message) trace.SpanContext {
	if !m.Envelope.Origin.Trusted() || m.Content == nil {
		return trace.SpanContext{}
	}
	return ParseTraceparent(strings.TrimSpace(m.Content.Header().Get("Traceparent")))
}

// Traced says that the message is sampled, by its id or by its sender.
func (t *Tracer) Traced(m *mail.Message) bool {
	if t == nil {
		return false
	}
	id, _ := derived(m.ID)
	return t.sampled(id) || SenderTrace(m).IsValid()
}
