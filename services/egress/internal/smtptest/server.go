// Package smtptest is an SMTP server for tests: well-behaved unless a script makes it lie, stall, hang up or inject.
package smtptest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"hash"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
)

// Steps at which a script is asked, besides the verbs of SMTP.
const (
	Connect = "CONNECT" // before the greeting
	Dot     = "DOT"     // the message is complete, its answer is due
)

// Script may take a step over: it does what it likes with c and returns true. line is the command as it came.
type Script func(c *Conn, step, line string) bool

// Config of a Server.
type Config struct {
	// Extensions are the EHLO keywords; nil: PIPELINING, 8BITMIME, SIZE, DSN and ENHANCEDSTATUSCODES.
	Extensions []string
	// TLS offers STARTTLS, or, if Implicit, speaks TLS from the first byte.
	TLS      *tls.Config
	Implicit bool
	// Auth are the mechanisms offered (over TLS); Users their passwords.
	Auth   []string
	Users  map[string]string
	Script Script
	// Address to listen on; empty: a free port of 127.0.0.1.
	Address string
	// Forget keeps only size and hash of messages.
	Forget bool
}

// Message is one that was accepted.
type Message struct {
	Conn int
	From string // the argument of MAIL
	To   []string
	Data []byte
	Size int64
	Sum  [sha256.Size]byte
	// Bare: a bare CR, a bare LF or a NUL came over the wire.
	Bare bool
	TLS  bool
	User string
}

// Server listens on a loopback port until the test ends.
type Server struct {
	Addr string

	t      testing.TB
	config Config
	ln     net.Listener
	stop   context.Context

	mu       sync.Mutex
	conns    map[net.Conn]bool
	count    int
	commands []string
	messages []Message
}

// Start runs a Server.
func Start(t testing.TB, c Config) *Server {
	t.Helper()
	if c.Extensions == nil {
		c.Extensions = []string{"PIPELINING", "8BITMIME", "SIZE 104857600", "DSN", "ENHANCEDSTATUSCODES"}
	}
	if c.Address == "" {
		c.Address = "127.0.0.1:0"
	}
	ln, err := net.Listen("tcp", c.Address)
	if err != nil {
		t.Fatal(err)
	}
	stop, cancel := context.WithCancel(context.Background())
	s := &Server{Addr: ln.Addr().String(), t: t, config: c, ln: ln, stop: stop, conns: map[net.Conn]bool{}}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.count++
			n := s.count
			s.conns[conn] = true
			s.mu.Unlock()
			wg.Go(func() { s.serve(conn, n) })
		}
	})
	t.Cleanup(func() {
		cancel()
		_ = ln.Close()
		s.mu.Lock()
		for c := range s.conns {
			_ = c.Close()
		}
		s.mu.Unlock()
		wg.Wait()
	})
	return s
}

// Port is the port it listens on.
func (s *Server) Port() int { return s.ln.Addr().(*net.TCPAddr).Port }

// Messages are those that were accepted so far.
func (s *Server) Messages() []Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.messages)
}

// Commands are all lines that came as commands, over all connections.
func (s *Server) Commands() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.commands)
}

// Connections is how many there have been.
func (s *Server) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count
}

// Conn is one connection, in the hands of a Script.
type Conn struct {
	net.Conn
	// N counts connections from 1.
	N int
	// Message is the transaction under way.
	Message Message
	User    string
	TLS     bool

	s      *Server
	r      *bufio.Reader
	closed bool
}

// Say sends lines, each with CRLF, in one write.
func (c *Conn) Say(lines ...string) {
	_, _ = io.WriteString(c.Conn, strings.Join(lines, "\r\n")+"\r\n")
}

// Hangup closes the connection.
func (c *Conn) Hangup() {
	c.closed = true
	_ = c.Conn.Close()
}

// Reset closes the connection with a TCP reset.
func (c *Conn) Reset() {
	if t, ok := c.Conn.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	c.Hangup()
}

// HalfClose closes the sending direction.
func (c *Conn) HalfClose() {
	if t, ok := c.Conn.(*net.TCPConn); ok {
		_ = t.CloseWrite()
	}
}

// Stall does nothing until the client closes or the test ends.
func (c *Conn) Stall() {
	_, _ = io.Copy(io.Discard, c.r)
	c.Hangup()
}

// Accept records the message as accepted.
func (c *Conn) Accept() {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	c.s.messages = append(c.s.messages, c.Message)
}

func (s *Server) serve(raw net.Conn, n int) {
	c := &Conn{Conn: raw, N: n, s: s}
	defer func() {
		_ = c.Conn.Close()
		s.mu.Lock()
		delete(s.conns, raw)
		s.mu.Unlock()
	}()
	if s.config.Implicit && !c.encrypt() {
		return
	}
	c.r = bufio.NewReaderSize(c.Conn, 64<<10)
	if !s.script(c, Connect, "") {
		c.Say("220 test.example ESMTP")
	}
	for !c.closed {
		line, err := c.r.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimRight(line, "\r\n")
		s.mu.Lock()
		s.commands = append(s.commands, line)
		s.mu.Unlock()
		verb, arg, _ := strings.Cut(line, " ")
		verb = strings.ToUpper(verb)
		if s.script(c, verb, line) {
			continue
		}
		s.obey(c, verb, arg)
	}
}

func (s *Server) script(c *Conn, step, line string) bool {
	return s.config.Script != nil && s.config.Script(c, step, line)
}

func (c *Conn) encrypt() bool {
	t := tls.Server(c.Conn, c.s.config.TLS)
	if t.HandshakeContext(c.s.stop) != nil {
		return false
	}
	c.Conn, c.TLS = t, true
	c.r = bufio.NewReaderSize(t, 64<<10)
	return true
}

func (s *Server) obey(c *Conn, verb, arg string) {
	switch verb {
	case "EHLO":
		lines := []string{"250-test.example greets " + arg}
		ext := slices.Clone(s.config.Extensions)
		if s.config.TLS != nil && !c.TLS {
			ext = append(ext, "STARTTLS")
		}
		if c.TLS && len(s.config.Auth) > 0 {
			ext = append(ext, "AUTH "+strings.Join(s.config.Auth, " "))
		}
		for _, e := range ext {
			lines = append(lines, "250-"+e)
		}
		last := len(lines) - 1
		lines[last] = "250 " + lines[last][4:]
		c.Say(lines...)
	case "HELO", "NOOP":
		c.Say("250 test.example")
	case "STARTTLS":
		c.Say("220 go ahead")
		if !c.encrypt() {
			c.Hangup()
		}
	case "AUTH":
		s.auth(c, arg)
	case "MAIL":
		c.Message = Message{Conn: c.N, From: strings.TrimPrefix(arg, "FROM:"), TLS: c.TLS, User: c.User}
		c.Say("250 2.1.0 sender ok")
	case "RCPT":
		c.AddRecipient(arg)
		c.Say("250 2.1.5 recipient ok")
	case "DATA":
		if len(c.Message.To) == 0 {
			c.Say("554 5.5.1 no valid recipients")
			return
		}
		c.Say("354 go on")
		s.data(c)
	case "RSET":
		c.Message = Message{}
		c.Say("250 2.0.0 reset")
	case "QUIT":
		c.Say("221 2.0.0 bye")
		c.Hangup()
	default:
		c.Say("500 5.5.2 unknown command")
	}
}

// AddRecipient puts the argument of RCPT into the transaction.
func (c *Conn) AddRecipient(arg string) {
	c.Message.To = append(c.Message.To, strings.TrimPrefix(arg, "TO:"))
}

func (s *Server) data(c *Conn) {
	if err := c.ReadMessage(); err != nil {
		c.Hangup()
		return
	}
	if s.script(c, Dot, "") {
		return
	}
	c.Accept()
	c.Say("250 2.0.0 queued")
}

// ReadMessage reads up to the final dot (CRLF.CRLF and nothing else) and takes the dot-stuffing away.
func (c *Conn) ReadMessage() error {
	m := &c.Message
	var sum hash.Hash = sha256.New()
	var data bytes.Buffer
	for {
		line, err := c.readLine()
		if err != nil {
			return err
		}
		if bytes.Equal(line, []byte(".\r\n")) {
			break
		}
		m.Bare = m.Bare || bytes.Count(line, []byte("\r")) != 1 || !bytes.HasSuffix(line, []byte("\r\n")) || bytes.IndexByte(line, 0) >= 0
		line = bytes.TrimPrefix(line, []byte("."))
		m.Size += int64(len(line))
		_, _ = sum.Write(line)
		if !c.s.config.Forget {
			data.Write(line)
		}
	}
	m.Data = data.Bytes()
	sum.Sum(m.Sum[:0])
	return nil
}

func (c *Conn) readLine() ([]byte, error) {
	line, err := c.r.ReadSlice('\n')
	if !errors.Is(err, bufio.ErrBufferFull) {
		return line, err
	}
	long := bytes.Clone(line)
	for errors.Is(err, bufio.ErrBufferFull) {
		line, err = c.r.ReadSlice('\n')
		long = append(long, line...)
	}
	return long, err
}

func (s *Server) String() string { return fmt.Sprintf("smtptest server at %s", s.Addr) }
