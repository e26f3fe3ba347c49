package admin

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

const (
	auditStream  = "AUDIT"
	auditSubject = "stagecoach.audit"
	// auditAge and auditBytes are how long, and how much of it, the record is kept.
	auditAge   = 365 * 24 * time.Hour
	auditBytes = 256 << 20
	// auditRecord is the largest record in bytes: request and error are cut.
	auditRecord = 64 << 10
	// auditWait is how long a record may take to be on stable storage.
	auditWait = 10 * time.Second

	// formatKey is the header with the version of a record's format: 1 is an AuditEntry.
	formatKey = "Stagecoach-Format"
	format    = "1"
	// begunKey is the header of an outcome: the sequence of the record that the call had begun.
	begunKey = "Stagecoach-Begun"
	// codeBegun is the code of a call that was begun. One that keeps it: its process died, or NATS was gone.
	codeBegun = "BEGUN"
)

// audit is the record of changes in NATS. Nobody can delete from it through the stream's own API.
type audit struct {
	conn     *nats.Conn
	replicas func() int

	mu     sync.Mutex
	js     jetstream.JetStream
	stream jetstream.Stream
}

var errNoNATS = errors.New("this process has no NATS")

// open makes the stream if it is missing; it is made when first needed, for NATS may come later than we do. One that is there
// stays as it is: who may make it anew with other limits could let the record run out.
func (a *audit) open(ctx context.Context) (jetstream.JetStream, jetstream.Stream, error) {
	if a.conn == nil {
		return nil, nil, errNoNATS
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.stream != nil {
		return a.js, a.stream, nil
	}
	js, err := jetstream.New(a.conn)
	if err != nil {
		return nil, nil, err
	}
	s, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: auditStream, Subjects: []string{auditSubject},
		Description: "who changed what, and to whom mail was shown", Storage: jetstream.FileStorage, Discard: jetstream.DiscardOld,
		MaxAge: auditAge, MaxBytes: auditBytes, MaxMsgSize: auditRecord, DenyDelete: true, DenyPurge: true, AllowDirect: true, Replicas: a.replicas()})
	if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
		s, err = js.Stream(ctx, auditStream)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("the stream %s: %w", auditStream, err)
	}
	if c := s.CachedInfo().Config; !c.DenyDelete || !c.DenyPurge {
		return nil, nil, fmt.Errorf("the stream %s can be emptied (deny_delete, deny_purge are not set): it was not made by us", auditStream)
	}
	a.js, a.stream = js, s
	return js, s, nil
}

// forget makes the next call look for the stream anew.
func (a *audit) forget() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stream = nil
}

// append puts an entry on stable storage, and gives its sequence. begun is that of the record which it is the outcome of.
func (a *audit) append(ctx context.Context, e *adminv1.AuditEntry, begun uint64) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, auditWait)
	defer cancel()
	data, err := proto.Marshal(e)
	if err != nil {
		return 0, err
	}
	m := nats.NewMsg(auditSubject)
	m.Data = data
	m.Header.Set(formatKey, format)
	if begun > 0 {
		m.Header.Set(begunKey, strconv.FormatUint(begun, 10))
	}
	js, _, err := a.open(ctx)
	if err != nil {
		return 0, err
	}
	ack, err := js.PublishMsg(ctx, m, jetstream.WithExpectStream(auditStream))
	if err != nil {
		a.forget()
		return 0, err
	}
	return ack.Sequence, nil
}

// auditEntry is a record as it was kept.
type auditEntry struct {
	entry *adminv1.AuditEntry
	// begun is the sequence of the record that this one is the outcome of; 0: it is none.
	begun uint64
	// kept is when it was written.
	kept time.Time
}

// get reads a record. Nil: there is none under that sequence (any more).
func (a *audit) get(ctx context.Context, s jetstream.Stream, seq uint64) (*auditEntry, error) {
	m, err := s.GetMsg(ctx, seq)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if v := m.Header.Get(formatKey); v != format {
		return nil, fmt.Errorf("record %d has the format %q, of another version of this program", seq, v)
	}
	e := &auditEntry{entry: new(adminv1.AuditEntry), kept: m.Time}
	if err := proto.Unmarshal(m.Data, e.entry); err != nil {
		return nil, fmt.Errorf("record %d cannot be read: %w", seq, err)
	}
	e.entry.Sequence = seq
	if s := m.Header.Get(begunKey); s != "" {
		if e.begun, err = strconv.ParseUint(s, 10, 64); err != nil {
			return nil, fmt.Errorf("record %d cannot be read: %w", seq, err)
		}
	}
	return e, nil
}
