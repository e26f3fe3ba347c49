package policy

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/mail"
)

// Self is the relay rule under which our own reports go.
const Self = "self"

// Options of a Policy.
type Options struct {
	// Logger hears of recipients files that cannot be read again.
	Logger *slog.Logger
	// Now is the clock.
	Now func() time.Time
	// Granted says that an operator has granted the client leave to use the relay rule, which takes grants. It is asked at
	// each MAIL. Nil: nobody is granted anything.
	Granted func(rule string, client netip.Addr) bool
	// Secret is the key of the installation: at least 16 octets, the same at every ingress. Tokens in Received fields
	// are made with a key derived from it.
	Secret []byte
}

// Policy is the policy now in force. It is safe for concurrent use.
type Policy struct {
	opts Options
	key  []byte
	view atomic.Pointer[View]
}

// New makes the policy of cfg.
func New(cfg *config.Config, opts Options) (*Policy, error) {
	if len(opts.Secret) < 16 {
		return nil, errors.New("policy: the secret has less than 16 octets")
	}
	p := &Policy{opts: opts, key: deriveKey(opts.Secret)}
	if err := p.Update(cfg); err != nil {
		return nil, err
	}
	return p, nil
}

// Update puts cfg in force; after an error the former one stays.
func (p *Policy) Update(cfg *config.Config) error {
	v, err := p.Prepare(cfg)
	if err != nil {
		return err
	}
	p.view.Store(v)
	return nil
}

// Prepare reads what cfg needs, without putting it in force; Use does that.
func (p *Policy) Prepare(cfg *config.Config) (*View, error) { return newView(cfg, p.opts) }

// Use puts a View in force.
func (p *Policy) Use(v *View) { p.view.Store(v) }

// View is the policy of the configuration now in force.
func (p *Policy) View() *View { return p.view.Load() }

// Match is View.Match of the configuration now in force.
func (p *Policy) Match(env *mail.Envelope, rcpt mail.Recipient) (chain *config.Chain, ok bool) {
	return p.View().Match(env, rcpt)
}

// View is the policy of one configuration.
type View struct {
	cfg     *config.Config
	domains map[string]*domain // by lower case name
	rules   []rule
	chains  []chainMatch
}

// Config is the configuration.
func (v *View) Config() *config.Config { return v.cfg }

func newView(cfg *config.Config, opts Options) (*View, error) {
	v := &View{cfg: cfg, domains: map[string]*domain{}}
	var errs []error
	for _, d := range cfg.Domains {
		one, err := newDomain(d, opts)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		v.domains[strings.ToLower(d.Name)] = one
	}
	for _, r := range cfg.Relay {
		one, err := newRule(r, opts.Granted)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		v.rules = append(v.rules, one)
	}
	for _, c := range cfg.Chains {
		one, err := newChainMatch(c)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		v.chains = append(v.chains, one)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	return v, nil
}

// Ours says that the domain is one of ours.
func (v *View) Ours(name string) bool { return v.domains[strings.ToLower(name)] != nil }

func patterns(where string, in []string) ([]mail.Pattern, error) {
	var out []mail.Pattern
	for _, s := range in {
		p, err := mail.ParsePattern(s)
		if err != nil {
			return nil, fmt.Errorf("%s: pattern %q: %w", where, s, err)
		}
		out = append(out, p)
	}
	return out, nil
}

func matchAny(ps []mail.Pattern, a mail.Address) bool {
	for _, p := range ps {
		if p.Match(a) {
			return true
		}
	}
	return false
}

// everybody says that a network is so wide that it means anyone, also when written as IPv4 within IPv6.
func everybody(p netip.Prefix) bool {
	switch {
	case p.Addr().Is4():
		return p.Bits() < 8
	case p.Addr().Is4In6():
		return p.Bits() < 96+8
	}
	return p.Bits() < 16
}
