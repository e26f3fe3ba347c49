package main

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-msgauth/dkim"

	"github.com/stagecoachmail/stagecoach/services/signer"
	"github.com/stagecoachmail/stagecoach/test/bench/internal/ledger"
	"github.com/stagecoachmail/stagecoach/test/bench/internal/load"
	"github.com/stagecoachmail/stagecoach/test/bench/internal/sink"
	"github.com/stagecoachmail/stagecoach/test/rig"
)

// What can be loaded.
const (
	// sinkAlone is no relay: the loader talks to the sink. What comes out bounds everything else.
	sinkAlone = "sink"
	// bareRelay is what all is compared with (folder bare).
	bareRelay = "bare"
	// inOne and inMany are Stagecoach in one process, and one process for each service.
	inOne  = "up"
	inMany = "services"
)

var relays = []string{sinkAlone, bareRelay, inOne, inMany}

const (
	domain     = "example.com"
	serverName = "smarthost.example"
	footer     = "Example Ltd, registered in Exampleton."
	// kept is how many messages are looked at whole, of each scenario.
	kept = 3
	// stopping is how long a process may take to end.
	stopping = 30 * time.Second
)

// configuration is the whole chain, as a company would have it for what it sends.
const configuration = `
domains:
  - {name: example.com, recipients: any}
relay:
  - {name: loopback, networks: ["127.0.0.0/8"]}
stages:
  antivirus: {address: "{{antivirus}}", config: {clamd: "tcp://{{clamd}}"}}
  footer: {type: disclaimer, address: "{{disclaimer}}", config: {text: "` + footer + `"}}
  archive: {address: "{{archive}}", config: {}}
  signer: {address: "{{signer}}", config: {must_sign: [example.com]}}
chains:
  - {name: inbound, match: {direction: [inbound, internal]}, stages: [antivirus], deliver: provider}
  - {name: outbound, match: {direction: outbound}, stages: [antivirus, footer, archive, signer], deliver: provider}
routes:
  provider: {smarthost: {address: "{{smarthost}}", tls: required, server_name: smarthost.example, ca_file: sink/ca.pem,
    auth: {username: ` + rig.SinkUser + `, password_file: secrets/smarthost}}}
`

// part is a process whose use is measured.
type part struct {
	name string
	*rig.Proc
}

// subject is what is loaded, with the sink behind it.
type subject struct {
	*rig.Rig
	relay  string
	target load.Target
	// parts are the processes of the relay, beside those that it needs and that are not a part of it.
	parts, beside []part

	sink   *sink.Sink
	kept   chan []byte
	record signer.Record // of the DKIM key
}

// start starts a relay and waits until it takes mail; what arrives goes into the ledger. It ends with t at the latest.
func start(t testing.TB, relay, programs string, led *ledger.Ledger) *subject {
	mode := rig.Up
	if relay == inMany {
		mode = rig.Services
	}
	s := &subject{Rig: rig.New(t, mode), relay: relay, kept: make(chan []byte, kept)}
	s.openSink(led)
	keys, err := signer.WriteKeys(s.Path("data", "keys"), domain, "bench", signer.RSA)
	if err != nil {
		t.Fatal(err)
	}
	s.record = keys[0].Record
	switch relay {
	case sinkAlone:
		s.target = load.Target{Addr: s.Addr("smarthost"), TLS: &tls.Config{RootCAs: s.CA.Pool, ServerName: serverName}, User: rig.SinkUser, Password: rig.SinkPassword}
	case bareRelay:
		s.target.Addr = s.Addr("bare")
		s.foreign(&s.parts, "bare", filepath.Join(programs, "bare"), "-listen", s.target.Addr, "-dir", s.Path("data"), "-domain", domain, "-selector", "bench",
			"-key", keys[0].File, "-smarthost", s.Addr("smarthost"), "-server-name", serverName, "-ca", s.Path("sink", "ca.pem"), "-user", rig.SinkUser, "-password-file", s.Path("secrets", "smarthost"))
		s.await("bare")
	default:
		s.target.Addr = s.SMTP()
		s.foreign(&s.beside, "clamd", filepath.Join(programs, "clamd"), "-listen", s.Addr("clamd"))
		s.await("clamd")
		s.Configure(configuration)
		s.Start()
		for _, name := range s.Names() {
			s.parts = append(s.parts, part{name, s.Proc(name)})
		}
	}
	return s
}

func (s *subject) openSink(led *ledger.Ledger) {
	l, err := net.Listen("tcp", s.Addr("smarthost"))
	if err != nil {
		s.T.Fatal(err)
	}
	pair := s.CA.Issue(s.T, s.Path("sink"), "smarthost", serverName)
	s.WriteFile("secrets/smarthost", rig.SinkPassword+"\n")
	s.sink = sink.Serve(l, sink.Options{TLS: &tls.Config{Certificates: []tls.Certificate{pair}}, User: rig.SinkUser, Password: rig.SinkPassword,
		TokenSize: ledger.TokenSize, Keep: kept, Arrived: func(a sink.Arrival) {
			led.Arrived(a.Token, a.Size, a.Signed, a.At)
			if a.Raw != nil {
				s.kept <- a.Raw
			}
		}})
	s.T.Cleanup(func() { _ = s.sink.Close() }) // it was closed, but for a failure
}

// foreign starts a program of the bench's own.
func (s *subject) foreign(to *[]part, name, program string, args ...string) {
	*to = append(*to, part{name, s.StartForeign(name, program, args...)})
}

// await waits until something listens on a port.
func (s *subject) await(port string) {
	s.Eventually(port+" listens", 10*time.Second, func() bool {
		c, err := net.DialTimeout("tcp", s.Addr(port), time.Second)
		if err != nil {
			return false
		}
		return c.Close() == nil
	})
}

// stop ends everything in good order. What arrives until then counts.
func (s *subject) stop() {
	s.StopAll()
	for _, p := range append(s.parts, s.beside...) {
		if p.Running() {
			_ = p.Stop(stopping) // the bench's own: they are killed by the signal
		}
	}
	_ = s.sink.Close() // again with the test
}

// check says what is wrong with the work that was done on the messages that were kept, and with the archive, which should
// have a record for each of that many messages. Everything has to have been stopped.
func (s *subject) check(messages int) []string {
	if s.relay == sinkAlone {
		return nil
	}
	close(s.kept)
	var wrong []string
	n := 0
	for raw := range s.kept {
		n++
		raw = bytes.ReplaceAll(raw, []byte("\r\n.."), []byte("\r\n."))
		if err := verify(raw, s.record); err != nil {
			wrong = append(wrong, fmt.Sprintf("message %d at the sink: %v", n, err))
		}
		if s.relay != bareRelay && !bytes.Contains(raw, []byte(footer)) {
			wrong = append(wrong, fmt.Sprintf("message %d at the sink: no footer", n))
		}
	}
	if s.relay == bareRelay {
		return wrong
	}
	records := 0
	err := filepath.WalkDir(s.Path("data", "archive"), func(_ string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(d.Name(), ".rec") {
			records++
		}
		return err
	})
	if err != nil || records != messages {
		wrong = append(wrong, fmt.Sprintf("the archive has %d records for %d messages (%v)", records, messages, err))
	}
	return wrong
}

// verify says what is wrong with the signature of a message.
func verify(raw []byte, record signer.Record) error {
	found, err := dkim.VerifyWithOptions(bytes.NewReader(raw), &dkim.VerifyOptions{LookupTXT: func(name string) ([]string, error) {
		if name != record.Name {
			return nil, fmt.Errorf("%s: %w", name, os.ErrNotExist)
		}
		return []string{record.Text}, nil
	}})
	if err == nil && len(found) != 1 {
		err = fmt.Errorf("%d signatures, not one", len(found))
	}
	for _, v := range found {
		err = errors.Join(err, v.Err)
	}
	return err
}
