package smtpd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/emersion/go-smtp"

	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/guard"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/policy"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/tally"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/users"
)

// Options are what a Server works with. Policy, Users, Intake and Logger are required.
type Options struct {
	Policy *policy.Policy
	Users  *users.Store
	Intake Intake
	// Logger is the mail log: one line for each event of a message or login.
	Logger *slog.Logger
	// Now is the clock; time.Now if nil.
	Now func() time.Time
	// Sleep waits after a failed login, or until ctx is done; a timer if nil.
	Sleep func(ctx context.Context, d time.Duration)
	// OnLoop hears of messages that go in a circle; it must not block. May be nil.
	OnLoop func(Loop)
	// Tally counts; nil: nobody does.
	Tally *tally.Tally
	// Limits bound lines, commands and times of a connection; a zero takes the default of package guard.
	Limits guard.Limits

	// patience is how long a stranger may be idle before it can be asked to make room; for tests.
	patience time.Duration
}

// Server accepts mail. Make one with New, end it with Shutdown.
type Server struct {
	opts  Options
	smtp  *smtp.Server
	feed  *feed
	certs *certificates
	cfg   atomic.Pointer[config.Config]

	ctx    context.Context
	cancel context.CancelFunc
	served sync.WaitGroup // accept loops
	conns  sync.WaitGroup // connections

	proxied chan struct{} // connections of proxies that have not named their client

	mu        sync.Mutex
	closing   bool
	drained   bool
	library   bool // go-smtp's loop runs
	listeners map[net.Listener]struct{}
	sessions  map[*session]struct{}
	going     int            // of the sessions, those that were asked to make room
	strangers map[string]int // connections by client, of those that no relay rule knows
}

// New makes a server for cfg. It fails if certificate files are named but cannot be read. The policy and the users are
// already those of cfg.
func New(cfg *config.Config, opts Options) (*Server, error) {
	if opts.Policy == nil || opts.Users == nil || opts.Intake == nil || opts.Logger == nil {
		return nil, errors.New("smtpd: policy, users, intake and logger are required")
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Sleep == nil {
		opts.Sleep = sleep
	}
	if opts.patience == 0 {
		opts.patience = defaultPatience
	}
	s := &Server{
		opts:      opts,
		feed:      newFeed(),
		proxied:   make(chan struct{}, proxying),
		listeners: map[net.Listener]struct{}{},
		sessions:  map[*session]struct{}{},
		strangers: map[string]int{},
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.certs = &certificates{logger: opts.Logger, now: opts.Now}
	if err := s.certs.use(cfg); err != nil {
		return nil, err
	}
	s.cfg.Store(cfg)
	s.smtp = smtp.NewServer(smtp.BackendFunc(newSession))
	s.smtp.Domain = cfg.Hostname
	s.smtp.MaxLineLength = 0 // the guard's
	s.smtp.AllowInsecureAuth = true
	s.smtp.ErrorLog = libraryLog{opts.Logger}
	return s, nil
}

// newSession gives go-smtp the session that exists since the connection was accepted.
func newSession(c *smtp.Conn) (smtp.Session, error) {
	g, ok := c.Conn().(*guard.Conn)
	if !ok {
		return nil, fmt.Errorf("smtpd: connection is a %T", c.Conn())
	}
	s, ok := g.Handler().(*session)
	if !ok {
		return nil, fmt.Errorf("smtpd: handler is a %T", g.Handler())
	}
	return s, nil
}

// UpdateConfig puts cfg in force for transactions that begin from now on, with its policy, users file and
// certificate; for connections from now on its limits and its listeners' settings. After an error nothing has changed.
// Addresses of listeners are the caller's: it opens new ones and gives them to Serve, and closes those that are gone.
func (s *Server) UpdateConfig(cfg *config.Config) error {
	view, err := s.opts.Policy.Prepare(cfg)
	if err != nil {
		return err
	}
	if err := s.certs.check(cfg); err != nil {
		return err
	}
	if err := s.opts.Users.SetPath(cfg.Ingress.UsersFile); err != nil {
		return err
	}
	if err := s.certs.use(cfg); err != nil {
		return err
	}
	s.opts.Policy.Use(view)
	s.cfg.Store(cfg)
	return nil
}

// Serve accepts connections on the listeners, each under the name of a listener of the configuration, until they are
// closed, by Shutdown or by the caller. It may be called again with others. It returns nil after Shutdown.
func (s *Server) Serve(listeners map[string]net.Listener) error {
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		for _, l := range listeners {
			_ = l.Close()
		}
		return nil
	}
	for _, l := range listeners {
		s.listeners[l] = struct{}{}
	}
	s.served.Add(len(listeners))
	if !s.library {
		s.library = true
		s.served.Add(1)
		go func() {
			defer s.served.Done()
			if err := s.smtp.Serve(s.feed); err != nil && !errors.Is(err, net.ErrClosed) {
				s.opts.Logger.Error("smtp library stopped", "error", err)
			}
		}()
	}
	s.mu.Unlock()

	errs := make(chan error, len(listeners))
	for name, l := range listeners {
		go func() {
			defer s.served.Done()
			errs <- s.accept(name, l)
		}()
	}
	var all []error
	for range listeners {
		all = append(all, <-errs)
	}
	return errors.Join(all...)
}

// Shutdown stops accepting, closes sessions that wait for a command with 421, and lets those that receive a message
// finish it. When ctx is done what is left is cut, and ctx's error returned.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.closing = true
	for l := range s.listeners {
		_ = l.Close()
	}
	for one := range s.sessions {
		one.leave(&mail.Reply{Code: 421, Enhanced: "4.3.2", Text: "shutting down"})
	}
	s.mu.Unlock()

	done := make(chan struct{})
	go func() {
		defer close(done)
		s.conns.Wait()
	}()
	var err error
	select {
	case <-done:
	case <-ctx.Done():
		err = ctx.Err()
		s.cancel()
		s.mu.Lock()
		for one := range s.sessions {
			one.guard.Kill()
		}
		s.mu.Unlock()
		<-done
	}
	s.cancel()
	_ = s.feed.Close()
	if stop := s.smtp.Shutdown(context.WithoutCancel(ctx)); stop != nil && !errors.Is(stop, smtp.ErrServerClosed) && err == nil {
		err = stop
	}
	s.served.Wait()
	return err
}

// Connections is the number of connections now.
func (s *Server) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sessions)
}

func (s *Server) tlsFor(l *config.Listener) *tls.Config {
	if l.TLS != config.ListenerSTARTTLS && l.TLS != config.ListenerImplicit {
		return nil
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: s.certs.get}
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// libraryLog is go-smtp's log: panics, and connections that broke.
type libraryLog struct{ logger *slog.Logger }

func (l libraryLog) Printf(format string, v ...any) {
	l.logger.Error("smtp library", "message", fmt.Sprintf(format, v...))
}

func (l libraryLog) Println(v ...any) { l.logger.Error("smtp library", "message", fmt.Sprint(v...)) }
