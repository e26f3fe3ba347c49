package cli

import (
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	relayv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/relay/v1"
	stagev1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/stage/v1"
)

const (
	idOne   = "1k0tx62h9vmw5e4089twre9ng9"
	idThree = "1k0twhm1g4rv5szv6ggcqbt9an"
)

func envelope() *stagev1.Envelope {
	return &stagev1.Envelope{
		ReversePath: "alice@example.com",
		Recipients: []*stagev1.Recipient{{Id: "r1", Address: "bob@example.net"}, {Id: "r2", Address: "carol@example.org"},
			{Id: "r3", Address: "dave@example.org"}},
		Origin: &stagev1.Origin{Direction: "outbound", Listener: "submission", Relay: "staff", User: "alice", Client: "192.0.2.7", Helo: "laptop\x1b[2J", Tls: true},
	}
}

func greylisted(recipient string) *relayv1.Fate {
	return &relayv1.Fate{Recipient: recipient, Kind: relayv1.FateKind_FATE_KIND_DEFERRED, Concern: relayv1.Concern_CONCERN_RECIPIENT, Host: "mx.example.net",
		Reply: &stagev1.Reply{Code: 451, Enhanced: "4.7.1", Text: "Greylisted\u202e, come back\r\nlater"}}
}

func hop(name string, v stagev1.Verdict, ms int) *relayv1.HopReport {
	return &relayv1.HopReport{Instance: name, Recipients: []string{"r1", "r2", "r3"}, Outcome: relayv1.Outcome_OUTCOME_VERDICT, Verdict: v, Took: durationpb.New(time.Duration(ms) * time.Millisecond)}
}

func waitingSamples() []*adminv1.WaitingMessage {
	footer := hop("footer-de", stagev1.Verdict_VERDICT_CONTINUE, 3)
	footer.Edits = &stagev1.Edits{Splices: []*stagev1.Splice{{Offset: 3, Insert: []byte("x")}}}
	return []*adminv1.WaitingMessage{
		{Id: idThree, Received: before(50 * time.Hour), Envelope: &stagev1.Envelope{Recipients: []*stagev1.Recipient{{Id: "r1", Address: "bob@example.com"}}}, Size: 512, Shard: "up",
			Groups: []*adminv1.WaitingGroup{{Chain: "inbound", Room: "quarantine", Recipients: []string{"r1"}, Attempts: 1, Since: before(49 * time.Hour), Route: "exchange",
				Last: &relayv1.Fate{Kind: relayv1.FateKind_FATE_KIND_QUARANTINED, Concern: relayv1.Concern_CONCERN_HOP, About: "antivirus", Reason: "Eicar\n found"}}}},
		{Id: idOne, Received: before(10 * time.Minute), Envelope: envelope(), Size: 12345, Shard: "up",
			Groups: []*adminv1.WaitingGroup{
				{Chain: "outbound", Room: "retry", Recipients: []string{"r1"}, Attempts: 2, Next: before(-5 * time.Minute), Last: greylisted("r1"), Since: before(9 * time.Minute), Route: "provider",
					Done: []*relayv1.HopReport{hop("antivirus", stagev1.Verdict_VERDICT_CONTINUE, 12), footer}},
				{Chain: "internal", Room: "park", Recipients: []string{"r2", "r3"}, Since: before(9 * time.Minute), Route: "exchange",
					Last: &relayv1.Fate{Kind: relayv1.FateKind_FATE_KIND_REFUSED, Concern: relayv1.Concern_CONCERN_ROUTE, About: "exchange", Reason: "connection refused"}},
			}},
	}
}

func traceSample() *adminv1.Trace {
	antivirus := hop("antivirus", stagev1.Verdict_VERDICT_CONTINUE, 12)
	antivirus.Notes = []*stagev1.Note{{Key: "scanned", Value: "1.2 kB\x07"}}
	archive := hop("archive", stagev1.Verdict_VERDICT_UNSPECIFIED, 0)
	archive.Outcome, archive.Reason, archive.Took = relayv1.Outcome_OUTCOME_FAILED, "no space left on device", nil
	base64 := strings.Repeat(strings.Repeat("QUJD", 19)+"\r\n", 12)
	delivered := &relayv1.Fate{Recipient: "r2", Kind: relayv1.FateKind_FATE_KIND_DELIVERED, Host: "smtp.provider.example", Reply: &stagev1.Reply{Code: 250, Enhanced: "2.0.0", Text: "OK"}}
	same := proto.CloneOf(delivered)
	same.Recipient = "r3"
	at := func(ms int) time.Duration { return 3*time.Hour - time.Duration(ms)*time.Millisecond }
	return &adminv1.Trace{
		Id: idOne, Received: before(at(0)), Envelope: envelope(), MessageId: "<1@example.com>", Subject: "Grüße\x1b]0;owned\x07", Size: 1234, Accepted: true,
		Prepended: []byte("Received: from laptop\r\n"),
		Events: []*adminv1.TraceEvent{
			{At: before(at(20)), Chain: "outbound", Hops: []*adminv1.HopStep{
				{Report: antivirus, At: before(at(15))},
				{Report: hop("footer-de", stagev1.Verdict_VERDICT_CONTINUE, 3), At: before(at(18)), Diff: &adminv1.Diff{
					Hunks: []*adminv1.Hunk{
						{Offset: 70, Length: 5, Removed: []byte("Hello"), Inserted: []byte("[external] Hello"), Before: []byte("To: bob@example.net\r\nSubject: "), After: []byte(" Bob\r\n\r\nGood morning.\r\n")},
						{Offset: 200, Inserted: []byte("\r\n-- \r\nGr\xfc\xdfe aus=C3=9F\r\n"), Before: []byte("\r\n\r\nGood morning.\r\n"), After: []byte("--b--\r\n")},
						{Offset: 400, Inserted: []byte(base64), Before: []byte("\r\n\r\n")},
					},
					ReversePath: proto.String(""), Rewrites: []*stagev1.Rewrite{{Recipient: "r1", Address: "bob@new.example.net"}}, Cut: true}},
				{Report: archive, At: before(at(19))},
			}},
			{At: before(at(900)), Fates: []*relayv1.Fate{delivered, greylisted("r1"), same},
				Ends:  []*adminv1.TraceEnd{{Recipients: []string{"r2", "r3"}, Kind: "delivered", Fate: delivered}},
				Waits: []*adminv1.TraceWait{{Recipients: []string{"r1"}, Chain: "outbound", Room: "retry", Attempts: 1, Next: before(-time.Minute), Last: greylisted("r1")}}},
			{At: before(time.Hour), Waits: []*adminv1.TraceWait{{Recipients: []string{"r1"}, Room: "quarantine", Last: &relayv1.Fate{Kind: relayv1.FateKind_FATE_KIND_QUARANTINED, ByError: true,
				Concern: relayv1.Concern_CONCERN_RECIPIENT, About: "person", Reason: "held by bob: asked the sender"}}}},
			{At: before(time.Hour), Actor: "bob", Text: "held by bob: asked the sender"},
			{At: before(50 * time.Minute), Waits: []*adminv1.TraceWait{{Recipients: []string{"r1"}, Room: "retry", Next: before(50 * time.Minute)}}},
			{At: before(50 * time.Minute), Actor: "bob", Text: "released by bob"},
			{At: before(49 * time.Minute), Kept: []string{"antivirus", "footer-de"}, Hops: []*adminv1.HopStep{{Report: hop("signer", stagev1.Verdict_VERDICT_CONTINUE, 2), Shadow: true}}},
			{At: before(-24 * time.Hour), Ends: []*adminv1.TraceEnd{{Recipients: []string{"r1"}, Kind: "deleted", Reason: "spam"}}, Actor: "bob", Text: "deleted it"},
		},
	}
}

func statusSample() *adminv1.GetStatusResponse {
	return &adminv1.GetStatusResponse{
		Hostname: "relay.example.com", Version: "v1.2.3", Started: before(75 * time.Hour), Revision: strings.Repeat("ab", 32), Running: 3,
		Shards: []*adminv1.Shard{{Name: "one", Filled: 0.123}, {Name: "two", Adopted: true, Stopped: "full", Filled: 0.81}},
		Rooms: []*adminv1.Room{{Name: "retry", Messages: 12, Recipients: 15, Bytes: 1_234_567, Oldest: before(3 * time.Hour)}, {Name: "park"},
			{Name: "dead", Messages: 1, Recipients: 1, Bytes: 900, Oldest: before(30 * time.Hour)}},
		Barriers: []*adminv1.Barrier{{Kind: "hop", Name: "antivirus", Since: before(5 * time.Minute), Reason: "connection refused", Waiting: 4},
			{Kind: "route", Name: "provider", Since: before(time.Hour), Reason: "they are moving", By: "alice"}},
		Listeners: []*adminv1.Listener{{Name: "mx", Address: ":25", CertificateEnds: before(-20 * day), SelfSigned: true}, {Name: "old", Address: ":587", CertificateEnds: before(day)}, {Name: "local", Address: "127.0.0.1:2525"}},
		Problems: []*adminv1.Problem{{Severity: adminv1.Severity_SEVERITY_CRITICAL, Text: "the shard two takes no mail: it is full", Remedy: "Make room on the disk of NATS."},
			{Severity: adminv1.Severity_SEVERITY_WARNING, Text: "a message is dead\x1b[31m", Remedy: "See `stagecoach quarantine list --dead`."}},
		Durability: "every write is synced before it is acknowledged",
	}
}

func previewSample() []*adminv1.PreviewResponse {
	e := envelope()
	step := func(h *adminv1.HopStep) *adminv1.PreviewResponse {
		return &adminv1.PreviewResponse{Kind: &adminv1.PreviewResponse_Step{Step: h}}
	}
	outcome := func(o *adminv1.PreviewOutcome) *adminv1.PreviewResponse {
		return &adminv1.PreviewResponse{Kind: &adminv1.PreviewResponse_Outcome{Outcome: o}}
	}
	return []*adminv1.PreviewResponse{
		{Kind: &adminv1.PreviewResponse_Itinerary{Itinerary: &adminv1.PreviewItinerary{Chain: "outbound", Recipients: e.GetRecipients()[:2], Direction: "outbound", Route: "provider",
			Hops: []*relayv1.Hop{{Instance: "footer-de"}, {Instance: "signer", Shadow: true}}, Prepended: []byte("Received: from laptop\r\n\tby relay.example.com\r\n")}}},
		step(&adminv1.HopStep{Report: hop("footer-de", stagev1.Verdict_VERDICT_CONTINUE, 2), Diff: &adminv1.Diff{Hunks: []*adminv1.Hunk{
			{Offset: 90, Inserted: []byte("\r\nThis message passed through.\r\n"), Before: []byte("hello\r\n")}}}}),
		outcome(&adminv1.PreviewOutcome{Recipients: []string{"r1"}, Size: 140}),
		{Kind: &adminv1.PreviewResponse_Chunk{Chunk: []byte("From: alice@example.com\r\n")}},
		{Kind: &adminv1.PreviewResponse_Chunk{Chunk: []byte("\r\nhello\r\n")}},
		outcome(&adminv1.PreviewOutcome{Recipients: []string{"r2"}, Fate: &relayv1.Fate{Kind: relayv1.FateKind_FATE_KIND_REJECTED, Concern: relayv1.Concern_CONCERN_HOP, About: "footer-de",
			Reply: &stagev1.Reply{Code: 550, Enhanced: "5.7.1", Text: "Not to them"}}}),
	}
}

func archiveSample() []*adminv1.ArchivedMessage {
	return []*adminv1.ArchivedMessage{{Stage: "archive", Id: idOne, Received: before(2 * time.Hour), Versions: []*adminv1.ArchivedVersion{
		{Archived: before(2 * time.Hour), Envelope: envelope(), Sha256: "aa11", Size: 1000}, {Archived: before(time.Hour), Envelope: envelope(), Sha256: "bb22", Size: 1100}}}}
}

func keySample() []*adminv1.DkimKey {
	return []*adminv1.DkimKey{
		{Stage: "signer", Domain: "example.com", Selector: "s1-rsa", Algorithm: "rsa", Bits: 2048, Active: true, File: "data/keys/example.com/s1-rsa.pem", ZoneLine: `s1-rsa._domainkey.example.com. IN TXT (` + "\n\t" + `"v=DKIM1; k=rsa; p=AAAA" )`},
		{Stage: "signer", Domain: "example.com", Selector: "s0-ed25519", Algorithm: "ed25519", File: "data/keys/example.com/s0-ed25519.pem", ZoneLine: `s0-ed25519._domainkey.example.com. IN TXT "v=DKIM1; k=ed25519; p=BBBB"`},
	}
}
