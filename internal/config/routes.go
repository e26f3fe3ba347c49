package config

import (
	"encoding/hex"
	"net/netip"
	"slices"
	"strings"
)

func (b *builder) routeNames() []string {
	var names []string
	for name := range b.c.Routes {
		names = append(names, name)
	}
	return names
}

func (b *builder) routes() {
	for i := range b.raw.Routes.V {
		raw := &b.raw.Routes.V[i]
		b.name(&raw.name)
		r := &Route{Name: raw.name.V}
		b.c.Routes[r.Name] = r
		v := &raw.V
		kinds := 0
		for _, set := range []bool{v.Smarthost.set, v.MX.set, v.Maildir.set} {
			if set {
				kinds++
			}
		}
		if kinds != 1 {
			if !raw.bad {
				b.p.add(raw.name.at, raw.name.path, "needs one of smarthost: {…}, mx: {}, maildir: {…}; it has %d", kinds)
			}
			continue
		}
		if v.Smarthost.set {
			r.Smarthost = b.smarthost(&v.Smarthost)
			b.hashRoute(r, "smarthost", v.tree)
		}
		if v.MX.set {
			r.MX = b.mx(&v.MX.V)
			b.hashRoute(r, "mx", v.tree)
		}
		if v.Maildir.set {
			if v.Maildir.V.Path.missing() {
				b.missing(v.Maildir.at, v.Maildir.path, "path", "")
			}
			r.Maildir = &Maildir{Path: b.path(&v.Maildir.V.Path)}
			b.hashRoute(r, "maildir", v.tree)
		}
	}
}

func (b *builder) hashRoute(r *Route, typ string, tree subtree) {
	n := tree.n.find(typ)
	if n == nil || hasBad(n) {
		return
	}
	var err error
	if r.Hash, err = Hash(typ, n.plain()); err != nil {
		b.p.add(n.spot, join(tree.path, typ), "%v", err)
	}
}

func (b *builder) smarthost(raw *val[rawSmarthost]) *Smarthost {
	v := &raw.V
	s := &Smarthost{
		Address: v.Address.V,
		TLS:     TLSMode(b.oneOf(&v.TLS, "required", "none", "opportunistic", "required", "implicit")),
		Out:     b.out(&v.rawOut),
	}
	if v.Address.missing() {
		b.missing(raw.at, raw.path, "address", ": host:port")
	} else if v.Address.ok() {
		if host, _, err := hostPort(v.Address.V, 1); err != nil {
			b.p.add(v.Address.at, v.Address.path, "%v", err)
		} else if host == "" {
			b.p.add(v.Address.at, v.Address.path, "%q names no host", v.Address.V)
		}
	}
	verified := s.TLS == TLSRequired || s.TLS == TLSImplicit
	for _, f := range []*val[string]{&v.CAFile, &v.ServerName, &v.Fingerprint} {
		if f.set && !verified {
			b.p.add(f.at, f.path, "has no meaning with tls: %s, where no certificate is verified", s.TLS)
		}
	}
	s.CAFile = b.file(&v.CAFile, "egress")
	if v.ServerName.ok() {
		var err error
		if s.ServerName, err = hostName(v.ServerName.V); err != nil {
			b.p.add(v.ServerName.at, v.ServerName.path, "%v", err)
		}
	}
	if f := &v.Fingerprint; f.ok() {
		s.Fingerprint = strings.ToLower(strings.ReplaceAll(f.V, ":", ""))
		if raw, err := hex.DecodeString(s.Fingerprint); err != nil || len(raw) != 32 {
			b.p.add(f.at, f.path, "is not the SHA-256 of a certificate: 64 hexadecimal digits")
		}
	}
	if v.Auth.set {
		s.Auth = b.auth(&v.Auth)
		if !verified {
			b.p.add(v.Auth.at, v.Auth.path, "a password needs TLS with a verified certificate: set tls to required or implicit, not %s", s.TLS)
		}
	}
	return s
}

func (b *builder) auth(raw *val[rawAuth]) *Auth {
	v := &raw.V
	a := &Auth{Username: v.Username.V, PasswordEnv: v.PasswordEnv.V}
	b.plainText(&v.Username)
	switch {
	case v.Username.missing():
		b.missing(raw.at, raw.path, "username", "")
	case v.Username.ok() && v.Username.V == "":
		b.p.add(v.Username.at, v.Username.path, "is empty")
	}
	switch file, env := &v.PasswordFile, &v.PasswordEnv; {
	case file.set && env.set:
		b.p.add(env.at, env.path, "stands beside password_file: choose one")
	case file.missing() && env.missing():
		if !raw.bad {
			b.missing(raw.at, raw.path, "password_file", ", and so is password_env")
		}
	case env.ok():
		if password, _ := b.o.Getenv(env.V); env.V == "" || strings.ContainsAny(env.V, "=\x00") {
			b.p.add(env.at, env.path, "%q is not the name of an environment variable", env.V)
		} else if b.wants("egress") && password == "" {
			b.p.add(env.at, env.path, "the environment variable %s is not set, or empty", env.V)
		}
	}
	a.PasswordFile = b.secret(&v.PasswordFile, "egress")
	for i := range v.Mechanisms {
		m := &v.Mechanisms[i]
		known := []string{"CRAM-MD5", "PLAIN", "LOGIN"}
		if !m.ok() {
			continue
		}
		m.V = strings.ToUpper(m.V)
		if name := b.oneOf(m, "", known...); name != "" && !slices.Contains(a.Mechanisms, name) {
			a.Mechanisms = append(a.Mechanisms, name)
		}
	}
	return a
}

func (b *builder) mx(v *rawMX) *MX {
	m := &MX{Port: b.count(&v.Port, 25, 1, 65535), Resolver: v.Resolver.V, Out: b.out(&v.rawOut)}
	if r := &v.Resolver; r.ok() {
		if host, _, err := hostPort(r.V, 1); err != nil {
			b.p.add(r.at, r.path, "%v", err)
		} else if _, err := netip.ParseAddr(host); err != nil {
			b.p.add(r.at, r.path, "%q is not an IP address: a resolver cannot be looked up", host)
		}
	}
	return m
}

func (b *builder) out(v *rawOut) Out {
	var o Out
	if v.Helo.ok() {
		var err error
		if o.Helo, err = hostName(v.Helo.V); err != nil {
			b.p.add(v.Helo.at, v.Helo.path, "%v", err)
		}
	}
	if v.Source.ok() {
		a, err := netip.ParseAddr(v.Source.V)
		if err != nil || a.IsUnspecified() || a.IsMulticast() {
			b.p.add(v.Source.at, v.Source.path, "%q is not an IP address of this machine", v.Source.V)
		}
		o.Source = a
	}
	return o
}
