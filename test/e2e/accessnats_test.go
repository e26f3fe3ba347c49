package e2e

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/stagecoachmail/stagecoach/test/rig"
)

// What is not allowed is not answered: silence is how long it is waited for an answer that should not come, and answers
// for one that should.
const silence = 250 * time.Millisecond

// natsSide is somebody who is connected to NATS.
type natsSide struct {
	nc *nats.Conn
	js jetstream.JetStream
}

// natsWorld is a server with the streams of an installation. What was done is seen by those to whom they belong.
type natsWorld struct {
	t       *testing.T
	r       *rig.Rig
	ingress natsSide
	admin   natsSide
	// patience is how long it is waited for an answer in this cell.
	patience time.Duration
}

// mailStreams are those of ingress, each with a subject of it.
var mailStreams = map[string]string{"SPOOL_one": "spool.one", "BODY_one": "body.one.x.0", "DEPOT_one": "depot.one.x.m", "TRAIL": "trail.one", "LEASES": "lease.one"}

func (w *natsWorld) connect(certificates []tls.Certificate) (natsSide, error) {
	w.t.Helper()
	nc, err := nats.Connect("tls://"+w.r.Addr("nats"), nats.Secure(&tls.Config{RootCAs: w.r.CA.Pool, Certificates: certificates}), nats.NoReconnect(), nats.Timeout(5*time.Second),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	if err != nil {
		return natsSide{}, err
	}
	w.t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		w.t.Fatal(err)
	}
	return natsSide{nc, js}, nil
}

// soon is a context for an answer that may never come.
func (w *natsWorld) soon() context.Context {
	ctx, cancel := context.WithTimeout(w.t.Context(), w.patience)
	w.t.Cleanup(cancel)
	return ctx
}

// make makes a stream with one message.
func (w *natsWorld) make(side natsSide, name, subject string) {
	w.t.Helper()
	// Created, not updated: of the record nobody may.
	if _, err := side.js.CreateStream(w.t.Context(), jetstream.StreamConfig{Name: name, Subjects: []string{subject}}); err != nil {
		w.t.Fatalf("%s: %v", name, err)
	}
	if _, err := side.js.Publish(w.t.Context(), subject, []byte("first")); err != nil {
		w.t.Fatalf("%s: %v", name, err)
	}
}

// state is what a stream has; false: there is none.
func (w *natsWorld) state(side natsSide, name string) (jetstream.StreamState, bool) {
	w.t.Helper()
	s, err := side.js.Stream(w.t.Context(), name)
	if err != nil {
		return jetstream.StreamState{}, false
	}
	return s.CachedInfo().State, true
}

// writes publishes, and says whether the stream has it.
func (w *natsWorld) writes(who, owner natsSide, name, subject string) bool {
	w.t.Helper()
	before, _ := w.state(owner, name)
	_, _ = who.js.Publish(w.soon(), subject, []byte("more"), jetstream.WithRetryAttempts(0)) // what the stream has counts
	after, _ := w.state(owner, name)
	return after.LastSeq > before.LastSeq
}

// makes makes a stream of that name, if it can, where the owner sees it.
func (w *natsWorld) makes(who, owner natsSide, name, subject string) bool {
	w.t.Helper()
	if err := owner.js.DeleteStream(w.t.Context(), name); err != nil {
		w.t.Fatal(err)
	}
	defer w.make(owner, name, subject)
	_, _ = who.js.CreateStream(w.soon(), jetstream.StreamConfig{Name: name, Subjects: []string{subject}}) // what the owner sees counts
	_, there := w.state(owner, name)
	return there
}

// empties purges a stream.
func (w *natsWorld) empties(who, owner natsSide, name string) bool {
	w.t.Helper()
	_, _ = who.nc.Request("$JS.API.STREAM.PURGE."+name, nil, w.patience) // what is left counts
	st, there := w.state(owner, name)
	return !there || st.Msgs == 0
}

// deletes deletes a stream; if it could, the stream is made anew.
func (w *natsWorld) deletes(who, owner natsSide, name, subject string) bool {
	w.t.Helper()
	_, _ = who.nc.Request("$JS.API.STREAM.DELETE."+name, nil, w.patience) // what is left counts
	if _, there := w.state(owner, name); there {
		return false
	}
	w.make(owner, name, subject)
	return true
}

// mail does something to every stream of the mail; it must be possible for all or for none.
func (w *natsWorld) mail(do func(name, subject string) bool) bool {
	w.t.Helper()
	var mu sync.Mutex
	var all sync.WaitGroup
	var could []string
	for name, subject := range mailStreams { // at once: what is not allowed is not answered, and takes its time
		all.Go(func() {
			if do(name, subject) {
				mu.Lock()
				could = append(could, name)
				mu.Unlock()
			}
		})
	}
	all.Wait()
	if n := len(could); n > 0 && n < len(mailStreams) {
		w.t.Errorf("it is possible for %v alone", could)
	}
	return len(could) > 0
}

// puts writes into buckets of the owner, all or none.
func (w *natsWorld) puts(who, owner natsSide, buckets ...string) bool {
	w.t.Helper()
	n := 0
	for _, b := range buckets {
		if w.writes(who, owner, "KV_"+b, "$KV."+b+".key") {
			n++
		}
	}
	if n > 0 && n < len(buckets) {
		w.t.Errorf("not all of %v can be written to", buckets)
	}
	return n > 0
}

// hears says whether somebody hears what the owner writes.
func (w *natsWorld) hears(who, owner natsSide, subject string) bool {
	w.t.Helper()
	heard := make(chan *nats.Msg, 1)
	sub, err := who.nc.ChanSubscribe(subject, heard)
	if err != nil {
		w.t.Fatal(err)
	}
	defer sub.Unsubscribe() //nolint:errcheck // the connection ends anyway
	if err := who.nc.FlushTimeout(time.Second); err != nil {
		w.t.Fatal(err)
	}
	if _, err := owner.js.Publish(w.t.Context(), strings.Replace(subject, "*", "one", 1), []byte("secret")); err != nil {
		w.t.Fatal(err)
	}
	select {
	case <-heard:
		return true
	case <-time.After(silence / 5): // on loopback, after the publisher's answer
		return false
	}
}

func (w *natsWorld) answered(who natsSide, subject string) bool {
	m, err := who.nc.Request(subject, nil, w.patience)
	return err == nil && m != nil
}

// tries are the cells of NATS, by the words of the table: each says whether who could do it.
func (w *natsWorld) tries() map[string]func(who natsSide) bool {
	const audit, subject = "AUDIT", "stagecoach.audit"
	return map[string]func(natsSide) bool{
		"write to": func(who natsSide) bool {
			return w.mail(func(name, subject string) bool { return w.writes(who, w.ingress, name, subject) })
		},
		"make": func(who natsSide) bool {
			return w.mail(func(name, subject string) bool { return w.makes(who, w.ingress, name, subject) })
		},
		"empty": func(who natsSide) bool {
			return w.mail(func(name, _ string) bool { return w.empties(who, w.ingress, name) })
		},
		"delete SPOOL_*": func(who natsSide) bool {
			return w.mail(func(name, subject string) bool { return w.deletes(who, w.ingress, name, subject) })
		},
		"write to the buckets STAGECOACH_INSTALLATION": func(who natsSide) bool {
			return w.puts(who, w.ingress, "STAGECOACH_INSTALLATION", "STAGECOACH_ROUTES", "STAGECOACH_GRANTS", "STAGECOACH_NOTICES")
		},
		"write to the buckets STAGECOACH_REQUESTS": func(who natsSide) bool { return w.puts(who, w.admin, "STAGECOACH_REQUESTS") },
		"ask whether it syncs":                     func(who natsSide) bool { return w.answered(who, "$SYS.REQ.SERVER.PING.JSZ") },
		"ask for connections":                      func(who natsSide) bool { return w.answered(who, "$SYS.REQ.SERVER.PING.CONNZ") },
		"shut down": func(who natsSide) bool {
			id := who.nc.ConnectedServerId()
			return w.answered(who, "$SYS.REQ.SERVER."+id+".RELOAD") || w.answered(who, "$SYS.REQ.SERVER."+id+".LDM")
		},
		"AUDIT write": func(who natsSide) bool { return w.writes(who, w.admin, audit, subject) },
		"AUDIT read": func(who natsSide) bool {
			s, err := who.js.Stream(w.soon(), audit)
			if err != nil {
				return false
			}
			m, err := s.GetMsg(w.soon(), 1)
			return err == nil && string(m.Data) == "first"
		},
		"AUDIT empty":  func(who natsSide) bool { return w.empties(who, w.admin, audit) },
		"AUDIT delete": func(who natsSide) bool { return w.deletes(who, w.admin, audit, subject) },
		"AUDIT delete an entry": func(who natsSide) bool {
			before, _ := w.state(w.admin, audit)
			_, _ = who.nc.Request("$JS.API.STREAM.MSG.DELETE."+audit, []byte(`{"seq":1}`), w.patience) // what is left counts
			after, _ := w.state(w.admin, audit)
			return after.Msgs < before.Msgs
		},
		"AUDIT update": func(who natsSide) bool {
			shorter := jetstream.StreamConfig{Name: audit, Subjects: []string{subject}, MaxAge: time.Hour}
			_, _ = who.js.UpdateStream(w.soon(), shorter) // what the owner sees counts
			s, err := w.admin.js.Stream(w.t.Context(), audit)
			if err != nil {
				w.t.Fatal(err)
			}
			return s.CachedInfo().Config.MaxAge != 0
		},
		"listen to": func(who natsSide) bool { return w.hears(who, w.ingress, "spool.*") || w.hears(who, w.admin, subject) },
	}
}

// natsRows are the cells of each row of NATS in the table, in its order.
var natsRows = [][]string{
	{"connect"},
	{"write to", "make", "empty", "delete SPOOL_*"},
	{"write to the buckets STAGECOACH_INSTALLATION"},
	{"ask whether it syncs"},
	{"AUDIT write", "AUDIT read"},
	{"AUDIT update"},
	{"AUDIT empty", "AUDIT delete", "AUDIT delete an entry"},
	{"write to the buckets STAGECOACH_REQUESTS"},
	{"listen to"},
	{"ask for connections", "shut down"},
}

// With the permissions that deploy/compose gives to NATS, ingress has the mail and admin the record; nobody else is let in,
// and nobody can take anything out of the record.
func TestAccessNATS(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Services)
	r.SecureNATS = true
	r.StartProc("nats")
	r.Eventually("NATS listens", 20*time.Second, func() bool {
		c, err := net.DialTimeout("tcp", r.Addr("nats"), time.Second)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	w, known := &natsWorld{t: t, r: r}, certificates(r)
	known["other CA"] = []tls.Certificate{strangerCertificate(r, "NATS")}
	var err error
	if w.ingress, err = w.connect(known["ingress"]); err != nil {
		t.Fatal(err)
	}
	if w.admin, err = w.connect(known["admin"]); err != nil {
		t.Fatal(err)
	}
	for name, subject := range mailStreams {
		w.make(w.ingress, name, subject)
	}
	for _, b := range []string{"STAGECOACH_INSTALLATION", "STAGECOACH_ROUTES", "STAGECOACH_GRANTS", "STAGECOACH_NOTICES"} {
		w.make(w.ingress, "KV_"+b, "$KV."+b+".>")
	}
	w.make(w.admin, "KV_STAGECOACH_REQUESTS", "$KV.STAGECOACH_REQUESTS.>")
	w.make(w.admin, "AUDIT", "stagecoach.audit")

	tries := w.tries()
	var rows []permission
	for _, p := range access {
		if p.at == "NATS" {
			rows = append(rows, p)
		}
	}
	if len(rows) != len(natsRows) {
		t.Fatalf("the table has %d rows about NATS, and %d are tried", len(rows), len(natsRows))
	}
	for _, who := range identities {
		side, err := w.connect(known[who])
		if want := by(rows[0].by, who); (err == nil) != want {
			t.Errorf("%s connects to NATS: %v, which should be allowed: %v", who, err, want)
		}
		if err != nil {
			for i, p := range rows { // who is not let in can do nothing at all
				if by(p.by, who) {
					t.Errorf("row %d lets %s do what takes a connection", i, who)
				}
			}
			continue
		}
		if who == "admin" {
			w.admin = side
		}
		for i, p := range rows[1:] {
			for _, cell := range natsRows[i+1] {
				want := by(p.by, who)
				if w.patience = silence; want {
					w.patience = answers
				}
				if could := tries[cell](side); could != want {
					t.Errorf("%s at NATS (%s: %s): it could: %v, which should be allowed: %v", who, p.what, cell, could, want)
				}
			}
		}
	}
	var all []string
	for _, cells := range natsRows {
		all = append(all, cells...)
	}
	for cell := range tries {
		if !slices.Contains(all, cell) {
			t.Error(fmt.Errorf("%q is in no row", cell))
		}
	}
}
