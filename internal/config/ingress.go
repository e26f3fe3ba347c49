package config

import (
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
)

// What limits default to, and where they end.
const (
	DefaultMessageSize = 50_000_000
	// MaxMessageSize: a body is kept in chunks of 1 MiB in the log and once in a temporary file.
	MaxMessageSize = 1_000_000_000
	// MinMessageSize is what RFC 5321, section 4.5.3.1.7, has every server take.
	MinMessageSize = 64_000

	DefaultRecipients = 1000
	// MaxRecipients keeps the accepted entry, with the longest addresses, below its 2 MB.
	MaxRecipients = 2000
	// MinRecipients is what RFC 5321, section 4.5.3.1.8, has every server take.
	MinRecipients = 100

	DefaultConnections = 1000
	MaxConnections     = 100_000

	DefaultInFlight = 1_000_000_000
)

func (b *builder) ingress() {
	raw, in := &b.raw.Ingress.V, &b.c.Ingress
	in.Address = b.service(&raw.Address)
	b.certificate()
	in.UsersFile = b.usersFile()
	b.limits()
	if len(raw.Listeners) == 0 && !b.raw.Ingress.bad {
		at := b.root
		if b.raw.Ingress.set {
			at = b.raw.Ingress.at
		}
		b.missing(at, "ingress", "listeners", ": nothing would be listened on")
	}
	names := map[string]spot{}
	for i := range raw.Listeners {
		b.listener(&raw.Listeners[i], names)
	}
}

func (b *builder) certificate() {
	b.c.Ingress.Certificate = b.keyPair(&b.raw.Ingress.V.Certificate, "ingress")
}

// keyPair are the files of a certificate and its key, which a service reads.
func (b *builder) keyPair(raw *val[rawKeyPair], service string) KeyPair {
	if !raw.set {
		return KeyPair{}
	}
	file, key := &raw.V.File, &raw.V.KeyFile
	if file.missing() {
		b.missing(raw.at, raw.path, "file", "")
	}
	if key.missing() {
		b.missing(raw.at, raw.path, "key_file", "")
	}
	return KeyPair{File: b.file(file, service), KeyFile: b.secret(key, service)}
}

func (b *builder) limits() {
	raw, l := &b.raw.Ingress.V.Limits.V, &b.c.Ingress.Limits
	l.MessageSize = b.size(&raw.MessageSize, DefaultMessageSize, MinMessageSize, MaxMessageSize)
	l.Recipients = b.count(&raw.Recipients, DefaultRecipients, MinRecipients, MaxRecipients)
	l.Connections = b.count(&raw.Connections, DefaultConnections, 1, MaxConnections)
	// Half of what is under way is reserved for relay clients, so each half takes one message of the largest size.
	l.InFlight = b.size(&raw.InFlight, max(DefaultInFlight, 2*l.MessageSize), 2*l.MessageSize, 1<<40)
}

func (b *builder) size(v *val[Size], otherwise, least, most int64) int64 {
	if !v.ok() {
		return otherwise
	}
	if n := int64(v.V); n < least || n > most {
		b.p.add(v.at, v.path, "must be between %v and %v", Size(least), Size(most))
		return otherwise
	}
	return int64(v.V)
}

func (b *builder) count(v *val[int], otherwise, least, most int) int {
	if !v.ok() {
		return otherwise
	}
	if v.V < least || v.V > most {
		b.p.add(v.at, v.path, "must be between %d and %d", least, most)
		return otherwise
	}
	return v.V
}

func (b *builder) listener(raw *val[rawListener], names map[string]spot) {
	l := Listener{
		Name:         raw.V.Name.V,
		Address:      raw.V.Address.V,
		TLS:          ListenerTLS(b.oneOf(&raw.V.TLS, "starttls", "none", "starttls", "implicit")),
		AuthRequired: b.oneOf(&raw.V.Auth, "", "required") == "required",
	}
	if raw.V.Name.missing() {
		b.missing(raw.at, raw.path, "name", "")
	} else if b.name(&raw.V.Name) {
		b.unique(names, &raw.V.Name, "listener")
	}
	address := &raw.V.Address
	if address.missing() {
		b.missing(raw.at, raw.path, "address", "")
	}
	if address.ok() {
		if _, _, err := hostPort(address.V, 0); err != nil {
			b.p.add(address.at, address.path, "%v", err)
			address.bad = true
		}
	}
	if address.ok() {
		i := slices.IndexFunc(b.c.Ingress.Listeners, func(o Listener) bool { return collide(o.Address, l.Address) })
		if i >= 0 {
			b.p.add(address.at, address.path, "listener %s has this port already", b.c.Ingress.Listeners[i].Name)
		}
		if l.TLS == ListenerPlain && !l.loopback() {
			b.p.add(raw.V.TLS.at, raw.V.TLS.path, "only a loopback address may do without TLS; "+
				"a listener with starttls serves clients that cannot speak it, too")
		}
	}
	if l.AuthRequired {
		if l.TLS == ListenerPlain {
			b.p.add(raw.V.Auth.at, raw.V.Auth.path, "passwords need TLS: set tls to starttls or implicit")
		}
		if !b.raw.Ingress.V.UsersFile.set {
			b.p.add(raw.V.Auth.at, raw.V.Auth.path, "there is nobody to log in: ingress.users_file is missing")
		}
	}
	l.Proxy = b.proxies(raw.V.Proxy)
	b.c.Ingress.Listeners = append(b.c.Ingress.Listeners, l)
}

// proxies are networks whose word for the address of a client is taken: who can connect from there can be anybody.
func (b *builder) proxies(list texts) []netip.Prefix {
	var out []netip.Prefix
	gateways := Gateways{}
	if len(list) > 0 && b.wants("ingress") {
		gateways = b.o.Gateways()
	}
	for i := range list {
		v := &list[i]
		p, ok := b.prefix(v)
		switch {
		case !ok:
		case everybody(p) != "":
			b.p.add(v.at, v.path, "%s %s: anybody could give himself any address; name the proxy's own", v.V, everybody(p))
		case gateways.in(p):
			b.p.add(v.at, v.path, "%s holds %s: clients from anywhere can appear under a container's gateway, and give themselves any address; name the proxy's own", v.V, gateways)
		default:
			out = append(out, p)
		}
	}
	return out
}

// loopback says that only this machine reaches the listener.
func (l Listener) loopback() bool {
	host, _, err := net.SplitHostPort(l.Address)
	return err == nil && loopback(host)
}

// collide says that two addresses cannot be listened on together. Port 0 is one that the system chooses.
func collide(a, b string) bool {
	hostA, portA, errA := net.SplitHostPort(a)
	hostB, portB, errB := net.SplitHostPort(b)
	if errA != nil || errB != nil || portA != portB || portA == "0" {
		return false
	}
	return hostA == hostB || wildcard(hostA) || wildcard(hostB)
}

func wildcard(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "" || err == nil && a.IsUnspecified()
}

// public: who can be reached from elsewhere has a name, and somebody to write to (RFC 5321, section 4.5.1).
func (b *builder) public() {
	i := slices.IndexFunc(b.c.Ingress.Listeners, func(l Listener) bool { return l.Address != "" && !l.loopback() })
	if i < 0 {
		return
	}
	why := ": listener " + b.c.Ingress.Listeners[i].Name + " can be reached from other machines"
	if b.raw.Hostname.missing() {
		b.missing(b.root, "", "hostname", why)
	}
	if b.raw.Postmaster.missing() {
		b.missing(b.root, "", "postmaster", why)
	}
}

// usersFile has to be there: without it every login would fail as if the password were wrong, and a mistyped path would
// look like that as well.
func (b *builder) usersFile() string {
	v := &b.raw.Ingress.V.UsersFile
	path := b.path(v)
	if path == "" || !b.wants("ingress") {
		return path
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		b.p.add(v.at, v.path, "%s: there is no such file; make it with its first user: stagecoach user add NAME --file %s", path, path)
		return path
	}
	return b.file(v, "ingress")
}
