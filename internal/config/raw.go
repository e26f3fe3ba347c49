package config

import (
	"reflect"
	"time"
)

// val is a value of the file that knows its place.
type val[T any] struct {
	V    T
	set  bool // written, and not null
	bad  bool // what is wrong with it has been said
	at   spot
	path string
}

func (v *val[T]) readNode(d *decoder, n *node, path string) {
	v.at, v.path, v.set = n.spot, path, n.kind != kindNull
	if !v.set && isScalar(reflect.TypeFor[T]()) {
		return // as if it had not been written: what must be there says so
	}
	before := d.p.count
	d.value(n, reflect.ValueOf(&v.V).Elem(), path)
	v.bad = n.kind == kindBad || d.p.count > before
}

func isScalar(t reflect.Type) bool {
	k := t.Kind()
	return k != reflect.Struct && k != reflect.Slice && k != reflect.Map
}

// ok says that there is a value to check.
func (v *val[T]) ok() bool { return v.set && !v.bad }

// missing says that it was left out, which nobody has complained about yet.
func (v *val[T]) missing() bool { return !v.set && !v.bad }

// named is an entry of a mapping whose keys are names, in the order of the file.
type named[T any] struct {
	name val[string]
	val[T]
}

type namedList[T any] []named[T]

func (l *namedList[T]) readNode(d *decoder, n *node, path string) {
	if n.kind == kindNull {
		return
	}
	if n.kind != kindMap {
		d.wrong(n, path, "a mapping of names")
		return
	}
	for _, e := range n.entries {
		below := join(path, e.key.text)
		item := named[T]{name: val[string]{V: e.key.text, set: true, at: e.key.spot, path: below}}
		item.readNode(d, e.value, below)
		if e.value.kind == kindNull {
			item.at = e.key.spot
		}
		*l = append(*l, item)
	}
}

// texts is one text or a list of them.
type texts []val[string]

func (t *texts) readNode(d *decoder, n *node, path string) {
	if n.kind == kindList {
		d.list(n, reflect.ValueOf((*[]val[string])(t)).Elem(), path)
		return
	}
	var one val[string]
	if s, ok := d.scalar(n, path, "text or a list of texts"); ok {
		one = val[string]{V: s, set: true, at: n.spot, path: path}
		*t = texts{one}
	}
}

// subtree is kept as it stands.
type subtree struct {
	n    *node
	path string
}

func (s *subtree) readNode(_ *decoder, n *node, path string) { s.n, s.path = n, path }

type rawFile struct {
	Hostname   val[string]              `yaml:"hostname"`
	Postmaster val[string]              `yaml:"postmaster"`
	Reload     val[string]              `yaml:"reload"`
	DataDir    val[string]              `yaml:"data_dir"`
	TempDir    val[string]              `yaml:"temp_dir"`
	NATS       val[rawNATS]             `yaml:"nats"`
	PKI        val[rawPKI]              `yaml:"pki"`
	Ingress    val[rawIngress]          `yaml:"ingress"`
	Domains    []val[rawDomain]         `yaml:"domains"`
	Relay      []val[rawRelay]          `yaml:"relay"`
	Stages     val[namedList[rawStage]] `yaml:"stages"`
	Chains     val[[]val[rawChain]]     `yaml:"chains"`
	Egress     val[rawEgress]           `yaml:"egress"`
	Routes     val[namedList[rawRoute]] `yaml:"routes"`
	Admin      val[rawAdmin]            `yaml:"admin"`
	Telemetry  val[rawTelemetry]        `yaml:"telemetry"`
}

type rawNATS struct {
	Servers     texts       `yaml:"servers"`
	Credentials val[string] `yaml:"credentials_file"`
	Replicas    val[int]    `yaml:"replicas"`
	Durability  val[string] `yaml:"durability"`
	Monitor     val[string] `yaml:"monitor"`
}

type rawPKI struct {
	Directory val[string] `yaml:"directory"`
}

type rawEgress struct {
	Address val[string] `yaml:"address"`
}

type rawIngress struct {
	Address     val[string]        `yaml:"address"`
	Certificate val[rawKeyPair]    `yaml:"certificate"`
	Listeners   []val[rawListener] `yaml:"listeners"`
	UsersFile   val[string]        `yaml:"users_file"`
	Limits      val[rawLimits]     `yaml:"limits"`
}

type rawKeyPair struct {
	File    val[string] `yaml:"file"`
	KeyFile val[string] `yaml:"key_file"`
}

type rawListener struct {
	Name    val[string] `yaml:"name"`
	Address val[string] `yaml:"address"`
	TLS     val[string] `yaml:"tls"`
	Auth    val[string] `yaml:"auth"`
	Proxy   texts       `yaml:"proxy"`
}

type rawLimits struct {
	MessageSize val[Size] `yaml:"message_size"`
	Recipients  val[int]  `yaml:"recipients"`
	Connections val[int]  `yaml:"connections"`
	InFlight    val[Size] `yaml:"in_flight"`
}

type rawDomain struct {
	Name       val[string]   `yaml:"name"`
	Recipients rawRecipients `yaml:"recipients"`
}

// rawRecipients is any, callout, or {file: …}.
type rawRecipients struct {
	set  bool
	at   spot
	path string
	word string
	file val[string]
}

func (r *rawRecipients) readNode(d *decoder, n *node, path string) {
	r.at, r.path, r.set = n.spot, path, n.kind != kindNull
	if n.kind == kindNull || n.kind == kindBad {
		return
	}
	if n.kind == kindText {
		r.word = n.text
		return
	}
	if n.kind == kindMap && n.find("callout") != nil {
		r.word = "callout"
		return
	}
	if n.kind != kindMap {
		d.wrong(n, path, "any or {file: …}")
		r.file.bad = true
		return
	}
	var raw struct {
		File val[string] `yaml:"file"`
	}
	d.value(n, reflect.ValueOf(&raw).Elem(), path)
	r.file = raw.File
}

type rawRelay struct {
	Name      val[string] `yaml:"name"`
	Networks  texts       `yaml:"networks"`
	Listeners texts       `yaml:"listeners"`
	Auth      val[string] `yaml:"auth"`
	Grants    val[bool]   `yaml:"grants"`
	Senders   texts       `yaml:"senders"`
}

type rawStage struct {
	Type        val[string]        `yaml:"type"`
	Address     val[string]        `yaml:"address"`
	Identity    val[string]        `yaml:"identity"`
	Timeout     val[time.Duration] `yaml:"timeout"`
	ProcessOnly val[bool]          `yaml:"process_only"`
	Traits      val[[]val[string]] `yaml:"traits"`
	Config      subtree            `yaml:"config"`
}

type rawChain struct {
	Name    val[string]        `yaml:"name"`
	Match   val[rawMatch]      `yaml:"match"`
	Stages  val[[]val[rawUse]] `yaml:"stages"`
	Deliver val[string]        `yaml:"deliver"`
}

type rawMatch struct {
	Direction  texts `yaml:"direction"`
	Listener   texts `yaml:"listener"`
	Relay      texts `yaml:"relay"`
	Senders    texts `yaml:"senders"`
	Recipients texts `yaml:"recipients"`
}

// rawUse is the name of a stage, or {use: name, …}.
type rawUse struct {
	Use     val[string]
	OnError val[string]
	Inline  val[bool]
	Shadow  val[bool]
}

func (u *rawUse) readNode(d *decoder, n *node, path string) {
	if n.kind != kindMap {
		u.Use.readNode(d, n, path)
		return
	}
	var raw struct {
		Use     val[string] `yaml:"use"`
		OnError val[string] `yaml:"on_error"`
		Inline  val[bool]   `yaml:"inline"`
		Shadow  val[bool]   `yaml:"shadow"`
	}
	d.value(n, reflect.ValueOf(&raw).Elem(), path)
	*u = rawUse(raw)
}

type rawRoute struct {
	Smarthost val[rawSmarthost] `yaml:"smarthost"`
	MX        val[rawMX]        `yaml:"mx"`
	Maildir   val[rawMaildir]   `yaml:"maildir"`

	tree subtree
}

func (r *rawRoute) readNode(d *decoder, n *node, path string) {
	r.tree = subtree{n, path}
	type fields rawRoute
	d.value(n, reflect.ValueOf((*fields)(r)).Elem(), path)
}

type rawSmarthost struct {
	Address     val[string]  `yaml:"address"`
	TLS         val[string]  `yaml:"tls"`
	Auth        val[rawAuth] `yaml:"auth"`
	CAFile      val[string]  `yaml:"ca_file"`
	ServerName  val[string]  `yaml:"server_name"`
	Fingerprint val[string]  `yaml:"fingerprint"`
	rawOut
}

type rawAuth struct {
	Username     val[string] `yaml:"username"`
	PasswordFile val[string] `yaml:"password_file"`
	PasswordEnv  val[string] `yaml:"password_env"`
	Mechanisms   texts       `yaml:"mechanisms"`
}

type rawMX struct {
	Port     val[int]    `yaml:"port"`
	Resolver val[string] `yaml:"resolver"`
	rawOut
}

type rawOut struct {
	Helo   val[string] `yaml:"helo"`
	Source val[string] `yaml:"source"`
}

type rawMaildir struct {
	Path val[string] `yaml:"path"`
}
