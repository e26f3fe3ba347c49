package config

import (
	"net/netip"
	"time"

	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/stage"
)

// Config is one configuration file, read and checked. It is immutable.
type Config struct {
	Hostname   string
	Postmaster mail.Address // zero if not set
	DataDir    string       // absolute
	TempDir    string       // absolute
	NATS       NATS
	PKI        *PKI // nil: no mTLS (one process, or loopback only)
	Ingress    Ingress
	Domains    []Domain
	Relay      []RelayRule
	Stages     map[string]*Stage
	Chains     []*Chain // in the order of the file: the first match wins
	Egress     Endpoint
	Routes     map[string]*Route
	Admin      Admin
	Telemetry  Telemetry

	// Dir is the folder of the file: relative paths start here.
	Dir string
	// Revision is the SHA-256 (hex) of the file's bytes.
	Revision string
	// Watch: a changed file is picked up while the services run (reload: watch).
	Watch bool
	// Warnings are what is allowed but worth a line in the log at start.
	Warnings Errors
}

// NATS says where the log is kept in separate processes; under `up` it is embedded and this is ignored.
type NATS struct {
	Servers         []string
	CredentialsFile string
	// Replicas of every stream: 1 or 3.
	Replicas int
	// Assumed is durability: assumed: the operator vouches that the server fsyncs before it acknowledges.
	Assumed bool
	// Monitor is the http address of the server's monitor, by which durability is checked; may be empty.
	Monitor string
}

// PKI is a directory with ca.pem and, per service type, <type>.pem and <type>-key.pem.
type PKI struct{ Directory string }

// Endpoint is a gRPC address that is dialled by others, and whose port is listened on; empty within one process.
type Endpoint struct{ Address string }

// KeyPair are PEM files for a certificate with its chain, and its key.
type KeyPair struct{ File, KeyFile string }

// Ingress configures the SMTP side that accepts.
type Ingress struct {
	Endpoint
	Certificate KeyPair // zero: none
	Listeners   []Listener
	// UsersFile is the absolute path of the users file, or empty.
	UsersFile string
	Limits    Limits
}

// ListenerTLS is how a listener speaks TLS.
type ListenerTLS string

// The ways of a listener to speak TLS.
const (
	ListenerPlain    ListenerTLS = "none"
	ListenerSTARTTLS ListenerTLS = "starttls"
	ListenerImplicit ListenerTLS = "implicit"
)

// Listener is one SMTP port.
type Listener struct {
	Name    string
	Address string // host:port
	TLS     ListenerTLS
	// AuthRequired: no MAIL without AUTH.
	AuthRequired bool
	// Proxy are the networks of proxies, which must begin a connection with the PROXY protocol: the client is the one that
	// they name. Nobody else is listened to in that.
	Proxy []netip.Prefix
}

// Limits bound what one client or message may cost.
type Limits struct {
	MessageSize int64 // bytes
	Recipients  int   // per transaction
	// Connections at once, over all listeners.
	Connections int
	// InFlight bounds the bytes of messages under way at this ingress.
	InFlight int64
}

// Domain is one of ours.
type Domain struct {
	Name string // lower case, A-labels
	// Any accepts every local part; else Recipients lists the local parts (or full addresses), read from File.
	Any  bool
	File string
}

// RelayRule lets a client send to the outside. Its conditions are ANDed.
type RelayRule struct {
	Name      string
	Networks  []netip.Prefix
	Listeners []string
	Auth      bool
	// Grants: an address that an operator has granted leave to, for a time, satisfies the rule as one of Networks does.
	Grants bool
	// Senders are patterns ("*@example.com", "user@example.com", "@example.com") that narrow the rule.
	Senders []string
}

// Stage is one configured stage instance.
type Stage struct {
	Name     string
	Type     string
	Address  string // gRPC; empty within one process
	Identity string // name the certificate must bear; Type if empty
	Timeout  time.Duration
	// ProcessOnly: the service has no RelayService (a stage in another language).
	ProcessOnly bool
	Traits      stage.Traits
	// Hash of type and config as written; empty for a foreign stage without config.
	Hash string
	// Decoded is what the type's factory made of the config; nil where the factory is not linked in.
	Decoded any
}

// Chain is an itinerary for the recipients that its match takes.
type Chain struct {
	Name    string
	Match   Match
	Stages  []Use
	Deliver string // name of the route
}

// Use is one stage of a chain.
type Use struct {
	Stage  *Stage
	Inline bool
	Shadow bool
	// OnError is "defer", "skip" or "quarantine".
	OnError string
}

// Match are ANDed conditions, each a list of which one must hold; an empty list holds always.
type Match struct {
	Direction  []mail.Direction
	Listener   []string
	Relay      []string
	Senders    []string // patterns
	Recipients []string // patterns
}

// Route is one way out; exactly one of Smarthost, MX and Maildir is set.
type Route struct {
	Name      string
	Hash      string
	Smarthost *Smarthost
	MX        *MX
	Maildir   *Maildir
}

// TLSMode is how egress speaks TLS to a smarthost.
type TLSMode string

// The TLS modes of a smarthost route.
const (
	TLSNone          TLSMode = "none"
	TLSOpportunistic TLSMode = "opportunistic" // STARTTLS if offered, certificate not verified
	TLSRequired      TLSMode = "required"      // STARTTLS or nothing, verified
	TLSImplicit      TLSMode = "implicit"      // TLS from the first byte, verified
)

// Smarthost relays everything through one host.
type Smarthost struct {
	Address string // host:port
	TLS     TLSMode
	Auth    *Auth
	// CAFile are extra roots; ServerName overrides the name that is verified; Fingerprint pins SHA-256 of the certificate (hex).
	CAFile, ServerName, Fingerprint string
	Out
}

// Auth is the login at a smarthost.
type Auth struct {
	Username string
	// PasswordFile is read at each new connection, so a corrected password takes effect by itself.
	PasswordFile string
	// PasswordEnv names an environment variable instead.
	PasswordEnv string
	// Mechanisms allowed, in order of preference; empty: CRAM-MD5, PLAIN, LOGIN as offered.
	Mechanisms []string
}

// MX delivers directly to the recipients' domains.
type MX struct {
	// Port is 25 unless a test says otherwise.
	Port int
	// Resolver is the host:port of a DNS server; empty: the system's.
	Resolver string
	Out
}

// Out is what SMTP routes have in common.
type Out struct {
	// Helo is the name given in EHLO; the hostname if empty.
	Helo string
	// Source is the local address connected from; zero: the system's choice.
	Source netip.Addr
}

// Maildir delivers into a folder of this machine.
type Maildir struct{ Path string }
